"""Whether what one schema wrote can be read with another: Avro's resolution rules, every mismatch with its place.

The structural rules give the verdicts of ``org.apache.avro.SchemaCompatibility``. Two rules go further: a logical
type that changes (``timestamp-millis`` to ``timestamp-micros``) resolves, and the values are wrong; and bytes resolve
to string, whether they are text or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gatelog.schemas.located import Place
from gatelog.schemas.tree import Array, Enum, Field, Fixed, Logical, Map, Record, Type, Union, kind_of, label

_PROMOTIONS: Final = {
    "long": {"int"},
    "float": {"int", "long"},
    "double": {"int", "long", "float"},
    "string": {"bytes"},
    "bytes": {"string"},
}


class Rule(StrEnum):
    """What was broken. The names are those of Java's checker, where it has the rule."""

    NAME_MISMATCH = "NAME_MISMATCH"
    FIXED_SIZE_MISMATCH = "FIXED_SIZE_MISMATCH"
    MISSING_ENUM_SYMBOLS = "MISSING_ENUM_SYMBOLS"
    READER_FIELD_MISSING_DEFAULT_VALUE = "READER_FIELD_MISSING_DEFAULT_VALUE"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    MISSING_UNION_BRANCH = "MISSING_UNION_BRANCH"
    AMBIGUOUS_ALIAS = "AMBIGUOUS_ALIAS"  # Java: an exception
    LOGICAL_TYPE_MISMATCH = "LOGICAL_TYPE_MISMATCH"  # Java: not checked
    BYTES_READ_AS_TEXT = "BYTES_READ_AS_TEXT"  # Java: allowed
    SUBJECT_REMOVED = "SUBJECT_REMOVED"  # found by comparing lists of subjects, not by resolution


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One reason why the reader cannot take what the writer wrote; places are None where they are not known."""

    rule: Rule
    path: str
    detail: str
    reader_place: Place | None
    writer_place: Place | None
    field: str | None = None  # the field that is missing, and similar: what an advice names


def mismatches(reader: Type, writer: Type) -> list[Mismatch]:
    """Return why data of ``writer`` cannot, or may not, be read as ``reader``; empty: all of it can."""
    return _Resolution().resolve(reader, writer, _Spot(label_of_root(reader), None, None))


def is_structural(mismatch: Mismatch) -> bool:
    """Say whether Java's checker knows the rule."""
    return mismatch.rule not in {Rule.LOGICAL_TYPE_MISMATCH, Rule.BYTES_READ_AS_TEXT}


def label_of_root(root: Type) -> str:
    """Return what paths begin with: the short name of a record."""
    return root.short if isinstance(root, (Record, Enum, Fixed)) else root.kind


@dataclass(frozen=True, slots=True)
class _Spot:
    path: str
    reader_place: Place | None
    writer_place: Place | None

    def below(self, step: str) -> "_Spot":
        return _Spot(self.path + step, self.reader_place, self.writer_place)

    def mismatch(self, rule: Rule, detail: str, field: str | None = None) -> Mismatch:
        return Mismatch(rule, self.path, detail, self.reader_place, self.writer_place, field)


class _Resolution:
    """One comparison. A pair of types is judged once; while it is judged it counts as fitting (recursive types)."""

    def __init__(self) -> None:
        self._judged: dict[tuple[int, int], list[Mismatch]] = {}

    def resolve(self, reader: Type, writer: Type, place: _Spot) -> list[Mismatch]:
        pair = (id(reader), id(writer))
        if pair not in self._judged:
            self._judged[pair] = []
            self._judged[pair] = list(self._judge(reader, writer, place))
        return self._judged[pair]

    def _judge(self, reader: Type, writer: Type, place: _Spot) -> Iterator[Mismatch]:
        match reader, writer:
            case _, Union():
                for branch in writer.branches:
                    yield from self.resolve(reader, branch, place)
            case Union(), _:
                yield from self._into_union(reader, writer, place)
            case Array(), Array():
                yield from self.resolve(reader.items, writer.items, place.below("[]"))
            case Map(), Map():
                yield from self.resolve(reader.values, writer.values, place.below("{}"))
            case (Record(), Record()) | (Enum(), Enum()) | (Fixed(), Fixed()):
                yield from self._named(reader, writer, place)
            case _ if reader.kind == writer.kind or writer.kind in _PROMOTIONS.get(reader.kind, ()):
                yield from _logical(reader, writer, place)
            case _:
                yield place.mismatch(Rule.TYPE_MISMATCH, f"{label(writer)} cannot be read as {label(reader)}")

    def _named(self, reader: Type, writer: Type, place: _Spot) -> Iterator[Mismatch]:
        assert isinstance(reader, (Record, Enum, Fixed))
        assert isinstance(writer, (Record, Enum, Fixed))
        place = _Spot(place.path, place.reader_place or reader.place, place.writer_place or writer.place)
        yield from _names(reader, writer, place)
        match reader, writer:
            case Record(), Record():
                for field in reader.fields:
                    yield from self._field(field, writer, place)
            case Enum(), Enum():
                yield from _symbols(reader, writer, place)
            case Fixed(), Fixed():
                yield from _sizes(reader, writer, place)
                yield from _logical(reader, writer, place)

    def _into_union(self, reader: Union, writer: Type, place: _Spot) -> Iterator[Mismatch]:
        """Any fitting branch will do; if none fits, the one that was meant says why."""
        tried = [(branch, self.resolve(branch, writer, place)) for branch in reader.branches]
        if any(not found for _, found in tried):
            return
        readable = [found for _, found in tried if not any(map(is_structural, found))]
        meant = [found for branch, found in tried if branch.kind == writer.kind and _is_alike(branch, writer)]
        if readable or meant:
            yield from (readable or meant)[0]
            return
        detail = f"{label(writer)} is no branch of {label(reader)}"
        yield place.mismatch(Rule.MISSING_UNION_BRANCH, detail, kind_of(writer))

    def _field(self, field: Field, writer: Record, record: _Spot) -> Iterator[Mismatch]:
        place = _Spot(
            f"{record.path}.{field.name}", field.place or record.reader_place, writer.place or record.writer_place
        )
        found = [each for each in writer.fields if each.name in {field.name, *field.aliases}]
        if len(found) > 1:
            names = ", ".join(each.name for each in found)
            yield place.mismatch(Rule.AMBIGUOUS_ALIAS, f"by its name and aliases it is {names}", field.name)
        elif found:
            here = _Spot(place.path, place.reader_place, found[0].place or record.writer_place)
            yield from self.resolve(field.type, found[0].type, here)
        elif not field.has_default:
            detail = f"{label(field.type)} without a default, and not in the data"
            yield place.mismatch(Rule.READER_FIELD_MISSING_DEFAULT_VALUE, detail, field.name)


def _is_alike(branch: Type, writer: Type) -> bool:
    return not isinstance(branch, (Record, Enum, Fixed)) or not list(_names(branch, writer, _Spot("", None, None)))


def _names(reader: Type, writer: Type, place: _Spot) -> Iterator[Mismatch]:
    """Namespaces do not count, as in Java: a type may move to another one."""
    assert isinstance(reader, (Record, Enum, Fixed))
    assert isinstance(writer, (Record, Enum, Fixed))
    if reader.short != writer.short and writer.name not in reader.aliases:
        detail = f"{writer.kind} {writer.name} is not {reader.name}, nor one of its aliases"
        yield place.mismatch(Rule.NAME_MISMATCH, detail, writer.name)


def _symbols(reader: Enum, writer: Enum, place: _Spot) -> Iterator[Mismatch]:
    unknown = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
    if unknown and reader.default is None:
        detail = f"{', '.join(unknown)}: not in enum {reader.short}, which has no default"
        yield place.mismatch(Rule.MISSING_ENUM_SYMBOLS, detail, ", ".join(unknown))


def _sizes(reader: Fixed, writer: Fixed, place: _Spot) -> Iterator[Mismatch]:
    if reader.size != writer.size:
        yield place.mismatch(Rule.FIXED_SIZE_MISMATCH, f"{writer.size} bytes cannot be read as {reader.size}")


def _logical(reader: Type, writer: Type, place: _Spot) -> Iterator[Mismatch]:
    if not _means_the_same(reader.logical, writer.logical):
        detail = f"{label(writer)} is read as {label(reader)}: the values would mean something else"
        yield place.mismatch(Rule.LOGICAL_TYPE_MISMATCH, detail)
    elif (reader.kind, writer.kind) == ("string", "bytes"):
        yield place.mismatch(Rule.BYTES_READ_AS_TEXT, "bytes are read as string, and need not be UTF-8")


def _means_the_same(reader: Logical | None, writer: Logical | None) -> bool:
    if reader is not None and writer is not None and reader.name == writer.name == "decimal":
        return reader.scale == writer.scale and reader.precision >= writer.precision
    return reader == writer
