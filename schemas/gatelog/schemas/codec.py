"""Events to Avro bytes and back, each schema parsed once."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import Any, Final, get_origin

import fastavro
from fastavro.types import Schema as ParsedSchema
from pydantic import BaseModel, ValidationError

from gatelog.core.errors import InvalidEventError, SchemaError, UndecodableRecordError
from gatelog.schemas.event import Event, model_of
from gatelog.schemas.registry import RegisteredSchema, Registry

WIRE_HEADER: Final = struct.Struct(">bI")  # Confluent wire format: a zero byte, the schema id
_UNREADABLE: Final = (ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError)


@dataclass(frozen=True, slots=True)
class _Encoder:
    schema_id: int
    parsed: ParsedSchema
    as_dict: Callable[[Event], dict[str, Any]]


class Codec:
    """Encodes models and decodes stored bytes; knows the schemas that it was warmed with."""

    def __init__(self, registry: Registry, *, register: bool) -> None:
        """Use ``registry``; ``register`` allows new schemas to be written to it on the way."""
        self._registry = registry
        self._register = register
        self._learning = asyncio.Lock()
        self._encoders: dict[type[Event], _Encoder] = {}
        self._writers: dict[int, ParsedSchema] = {}
        self._readers: dict[type[Event], ParsedSchema] = {}

    async def learn(self, model: type[Event]) -> None:
        """Find or register the schema of ``model``; afterwards ``encode`` needs no I/O for it.

        Raises:
            SchemaError: the model has no Avro schema, or it is not registered and may not be.
        """
        async with self._learning:  # one asks; those who wait for it go on in the order in which they came
            if model not in self._encoders:
                definition = model.avro_schema()
                schema_id = await self._registry.id_of(model.event_type, definition, register=self._register)
                parsed = fastavro.parse_schema(definition)
                self._encoders[model] = _Encoder(schema_id, parsed, _dict_of(model))

    def knows(self, model: type[Event]) -> bool:
        """Say whether ``encode`` can take events of ``model`` without I/O."""
        return model in self._encoders

    def encode(self, event: Event, stream: str, bytes_max: int) -> tuple[int, bytes]:
        """Return schema id and Avro bytes (no wire header) of an event.

        Raises:
            InvalidEventError: it does not fit its schema, or is over ``bytes_max``.
        """
        encoder = self._encoders[type(event)]
        out = BytesIO()
        try:
            fastavro.schemaless_writer(out, encoder.parsed, encoder.as_dict(event))
        except _UNREADABLE as error:
            raise InvalidEventError(stream, event.event_type, f"it does not fit its schema: {error}") from error
        data = out.getvalue()
        if len(data) > bytes_max:
            raise InvalidEventError(
                stream,
                event.event_type,
                f"it has {len(data):,} bytes; {bytes_max:,} are allowed (event_bytes_max)",
            )
        return encoder.schema_id, data

    async def warm(self, schema_ids: set[int]) -> None:
        """Load the schemas that stored bytes were written with; unknown ids stay unknown."""
        missing = schema_ids - self._writers.keys()
        if missing:
            for schema_id, schema in (await self._registry.load(missing)).items():
                self._writers[schema_id] = _parse(schema)

    def to_dict(self, schema_id: int, data: bytes) -> dict[str, Any]:
        """Return the payload as it was written.

        Raises:
            UndecodableRecordError: unknown schema id, or bytes that are not of this schema.
        """
        return self._read(schema_id, data, None)

    def to_model(self, schema_id: int, data: bytes, model: type[Event]) -> Event:
        """Return the payload as ``model``, whatever older schema it was written with (Avro resolution).

        Raises:
            UndecodableRecordError: the bytes or schemas do not resolve.
        """
        if model not in self._readers:
            self._readers[model] = fastavro.parse_schema(model.avro_schema())
        try:
            return model.model_validate(self._read(schema_id, data, self._readers[model]))
        except ValidationError as error:
            raise UndecodableRecordError(f"A stored {model.event_type} is not a legal one today: {error}") from error

    def decode(self, event_type: str, schema_id: int, data: bytes) -> Event | dict[str, Any]:
        """Return the newest model of the type that this program defines, or a dict when it defines none."""
        model = model_of(event_type)
        return self.to_dict(schema_id, data) if model is None else self.to_model(schema_id, data, model)

    def _read(self, schema_id: int, data: bytes, reader: ParsedSchema | None) -> dict[str, Any]:
        writer = self._writers.get(schema_id)
        if writer is None:
            raise UndecodableRecordError(f"Schema id {schema_id} is not in the registry of this store.")
        try:
            found = fastavro.schemaless_reader(BytesIO(data), writer, reader)
        except (*_UNREADABLE, fastavro.read.SchemaResolutionError) as error:
            raise UndecodableRecordError(f"Bytes do not resolve under schema id {schema_id}: {error}") from error
        assert isinstance(found, dict)  # an event's schema is a record
        return found


def _parse(schema: RegisteredSchema) -> ParsedSchema:
    try:
        return fastavro.parse_schema(schema.definition)
    except (ValueError, fastavro.schema.SchemaParseException) as error:
        raise SchemaError(f"Schema id {schema.id} ({schema.subject}) in the registry is not Avro: {error}") from error


def _dict_of(model: type[Event]) -> Callable[[Event], dict[str, Any]]:
    """Flat models need no copy: their fields are a dict already."""
    flat = all(not _differs(info.annotation) for info in model.model_fields.values())
    return (
        (lambda event: event.__dict__) if flat else (lambda event: {k: _avro(v) for k, v in event.__dict__.items()})
    )


def _differs(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    """Say whether a field's value is not what fastavro takes."""
    if isinstance(annotation, type) and issubclass(annotation, (BaseModel, Enum, set, frozenset)):
        return True
    if get_origin(annotation) in {set, frozenset}:
        return True
    return any(_differs(arg) for arg in getattr(annotation, "__args__", ()))


def _avro(value: Any) -> Any:  # noqa: ANN401 - a field's value
    if isinstance(value, BaseModel):
        return {name: _avro(each) for name, each in value.__dict__.items()}
    if isinstance(value, dict):
        return {name: _avro(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_avro(each) for each in value]
    return value.value if isinstance(value, Enum) else value
