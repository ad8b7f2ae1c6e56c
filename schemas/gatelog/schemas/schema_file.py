"""Schemas and levels of a store in a file: a copy for the day when the tables are lost, that people can read.

One JSON document: ``levels`` by subject, ``""`` for those that have none of their own, and ``schemas`` in the order
of their ids.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gatelog.core.errors import InvalidInputError, SchemaError
from gatelog.schemas.registry import AvroSchema, Compatibility, RegisteredSchema

Number = Annotated[int, Field(strict=True, ge=1, lt=2**31)]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds."""

    schemas: list[RegisteredSchema]
    levels: Mapping[str, Compatibility]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Number
    subject: Annotated[str, Field(min_length=1)]
    version: Number
    definition: AvroSchema


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    levels: dict[str, Compatibility]
    schemas: list[_Schema]


def write(path: Path, contents: Contents) -> None:
    """Write a file whole, or leave the one that is there as it is.

    Raises:
        InvalidInputError: it cannot be written.
    """
    schemas = sorted(contents.schemas, key=lambda schema: schema.id)
    document = {"levels": dict(contents.levels), "schemas": [asdict(schema) for schema in schemas]}
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise InvalidInputError(f"File {path} cannot be written: {error}") from error


def read(path: Path) -> Contents:
    """Return what was written.

    Raises:
        InvalidInputError: it cannot be read.
        SchemaError: it is not such a file, or not all of it.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        found = _Document.model_validate(document)
    except OSError as error:
        raise InvalidInputError(f"File {path} cannot be read: {error}") from error
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_input=False)
        where = ".".join(map(str, first["loc"]))
        raise SchemaError(
            f"File {path} is not a copy of schemas, at {where or 'its beginning'}: {first['msg']}"
        ) from error
    except ValueError as error:
        raise SchemaError(f"File {path} is not a copy of schemas, or not all of it: {error}") from error
    return Contents([RegisteredSchema(**each.model_dump()) for each in found.schemas], found.levels)
