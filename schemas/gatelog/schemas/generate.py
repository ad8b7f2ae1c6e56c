"""Python source of the models that an Avro schema stands for: typed, and the same for the same schema."""

import builtins
import keyword
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gatelog.core.errors import SchemaError
from gatelog.schemas.event import Event, pinned_version
from gatelog.schemas.literals import IMPORTS, literal, names_in
from gatelog.schemas.parsing import parse
from gatelog.schemas.programs import run
from gatelog.schemas.tree import Array, Enum, Field, Fixed, Map, Primitive, Record, Type, Union, named_types

LINE_CHARACTERS_MAX: Final = 88
_PRIMITIVES: Final = {
    "null": "None",
    "boolean": "bool",
    "int": "Int32",
    "long": "int",
    "float": "Float32",
    "double": "float",
    "bytes": "bytes",
    "string": "str",
}
_LOGICAL: Final = {
    "uuid": "UUID",
    "duration": "Duration",
    "date": "dt.date",
    "time-millis": "TimeMillis",
    "time-micros": "dt.time",
    "timestamp-millis": "TimestampMillis",
    "timestamp-micros": "AwareDatetime",
    "local-timestamp-millis": "LocalTimestampMillis",
    "local-timestamp-micros": "NaiveDatetime",
}
_TAKEN: Final = frozenset({*IMPORTS, *keyword.kwlist, *dir(builtins)})
_TAKEN_BY_FIELDS: Final = frozenset(
    {*IMPORTS, *keyword.kwlist, "bool", "bytes", "dict", "float", "int", "list", "str"}
)
_PROTECTED: Final = ("model_validate", "model_dump")  # prefixes that pydantic warns of
_SIMPLE_DOC: Final = frozenset('"\\\n\r\t')


def module_of(schema: Any, source: str) -> str:  # noqa: ANN401 - any JSON value
    """Return a formatted module with the event of a record schema, and the types within it.

    Raises:
        SchemaError: it is no legal record schema, uses what a model cannot say, or ruff is not installed.
    """
    body, _ = source_of(schema, exact=True)
    header = (
        f'"""{source}, as models.\n\nMade by `gatelog schema generate`: change the schema, not this file.\n"""\n\n'
    )
    return formatted(f"{header}{_imports(body)}\n\n{body}")


def class_of(schema: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the name of the class that an event's schema becomes.

    Raises:
        SchemaError: it is no legal record schema, or uses what a model cannot say.
    """
    return source_of(schema, exact=True)[1]


def source_of(schema: Any, *, exact: bool) -> tuple[str, str]:  # noqa: ANN401 - any JSON value
    """Return class definitions (no imports), and the name of the event's class.

    ``exact``: the schema that follows from the classes must be this very one.

    Raises:
        SchemaError: it is no legal record schema, or uses what a model cannot say.
    """
    root = parse(schema)
    if not isinstance(root, Record):
        raise SchemaError(f"An event's schema is a record, not {root.kind}.")
    return _Module(root, exact=exact, pinned=pinned_version(schema)).text()


def formatted(source: str) -> str:
    """Return Python source in the form of ``ruff format``, whatever the settings around are.

    Raises:
        SchemaError: ruff is not there, or does not take the source.
    """
    options = ["--isolated", f"--line-length={LINE_CHARACTERS_MAX}", "--stdin-filename=models.py", "-"]
    beside = Path(sys.executable).with_name("ruff")
    command = [str(beside) if beside.exists() else "ruff", "format", *options]
    done = run(
        command, "Generated code is formatted by ruff: `pip install gatelog[generate]`.", stdin=source.encode()
    )
    if done.returncode != 0:
        raise SchemaError(f"ruff cannot format the generated code: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def _imports(body: str) -> str:
    used = names_in(body)
    lines: dict[str, list[str]] = {}
    for name, module in IMPORTS.items():
        if name in used and module:
            lines.setdefault(module, []).append(name)
    groups = [
        ["import datetime as dt"] if "dt" in used else [],
        [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(lines.items())],
    ]
    standard = [line for group in groups for line in group if "gatelog" not in line and "pydantic" not in line]
    pydantic = [line for line in groups[1] if "pydantic" in line]
    ours = [line for line in groups[1] if "gatelog" in line]
    return "\n\n".join("\n".join(part) for part in (standard, pydantic, ours) if part)


@dataclass
class _Module:
    """One schema's walk; a type is written after those that it needs."""

    root: Record
    exact: bool
    pinned: int | None = None
    blocks: list[str] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)  # full name: class
    done: set[str] = field(default_factory=set)
    late: list[str] = field(default_factory=list)  # classes that name one which comes after them

    def __post_init__(self) -> None:
        self._plain = {self.root.namespace} == {each.namespace for each in named_types(self.root)}

    def text(self) -> tuple[str, str]:
        name = self.type(self.root)
        rebuilds = [f"{each}.model_rebuild()" for each in self.late]
        return "\n\n\n".join(self.blocks + (["\n".join(rebuilds)] if rebuilds else [])) + "\n", name

    def type(self, node: Type) -> str:
        match node:
            case Primitive():
                return self._logical(node) if node.logical else _PRIMITIVES[node.kind]
            case Array():
                return f"list[{self.type(node.items)}]"
            case Map():
                return f"dict[str, {self.type(node.values)}]"
            case Union():
                return self._union(node)
            case Record() | Enum() | Fixed():
                return self._named(node)

    def _logical(self, node: Primitive | Fixed) -> str:
        assert node.logical is not None
        if node.logical.name == "decimal":
            limits = f"Field(max_digits={node.logical.precision}, decimal_places={node.logical.scale})"
            return f"Annotated[Decimal, {limits}]"
        return _LOGICAL[node.logical.name]

    def _union(self, node: Union) -> str:
        branches = [self.type(branch) for branch in node.branches]
        if len(branches) < 2:
            if self.exact or not branches:
                raise SchemaError(f"A union of {len(branches)} types has no counterpart in a model: write the type.")
            return branches[0]
        # X | Y | Z asks typing's cache, which takes Y | X | Z for the same where Annotated is among them.
        return " | ".join(branches) if len(branches) == 2 else f"Union[{', '.join(branches)}]"

    def _named(self, node: Record | Enum | Fixed) -> str:
        if node.name not in self.classes:
            self.classes[node.name] = self._class_name(node)
            block = {"record": self._record, "enum": self._enum, "fixed": self._fixed}[node.kind](node)  # type: ignore[operator] # by kind
            self.blocks.append(block)
            self.done.add(node.name)
        return self.classes[node.name]

    def _class_name(self, node: Record | Enum | Fixed) -> str:
        name = node.short
        while name in _TAKEN or name.startswith("_") or name in self.classes.values():
            name = f"{name.lstrip('_') or 'Type'}_"
        return name

    def _avro_name(self, node: Record | Enum | Fixed) -> str:
        if self._plain:
            return node.short
        if not node.namespace and self.root.namespace and self.exact:
            raise SchemaError(f"{node.name} is in no namespace, within one: give it one.")
        return node.name

    def _naming(self, node: Record | Enum, doc: str | None, default: str | None = None) -> str:
        name = self._avro_name(node)
        space = f"{node.namespace}." if node.namespace else ""
        given = {
            "aliases": [
                alias.removeprefix(space) if alias.count(".") == space.count(".") else alias for alias in node.aliases
            ],
            "doc": doc,
            "default": default,
        }
        parts = [] if node is self.root or name == self.classes[node.name] else [repr(name)]
        parts += [f"{key}={value!r}" for key, value in given.items() if value]
        return f"@named({', '.join(parts)})\n" if parts else ""

    def _record(self, node: Record) -> str:
        if len(node.fields) != len({self.attribute(node, each) for each in node.fields}):
            raise SchemaError(f"{node.name}: two of its fields would have one name in Python.")
        lines = [self._field(node, each) for each in node.fields]
        name = self.classes[node.name]
        docstring = node.doc if node.doc and _is_simple(node.doc) else None
        head = f"{self._naming(node, None if docstring else node.doc)}class {name}({self._bases(node, name)}):\n"
        body = [f'    """{docstring}"""\n'] if docstring else []
        if config := self._config(node):
            body.append(f"    model_config = ConfigDict({config})\n")
        return head + "\n".join([*body, *(f"    {line}" for line in lines)] or ["    pass"])

    def _bases(self, node: Record, name: str) -> str:
        if node is not self.root:
            return "BaseModel"
        event_type = "" if name == node.name else f", event_type={node.name!r}"
        return f"Event{event_type}{f', schema_version={self.pinned}' if self.pinned else ''}"

    def _config(self, node: Record) -> str:
        renamed = any(self.attribute(node, each) != each.name for each in node.fields)
        parts = [] if node is self.root else ["frozen=True", 'extra="forbid"']
        return ", ".join([*parts, *(["populate_by_name=True"] if renamed else [])])

    def attribute(self, record: Record, field: Field) -> str:
        """Return what a field is called in Python."""
        name = field.name
        if name.startswith(_PROTECTED):
            return f"field_{name}"
        if name.startswith("_"):
            name = name.strip("_") or "field"
        taken = {each.name for each in record.fields} if name != field.name else set()
        while name in _TAKEN_BY_FIELDS or name in taken or hasattr(Event, name) or name in self.classes.values():
            name = f"{name}_"
        return name

    def _field(self, record: Record, field: Field) -> str:
        text = self.type(_with_null_last(field))
        attribute = self.attribute(record, field)
        if field.aliases:
            text = f"Annotated[{text}, Aliases({', '.join(map(repr, field.aliases))})]"
        if later := [name for full, name in self.classes.items() if full not in self.done and name in names_in(text)]:
            text = repr(text)
            if later != [self.classes[record.name]]:
                self.late.append(self.classes[record.name])
        more = {"alias": None if attribute == field.name else field.name, "description": field.doc}
        parts = [f"{key}={value!r}" for key, value in more.items() if value]
        default = self._default(record, field) if field.has_default else ""
        if default.startswith(("[", "{")):
            factory = {"[]": "list", "{}": "dict"}.get(default, f"lambda: {default}")
            parts.insert(0, f"default_factory={factory}")
        elif default and not parts:
            return f"{attribute}: {text} = {default}"
        elif default:
            parts.insert(0, default)
        return f"{attribute}: {text}" + (f" = Field({', '.join(parts)})" if parts else "")

    def _default(self, record: Record, field: Field) -> str:
        try:
            return literal(field.type, field.default, self, exact=self.exact)
        except ValueError as error:
            raise SchemaError(f"{record.short}.{field.name}: {error}") from error

    def member(self, enum: Enum, symbol: str) -> str:
        """Return the expression of an enum's member."""
        self._named(enum)
        return f"{self.classes[enum.name]}.{_members(enum)[symbol]}"

    def _enum(self, node: Enum) -> str:
        members = [f"    {member} = {symbol!r}" for symbol, member in _members(node).items()]
        head = f"{self._naming(node, node.doc, node.default)}class {self.classes[node.name]}(StrEnum):\n"
        return head + "\n".join(members or ["    pass"])

    def _fixed(self, node: Fixed) -> str:
        inner = self._logical(node) if node.logical else "bytes"
        inner = inner.removeprefix("Annotated[").removesuffix("]")
        more = {"aliases": tuple(node.aliases), "doc": node.doc}
        given = "".join(f", {key}={value!r}" for key, value in more.items() if value)
        return f"{self.classes[node.name]} = Annotated[{inner}, Fixed({self._avro_name(node)!r}, {node.size}{given})]"


def _members(enum: Enum) -> dict[str, str]:
    """Return symbols and the names of their members: upper case, so that no method of str is hidden."""
    found: dict[str, str] = {}
    for symbol in enum.symbols:
        name = symbol.strip("_").upper() or "SYMBOL"
        name = f"N{name}" if name[0].isdigit() else name
        while name in found.values():
            name += "_"
        found[symbol] = name
    return found


def _with_null_last(field: Field) -> Type:
    """``X | None = None`` reads better, and says the same: the default's branch comes first in the schema."""
    match field.type:
        case Union(branches=[Primitive(kind="null") as null, *others]) if field.default is None and others:
            return Union([*others, null])
        case _:
            return field.type


def _is_simple(doc: str) -> bool:
    return (
        doc == doc.strip()
        and doc.isprintable()
        and not _SIMPLE_DOC & set(doc)
        and len(doc) < LINE_CHARACTERS_MAX - 10
    )
