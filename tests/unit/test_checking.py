"""What a check says: the rule, the place, who breaks, against which version, and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from gatelog.core.errors import IncompatibleSchemaError, SchemaError
from gatelog.schemas.checking import Version, check_all, check_subject, problems
from gatelog.schemas.compatibility import Rule
from gatelog.schemas.difference import changes
from gatelog.schemas.findings import Breaks, Finding, Severity
from gatelog.schemas.lint import LintRule, lint
from gatelog.schemas.located import Place, loads, read
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import Compatibility
from gatelog.testing.registry import MemoryRegistry

NEW, OLD = Breaks.NEW_READERS, Breaks.OLD_READERS
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def record(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {"type": "record", "name": "Placed", **more, "fields": list(fields)}


def field(name: str, of: Any = "string", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {"name": name, "type": of, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {"type": "enum", "name": "State", "symbols": list(symbols), **more}


def fixed(size: int) -> dict[str, Any]:
    return {"type": "fixed", "name": "Digest", "size": size}


def money(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def check(
    old: dict[str, Any], new: dict[str, Any], level: Compatibility = Compatibility.FULL
) -> set[tuple[Breaks | None, str, str]]:
    found = check_subject("Placed", new, [Version("main", old)], level)
    return {(each.breaks, each.rule, each.path) for each in found}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (field("a"), field("b"), {(NEW, Rule.READER_FIELD_MISSING_DEFAULT_VALUE, "Placed.b"),
                                  (OLD, Rule.READER_FIELD_MISSING_DEFAULT_VALUE, "Placed.a")}),
        (field("a"), field("b", aliases=["a"]), {(OLD, Rule.READER_FIELD_MISSING_DEFAULT_VALUE, "Placed.a")}),
        (field("a"), field("a", "int"),
         {(NEW, Rule.TYPE_MISMATCH, "Placed.a"), (OLD, Rule.TYPE_MISMATCH, "Placed.a")}),
        (field("a", "int"), field("a", "long"), {(OLD, Rule.TYPE_MISMATCH, "Placed.a")}),
        (field("a", enum("A")), field("a", enum("A", "B")), {(OLD, Rule.MISSING_ENUM_SYMBOLS, "Placed.a")}),
        (field("a", enum("A", default="A")), field("a", enum("A", "B")), set()),
        (field("a", enum("A", "B")), field("a", enum("A")), {(NEW, Rule.MISSING_ENUM_SYMBOLS, "Placed.a")}),
        (field("a", ["null", "int"]), field("a", ["null", "string"]),
         {(NEW, Rule.MISSING_UNION_BRANCH, "Placed.a"), (OLD, Rule.MISSING_UNION_BRANCH, "Placed.a")}),
        (field("a", fixed(4)), field("a", fixed(5)),
         {(NEW, Rule.FIXED_SIZE_MISMATCH, "Placed.a"), (OLD, Rule.FIXED_SIZE_MISMATCH, "Placed.a")}),
        (field("a", {"type": "array", "items": "long"}), field("a", {"type": "array", "items": "int"}),
         {(NEW, Rule.TYPE_MISMATCH, "Placed.a[]")}),
        (field("a", {"type": "map", "values": "long"}), field("a", {"type": "map", "values": "int"}),
         {(NEW, Rule.TYPE_MISMATCH, "Placed.a{}")}),
        (field("a", MILLIS), field("a", MICROS),
         {(NEW, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a"), (OLD, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a")}),
        (field("a", "long"), field("a", MICROS),
         {(NEW, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a"), (OLD, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a")}),
        (field("a", money(9, 2)), field("a", money(12, 2)), {(OLD, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a")}),
        (field("a", money(9, 2)), field("a", money(9, 3)),
         {(NEW, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a"), (OLD, Rule.LOGICAL_TYPE_MISMATCH, "Placed.a")}),
        (field("a", "bytes"), field("a", "string"), {(NEW, Rule.BYTES_READ_AS_TEXT, "Placed.a")}),
    ],
)  # fmt: skip
def test_each_rule_and_who_breaks(
    old: dict[str, Any], new: dict[str, Any], found: set[tuple[Breaks, Rule, str]]
) -> None:
    assert check(record(old), record(new)) == found
    backward = {each for each in found if each[0] is NEW}
    assert check(record(old), record(new), Compatibility.BACKWARD) == backward
    assert check(record(old), record(new), Compatibility.FORWARD) == found - backward
    assert check(record(old), record(new), Compatibility.NONE) == set()


def test_a_type_within_a_union_says_what_is_wrong_within() -> None:
    line = {"type": "record", "name": "Line", "fields": [field("sku")]}
    longer = {**line, "fields": [field("sku"), field("count", "int")]}
    found = check(
        record(field("line", ["null", line])), record(field("line", ["null", longer])), Compatibility.BACKWARD
    )
    assert found == {(NEW, Rule.READER_FIELD_MISSING_DEFAULT_VALUE, "Placed.line.count")}


def test_recursive_types_are_compared_once() -> None:
    old = record(field("next", ["null", "Placed"]), field("a"))
    assert check(old, record(field("next", ["null", "Placed"]), field("a", "int")), Compatibility.BACKWARD) == {
        (NEW, Rule.TYPE_MISMATCH, "Placed.a")
    }


def test_transitive_levels_look_at_all_versions_the_others_at_the_last() -> None:
    versions = [Version("version 1", record(field("a"), field("b"))), Version("version 2", record(field("a")))]
    new = record(field("a"), field("b", "int", default=0))
    assert check_subject("Placed", new, versions, Compatibility.BACKWARD) == []
    (found,) = check_subject("Placed", new, versions, Compatibility.BACKWARD_TRANSITIVE)
    assert (found.rule, found.path, found.against) == (Rule.TYPE_MISMATCH, "Placed.b", "version 1")


def test_a_mismatch_with_many_versions_is_told_once_for_the_newest() -> None:
    versions = [Version(f"version {number}", record(field("a", "int"))) for number in (1, 2, 3)]
    versions[1] = Version("version 2", record(field("a", "int"), field("x", default="")))
    (found,) = check_subject("Placed", record(field("a")), versions, Compatibility.BACKWARD_TRANSITIVE)
    assert found.against == "version 3"


def test_findings_point_to_the_line_of_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "placed.avsc"
    path.write_text(json.dumps(record(field("a"), field("kept"), field("new")), indent=1), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    old = record(field("gone"), field("kept"), field("a", "int"))
    places = {
        each.path: each.place
        for each in check_subject("Placed", read(path), [Version("main", old)], Compatibility.FULL)
    }
    line_of = {name: lines.index(f'   "name": "{name}",') for name in ("a", "new")}  # the brace is one line above
    assert places == {
        "Placed.a": Place(str(path), line_of["a"]),
        "Placed.new": Place(str(path), line_of["new"]),
        "Placed.gone": Place(str(path), 1),  # what is missing has no line; the record has
    }


def test_every_rule_says_what_to_do() -> None:
    old = record(field("a", enum("A", "B")), field("b"))
    found = check_subject("Placed", record(field("a", enum("A", "C"))), [Version("main", old)], Compatibility.FULL)
    advice = {(each.breaks, each.rule): each.advice for each in found}
    assert "Keep B in the enum" in advice[NEW, Rule.MISSING_ENUM_SYMBOLS]
    assert "First give the enum a default" in advice[OLD, Rule.MISSING_ENUM_SYMBOLS]
    assert "Keep b: earlier versions demand it" in advice[OLD, Rule.READER_FIELD_MISSING_DEFAULT_VALUE]


def test_a_subject_that_is_gone_is_found_unless_nothing_is_asked() -> None:
    levels = {"Placed": Compatibility.BACKWARD, "Quiet": Compatibility.NONE, "Gone": Compatibility.BACKWARD}
    removed = {"Gone": "main", "Quiet": "main"}
    found: list[Finding] = check_all({"Placed": record()}, {}, levels, removed=removed)
    assert [(each.subject, each.rule) for each in found] == [("Gone", Rule.SUBJECT_REMOVED)]


def test_what_an_upcaster_takes_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes version 2, and version 1 read as version 2; not version 3, and not what old readers miss."""
    monkeypatch.setattr("gatelog.schemas.checking.steps_of", lambda _subject: {2: None})
    old = record(field("a"))
    for number, severity in ((1, Severity.WARNING), (2, Severity.WARNING), (3, Severity.ERROR)):
        version = Version(f"version {number}", old, number)
        found = check_subject("Placed", record(field("b")), [version], Compatibility.FULL)
        assert {each.breaks: each.severity for each in found} == {NEW: severity, OLD: Severity.ERROR}


async def test_a_registry_refuses_what_the_check_finds() -> None:
    registry = MemoryRegistry()
    await registry.register("Placed", record(field("a")), problems)
    with pytest.raises(IncompatibleSchemaError, match=r"Placed.a: string cannot be read as int .*version 1"):
        await registry.register("Placed", record(field("a", "int")), problems)
    assert (await registry.register("Placed", record(field("a"), field("b", default="")), problems)).version == 2


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("nothing", "'nothing' is neither an Avro type nor defined"),
        (
            record(field("a", "Later"), field("b", {"type": "fixed", "name": "Later", "size": 1})),
            "nor defined before",
        ),
        (record(field("a"), field("a")), "the field a is there twice"),
        (record(field("no-name")), "is not a field with a legal name"),
        (record(field("a", ["int", "int"])), "Placed.a: a union holds each kind of type once"),
        (record(field("a", [["int"]])), "a union holds no union"),
        (record(field("a", enum("A", "A"))), "a symbol is there twice"),
        (record(field("a", enum("A", default="B"))), "'B' is not one of the symbols"),
        (record(field("a", "int", default="x")), "Placed.a: its default does not fit its type: 'x' is no int"),
        (record(field("a", money(2, 3))), "0 <= scale <= precision"),
        (record(field("a", {"type": "array"})), "an array needs 'items'"),
        (record(field("a", {"type": "fixed", "name": "F", "size": -1})), "a fixed needs a size"),
        ({"type": "record", "name": "1st", "fields": []}, "no legal name"),
        (5, "5 is not a type"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema: object, why: str) -> None:
    with pytest.raises(SchemaError, match=why.replace("(", r"\(")):
        parse(schema)


def test_deep_nesting_is_one_clear_error() -> None:
    deep: object = "int"
    for _ in range(100_000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaError, match="nested more than 64 deep"):
        parse(record(field("a", deep)))
    with pytest.raises(SchemaError, match=r"x\.avsc is nested too deeply"):
        loads("[" * 100_000, "x.avsc")


@pytest.mark.parametrize(("text", "why"), [("{", "is not JSON"), ('{"a": 1, "a": 2}', "'a' is there twice")])
def test_bad_files_are_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.avsc"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError, match=f"bad.avsc.*{why}"):
        read(path)
    with pytest.raises(SchemaError, match="cannot be read"):
        read(tmp_path / "none.avsc")


def test_lint_asks_for_docs_names_and_defaults() -> None:
    schema = record(
        field("badName", doc="x"),
        field("state", enum("A"), doc="x"),
        field("note", ["string", "null"], doc="x"),
        field("last", ["string", "null"], doc="x", default=None),
        field("either", ["string", "bytes"], doc="x"),
        field("undocumented"),
        doc="x",
    )
    earlier = [Version("main", record(*(each for each in schema["fields"] if each["name"] != "undocumented")))]
    found = {(each.rule, each.path) for each in lint("Placed", schema, earlier)}
    assert found == {
        (LintRule.FIELD_NAME, "Placed.badName"),
        (LintRule.ENUM_DEFAULT, "State"),
        (LintRule.TYPE_DOC, "State"),
        (LintRule.NULL_DEFAULT, "Placed.note"),
        (LintRule.DEFAULT_FIRST, "Placed.last"),
        (LintRule.TEXT_OR_BYTES, "Placed.either"),
        (LintRule.FIELD_DOC, "Placed.undocumented"),
        (LintRule.ADDITION_DEFAULT, "Placed.undocumented"),
    }
    assert not lint("Placed", schema, earlier, ignore=set(LintRule))


def test_differences_are_told_field_by_field() -> None:
    old = record(field("a"), field("b", "int"), field("gone"), field("was"))
    new = record(
        field("a", doc="what"), field("b", "long"), field("is", aliases=["was"]), field("new", enum("A"), default="A")
    )
    assert [str(each) for each in changes(old, new)] == [
        "+ Placed.a  doc: what",
        "~ Placed.b  type: int → long",
        "- Placed.gone  field: string",
        "~ Placed.was  name: was → is",
        "+ Placed.is  aliases: was",
        "+ Placed.new  field: enum State = 'A'",
    ]
    assert [str(each) for each in changes(None, new)] == ["+ Placed  event type: record Placed"]
    assert changes(old, old) == []
