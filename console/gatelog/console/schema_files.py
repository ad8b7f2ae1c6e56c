"""``gatelog schema generate`` and ``export``: from ``.avsc`` to models, and back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from gatelog.core.errors import SchemaError
from gatelog.schemas.definitions import same
from gatelog.schemas.generate import class_of, formatted, module_of
from gatelog.schemas.located import read
from gatelog.schemas.sources import SUFFIX, files_below, models_of

Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit code 11 if a file is not as it would be.")]
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def generate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help=".avsc files, or folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .py file for one schema; a package, with a module each, for several."),
    ] = None,
    check: Check = False,
) -> None:
    """Write pydantic models for Avro schemas: formatted, typed, and always the same for the same schema.

    gatelog schema generate order.avsc
    gatelog schema generate schemas/ --output shop/events
    """
    schemas = {path: read(path) for path in files_below(paths)}
    if output is None or output.suffix == ".py":
        if len(schemas) != 1:
            raise SchemaError(f"{len(schemas)} schemas were found: name a folder with --output.")
        ((path, schema),) = schemas.items()
        source = module_of(schema, path.name)
        if output is None:
            typer.echo(source, nl=False)
        else:
            _write({output: source}, check=check)
        return
    modules = {output / f"{_snake(class_of(schema))}.py": (path, schema) for path, schema in schemas.items()}
    if len(modules) < len(schemas):
        raise SchemaError("Two of the schemas would be one module; generate them into folders of their own.")
    files = {module: module_of(schema, path.name) for module, (path, schema) in modules.items()}
    names = {module.stem: class_of(schema) for module, (_, schema) in modules.items()}
    _write({**files, output / "__init__.py": _package(names)}, check=check)


def export(
    models: Annotated[list[str], typer.Option("--models", help="Module that defines events; again for more.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.", show_default="print them")] = None,
    check: Check = False,
) -> None:
    """Write the Avro schemas of models, one .avsc file an event type.

    gatelog schema export --models shop.events --output schemas
    """
    schemas = {model.event_type: model.avro_schema() for model in models_of(models)}
    if output is None:
        for schema in schemas.values():
            typer.echo(json.dumps(schema, indent=2, ensure_ascii=False))
        return
    texts = {output / f"{name}{SUFFIX}": _text(schema) for name, schema in schemas.items()}
    kept = {path for path in texts if check and path.exists() and same(read(path), schemas[path.stem])}
    _write({path: text for path, text in texts.items() if path not in kept}, check=check)


def _text(schema: Mapping[str, object]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _package(names: Mapping[str, str]) -> str:
    imports = "\n".join(f"from .{module} import {name}" for module, name in sorted(names.items()))
    listed = ", ".join(f'"{name}"' for name in sorted(names.values()))
    header = '"""Events, as models. Made by `gatelog schema generate`."""'
    return formatted(f"{header}\n\n{imports}\n\n__all__ = [{listed}]\n")


def _write(files: Mapping[Path, str], *, check: bool) -> None:
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        raise SchemaError(f"Not up to date: {', '.join(map(str, stale))}. Run the command without --check.")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        typer.echo(f"wrote {path}")
    if not stale:
        typer.echo(f"{len(files)} files are up to date")


def _snake(name: str) -> str:
    return _WORDS.sub("_", name).lower().rstrip("_")
