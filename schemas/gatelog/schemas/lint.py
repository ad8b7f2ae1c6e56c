"""What a schema will be sorry for later: docs, names, and what makes the next change hard."""

import re
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from typing import Final

from gatelog.schemas.checking import Version
from gatelog.schemas.defaults import value_of
from gatelog.schemas.findings import Finding, Severity
from gatelog.schemas.located import Place
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import AvroSchema
from gatelog.schemas.tree import Array, Enum, Field, Fixed, Map, Record, Type, Union, named_types

_PASCAL: Final = re.compile(r"[A-Z][A-Za-z0-9]*")
_SNAKE: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


class LintRule(StrEnum):
    """What is asked for."""

    TYPE_DOC = "TYPE_DOC"
    FIELD_DOC = "FIELD_DOC"
    TYPE_NAME = "TYPE_NAME"
    FIELD_NAME = "FIELD_NAME"
    ENUM_DEFAULT = "ENUM_DEFAULT"
    ENUM_SYMBOLS = "ENUM_SYMBOLS"
    DEFAULT_FIRST = "DEFAULT_FIRST"
    NULL_DEFAULT = "NULL_DEFAULT"
    ADDITION_DEFAULT = "ADDITION_DEFAULT"
    TEXT_OR_BYTES = "TEXT_OR_BYTES"


_ADVICE: Final = {
    LintRule.TYPE_DOC: "Say what the event or type means: a docstring, or 'doc' in the .avsc.",
    LintRule.FIELD_DOC: "Say what it means, its unit, its limits: Field(description=…), or 'doc' in the .avsc.",
    LintRule.TYPE_NAME: "Name it in PascalCase. A name is for ever: rename only before the first event is stored.",
    LintRule.FIELD_NAME: "Name it in snake_case; give the old name as an alias if events hold it already.",
    LintRule.ENUM_DEFAULT: "Give it a default such as UNKNOWN: readers then take symbols that they do not know yet.",
    LintRule.ENUM_SYMBOLS: "Add a symbol, or use string: an enum without symbols holds no value.",
    LintRule.DEFAULT_FIRST: "Put the branch of the default first: libraries before Avro 1.12 refuse it otherwise.",
    LintRule.NULL_DEFAULT: "Give it the default null, so that it can be left out, and removed one day.",
    LintRule.TEXT_OR_BYTES: "Take one of them: once the schema has changed, readers may take old text for bytes.",
    LintRule.ADDITION_DEFAULT: "Give it a default: events that were stored before do not have it.",
}


def lint(
    subject: str, definition: AvroSchema, earlier: Sequence[Version] = (), ignore: Collection[str] = ()
) -> list[Finding]:
    """Return what could be better; with the last of ``earlier``, whether additions have defaults.

    Raises:
        SchemaError: a definition is not legal Avro.
    """
    root = parse(definition, subject)
    old = {each.name: each for each in named_types(parse(earlier[-1].definition))} if earlier else {}
    found = []
    for rule, path, message, place in _all(root, old):
        if rule not in ignore:
            against = earlier[-1].label if rule is LintRule.ADDITION_DEFAULT else None
            found.append(
                Finding(subject, Severity.WARNING, rule, path, message, _ADVICE[rule], place, against=against)
            )
    return found


_Found = tuple[LintRule, str, str, Place | None]


def _all(root: Type, old: dict[str, Record | Enum | Fixed]) -> Iterator[_Found]:
    for node in named_types(root):
        if not _PASCAL.fullmatch(node.short):
            yield LintRule.TYPE_NAME, node.short, f"{node.short} is not PascalCase", node.place
        if not node.doc and not isinstance(node, Fixed):
            yield LintRule.TYPE_DOC, node.short, f"{node.kind} {node.short} has no doc", node.place
        if isinstance(node, Enum):
            yield from _enum(node)
        if isinstance(node, Record):
            before = old.get(node.name)
            for field in node.fields:
                yield from _field(field, f"{node.short}.{field.name}")
                if isinstance(before, Record) and _is_addition(field, before) and not field.has_default:
                    message = f"{field.name} was added, without a default"
                    yield LintRule.ADDITION_DEFAULT, f"{node.short}.{field.name}", message, field.place


def _enum(node: Enum) -> Iterator[_Found]:
    if not node.symbols:
        yield LintRule.ENUM_SYMBOLS, node.short, f"enum {node.short} has no symbols", node.place
    elif node.default is None:
        yield LintRule.ENUM_DEFAULT, node.short, f"enum {node.short} has no default", node.place


def _field(field: Field, path: str) -> Iterator[_Found]:
    if not _SNAKE.fullmatch(field.name):
        yield LintRule.FIELD_NAME, path, f"{field.name} is not snake_case", field.place
    if not field.doc:
        yield LintRule.FIELD_DOC, path, f"{field.name} has no doc", field.place
    if any({branch.kind for branch in union.branches} >= {"string", "bytes"} for union in unions_in(field.type)):
        yield LintRule.TEXT_OR_BYTES, path, f"{field.name} is a union of string and bytes", field.place
    if not isinstance(field.type, Union) or not field.type.branches:
        return
    kinds = {branch.kind for branch in field.type.branches}
    if field.has_default and not _fits(field.type.branches[0], field.default):
        yield LintRule.DEFAULT_FIRST, path, "its default is not of the first branch of the union", field.place
    if not field.has_default and "null" in kinds:
        yield LintRule.NULL_DEFAULT, path, f"{field.name} may be null, and has no default", field.place


def unions_in(node: Type) -> Iterator[Union]:
    """Yield the unions of a type, those within named types aside."""
    match node:
        case Union():
            yield node
            for branch in node.branches:
                yield from unions_in(branch)
        case Array():
            yield from unions_in(node.items)
        case Map():
            yield from unions_in(node.values)


def _fits(branch: Type, default: object) -> bool:
    try:
        value_of(branch, default)
    except ValueError:
        return False
    return True


def _is_addition(field: Field, before: Record) -> bool:
    return not {each.name for each in before.fields} & {field.name, *field.aliases}
