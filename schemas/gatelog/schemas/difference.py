"""What differs between two versions of a schema, field by field."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gatelog.schemas.compatibility import label_of_root
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import AvroSchema
from gatelog.schemas.tree import Array, Enum, Field, Fixed, Map, Record, Type, Union, kind_of, label


@dataclass(frozen=True, slots=True)
class Change:
    """``before`` is None for what was added, ``after`` for what was removed."""

    path: str
    what: str
    before: str | None
    after: str | None

    @property
    def sign(self) -> str:
        """``+``, ``-`` or ``~``."""
        return "+" if self.before is None else "-" if self.after is None else "~"

    def __str__(self) -> str:
        values = " → ".join(value for value in (self.before, self.after) if value is not None)
        return f"{self.sign} {self.path}  {self.what}: {values}"

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"path": self.path, "what": self.what, "before": self.before, "after": self.after}


def changes(before: AvroSchema | None, after: AvroSchema | None) -> list[Change]:
    """Return what differs; None stands for a subject that is not there.

    Raises:
        SchemaError: one is not a legal schema.
    """
    if before is None or after is None:
        there = parse(before or after)
        gone = label(there) if before else None
        return [Change(label_of_root(there), "event type", gone, None if before else label(there))]
    old, new = parse(before), parse(after)
    return list(_Walk().type(old, new, label_of_root(new)))


class _Walk:
    """One comparison; a pair of named types is told once."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def type(self, old: Type, new: Type, path: str) -> Iterator[Change]:
        match old, new:
            case Array(), Array():
                yield from self.type(old.items, new.items, f"{path}[]")
            case Map(), Map():
                yield from self.type(old.values, new.values, f"{path}{{}}")
            case Union(), Union():
                yield from self._union(old, new, path)
            case (Record(), Record()) | (Enum(), Enum()) | (Fixed(), Fixed()):
                if (id(old), id(new)) not in self._seen:
                    self._seen.add((id(old), id(new)))
                    yield from self._named(old, new, path)
            case _ if label(old) != label(new):
                yield Change(path, "type", label(old), label(new))

    def _union(self, old: Union, new: Union, path: str) -> Iterator[Change]:
        befores = {kind_of(each).rpartition(".")[2]: each for each in old.branches}
        afters = {kind_of(each).rpartition(".")[2]: each for each in new.branches}
        if list(befores) != list(afters):
            yield Change(path, "type", label(old), label(new))
        for kind in befores.keys() & afters.keys():
            yield from self.type(befores[kind], afters[kind], path)

    def _named(self, old: Type, new: Type, path: str) -> Iterator[Change]:
        assert isinstance(old, (Record, Enum, Fixed))
        assert isinstance(new, (Record, Enum, Fixed))
        yield from _value(path, "name", old.name, new.name)
        yield from _value(path, "aliases", _listed(old.aliases), _listed(new.aliases))
        yield from _value(path, "doc", old.doc, new.doc)
        match old, new:
            case Enum(), Enum():
                yield from _value(path, "symbols", _listed(old.symbols), _listed(new.symbols))
                yield from _value(path, "default", old.default, new.default)
            case Fixed(), Fixed():
                yield from _value(path, "type", label(old), label(new))
            case Record(), Record():
                yield from self._fields(old, new, path)

    def _fields(self, old: Record, new: Record, path: str) -> Iterator[Change]:
        befores, afters = {each.name: each for each in old.fields}, {each.name: each for each in new.fields}
        renamed = {name: each.name for each in new.fields if each.name not in befores for name in each.aliases}
        for name, field in befores.items():
            after = afters.get(name) or afters.get(renamed.get(name, ""))
            if after is None:
                yield Change(f"{path}.{name}", "field", _described(field), None)
            else:
                yield from _value(f"{path}.{name}", "name", name, after.name)
                yield from self._field(field, after, f"{path}.{after.name}")
        for name, field in afters.items():
            if name not in befores and not befores.keys() & set(field.aliases):
                yield Change(f"{path}.{name}", "field", None, _described(field))

    def _field(self, old: Field, new: Field, path: str) -> Iterator[Change]:
        yield from self.type(old.type, new.type, path)
        yield from _value(path, "default", _default(old), _default(new))
        yield from _value(path, "aliases", _listed(old.aliases), _listed(new.aliases))
        yield from _value(path, "doc", old.doc, new.doc)


def _value(path: str, what: str, before: str | None, after: str | None) -> Iterator[Change]:
    if before != after:
        yield Change(path, what, before, after)


def _listed(names: list[str]) -> str | None:
    return ", ".join(names) or None


def _default(field: Field) -> str | None:
    return repr(field.default) if field.has_default else None


def _described(field: Field) -> str:
    return label(field.type) + (f" = {field.default!r}" if field.has_default else "")
