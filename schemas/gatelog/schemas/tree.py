"""An Avro schema as a tree, its names resolved: a named type is one object, wherever it is used."""

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from gatelog.schemas.located import Place

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
MISSING: Final = object()  # "no default": null is one


@dataclass(frozen=True, slots=True)
class Logical:
    """A logical type; precision and scale are 0 for all but decimals."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"decimal({self.precision}, {self.scale})" if self.name == "decimal" else self.name


@dataclass(eq=False, slots=True)
class Primitive:
    kind: str
    logical: Logical | None = None


@dataclass(eq=False, slots=True)
class Array:
    items: "Type"
    kind: str = "array"
    logical: None = None


@dataclass(eq=False, slots=True)
class Map:
    values: "Type"
    kind: str = "map"
    logical: None = None


@dataclass(eq=False, slots=True)
class Union:
    branches: list["Type"]
    kind: str = "union"
    logical: None = None


@dataclass(eq=False, slots=True)
class Named:
    """What records, enums and fixed have in common; names and aliases are full names."""

    name: str
    aliases: list[str]
    doc: str | None
    place: Place | None
    logical: Logical | None = None

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def namespace(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(eq=False, slots=True)
class Field:
    name: str
    type: "Type"
    default: Any
    aliases: list[str]
    doc: str | None
    place: Place | None

    @property
    def has_default(self) -> bool:
        return self.default is not MISSING


@dataclass(eq=False, slots=True)
class Record(Named):
    fields: list[Field] = field(default_factory=list)
    kind: str = "record"


@dataclass(eq=False, slots=True)
class Enum(Named):
    symbols: list[str] = field(default_factory=list)
    default: str | None = None
    kind: str = "enum"


@dataclass(eq=False, slots=True)
class Fixed(Named):
    size: int = 0
    kind: str = "fixed"


Type: TypeAlias = Primitive | Array | Map | Union | Record | Enum | Fixed


def kind_of(node: Type) -> str:
    """Return what tells the branches of a union apart: the kind, or a named type's full name."""
    return node.name if isinstance(node, Named) else node.kind


def label(node: Type) -> str:
    """Return a type as people call it: ``int``, ``enum Colour``, ``array of string``, ``timestamp-millis``."""
    match node:
        case Array():
            return f"array of {label(node.items)}"
        case Map():
            return f"map of {label(node.values)}"
        case Union():
            return f"union of {', '.join(map(label, node.branches))}"
        case Fixed():
            return f"{f'{node.logical} in ' if node.logical else ''}fixed {node.short}({node.size})"
        case Record() | Enum():
            return f"{node.kind} {node.short}"
        case Primitive():
            return str(node.logical) if node.logical else node.kind


def named_types(root: Type) -> list[Record | Enum | Fixed]:
    """Return the named types of a schema, each once, in the order in which they are defined."""
    found: dict[str, Record | Enum | Fixed] = {}

    def walk(node: Type) -> None:
        match node:
            case Array():
                walk(node.items)
            case Map():
                walk(node.values)
            case Union():
                for branch in node.branches:
                    walk(branch)
            case Record() | Enum() | Fixed() if node.name not in found:
                found[node.name] = node
                for each in node.fields if isinstance(node, Record) else ():
                    walk(each.type)

    walk(root)
    return list(found.values())
