"""Where subjects are defined: ``.avsc`` files, and modules with models."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gatelog.core.errors import SchemaError
from gatelog.core.programs import import_module
from gatelog.schemas import located
from gatelog.schemas.event import Event, defined_models
from gatelog.schemas.parsing import parse
from gatelog.schemas.places import place_in
from gatelog.schemas.registry import AvroSchema
from gatelog.schemas.tree import Record

SUFFIX: Final = ".avsc"
FILES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sources:
    """Which files, folders and modules define the subjects."""

    paths: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.paths or self.modules)


def definitions_of(sources: Sources) -> dict[str, AvroSchema]:
    """Return the subjects that the working tree defines; their objects know their places.

    Raises:
        UserModuleError: a module cannot be imported.
        SchemaError: a file or model is not legal, two define one subject, or there is none.
    """
    found = from_texts((path, located.read(path)) for path in files_below(sources.paths))
    for model in models_of(sources.modules):
        if model.event_type in found:
            raise SchemaError(f"{model.event_type} is defined twice: by a model and by a {SUFFIX} file.")
        found[model.event_type] = model.avro_schema(place_in)
    if not found:
        raise SchemaError("Nothing defines an event type here: name .avsc files, folders, or modules with --models.")
    return found


def from_texts(files: Iterable[tuple[Path, Any]]) -> dict[str, AvroSchema]:
    """Return subjects by the names of their records, from the JSON of ``.avsc`` files.

    Raises:
        SchemaError: one is not an Avro record, or two define one subject.
    """
    found: dict[str, AvroSchema] = {}
    paths: dict[str, Path] = {}
    for path, definition in files:
        root = parse(definition, str(path))
        if not isinstance(root, Record):
            raise SchemaError(f"{path}: an event's schema is a record, not {root.kind}.")
        if root.name in found:
            raise SchemaError(f"{root.name} is defined twice: in {paths[root.name]} and in {path}.")
        found[root.name], paths[root.name] = definition, path
    return found


def files_below(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the ``.avsc`` files among ``paths`` and in the folders among them, sorted, each once.

    Raises:
        SchemaError: a path does not exist, or a folder holds more than 10,000 of them.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise SchemaError(f"{path} does not exist.")
        for each in sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]:
            if each.resolve() not in seen:
                seen.add(each.resolve())
                yield each
        if len(seen) > FILES_MAX:
            raise SchemaError(f"{path} holds more than {FILES_MAX:,} {SUFFIX} files.")


def models_of(modules: Sequence[str], *, may_be_none: bool = False) -> list[type[Event]]:
    """Return the newest model of each event type that the modules define, or modules below them that they import.

    Raises:
        UserModuleError: a module cannot be imported.
        SchemaError: it defines no event (unless it ``may_be_none``).
    """
    names = [import_module(module).__name__ for module in modules]
    for name in names:
        if not may_be_none and not any(_is_in(model, name) for model in defined_models()):
            raise SchemaError(f"Module {name} defines no events (subclasses of gatelog.schemas.Event).")
    return [model for model in defined_models() if any(_is_in(model, name) for name in names)]


def _is_in(model: type[Event], module: str) -> bool:
    return f"{model.__module__}.".startswith(f"{module}.")
