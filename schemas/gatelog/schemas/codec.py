"""Events to Avro bytes and back, each schema parsed once."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import DecimalException
from io import BytesIO
from typing import Any, Final, TypeAlias

import fastavro
import orjson
from fastavro.types import Schema as ParsedSchema
from pydantic import ValidationError

from gatelog.core.errors import InvalidEventError, UndecodableRecordError
from gatelog.schemas.avro import classes_of
from gatelog.schemas.decoding import Decoder
from gatelog.schemas.event import Event, model_of
from gatelog.schemas.evolution import Evolution, Evolved
from gatelog.schemas.plain import plain_of
from gatelog.schemas.registry import RegisteredSchema, Registry
from gatelog.schemas.restoring import has_alternatives, restored, with_values
from gatelog.schemas.upcasting import steps_of, upcast_types

WIRE_HEADER: Final = struct.Struct(">bI")  # Confluent wire format: a zero byte, the schema id
_UNREADABLE: Final = (
    ValueError,  # CorruptBytesError too
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    AttributeError,
    RecursionError,
    DecimalException,
    struct.error,
)
_write: Final = fastavro.schemaless_writer
_read: Final = fastavro.schemaless_reader


@dataclass(frozen=True, slots=True)
class _Encoder:
    schema_id: int
    parsed: ParsedSchema
    as_dict: Callable[[Any], dict[str, Any]]
    decode: Callable[[bytes], Any] | None  # where a legal model can be more than what is read back


@dataclass(frozen=True, slots=True)
class _Writer:
    """A schema that stored bytes were written with; ``broken`` says why it cannot be used."""

    schema: RegisteredSchema
    parsed: ParsedSchema
    decode: Callable[[bytes], Any]
    broken: str | None = None


_Reader: TypeAlias = tuple[ParsedSchema | None, dict[str, type] | None]
"""What to resolve to, None where the bytes have the model's own schema; and classes, where unions need names."""


class Codec:
    """Encodes models and decodes stored bytes; knows the schemas that it was warmed with."""

    def __init__(self, registry: Registry, *, register: bool, upcasts: bool = True) -> None:
        """Use ``registry``; ``register`` allows new schemas to be written to it on the way.

        Without ``upcasts``, payloads are decoded as they were written only, and a missing upcaster is nobody's error.
        """
        self._upcasts = upcasts
        self._registry = registry
        self._register = register
        self._learning = asyncio.Lock()
        self._encoders: dict[type[Event], _Encoder] = {}
        self._writers: dict[int, _Writer] = {}
        self._readers: dict[tuple[int, type[Event]], _Reader] = {}
        self._parsed: dict[type[Event], ParsedSchema] = {}
        self._evolution: Evolution | None = None
        self._evolved: set[str] = set()  # the event types that the evolution knows
        self._upcast: dict[int, ParsedSchema] = {}  # schema id → what its bytes are read as for the first upcaster
        self.reshapes: set[int] = set()
        """The ids of schemas whose events may be read as several, or as another type: see ``evolve``."""

    async def start(self) -> None:
        """See that every stored version of the types that have upcasters can be read as the newest model.

        Raises:
            SchemaError: a step is missing; the message names it.
        """
        if not upcast_types() <= self._evolved:
            await self._load_versions(upcast_types())

    async def learn(self, model: type[Event]) -> None:
        """Find or register the schema of ``model``; afterwards ``encode`` needs no I/O for it.

        Raises:
            SchemaError: the model has no Avro schema, or it is not registered and may not be.
        """
        async with self._learning:  # one asks; those who wait for it go on in the order in which they came
            if model not in self._encoders:
                definition = model.avro_schema()
                decoder = Decoder(parsed := fastavro.parse_schema(definition))
                schema_id = await self._registry.id_of(model.event_type, definition, register=self._register)
                decode = decoder.decode if decoder.bounded else None
                self._encoders[model] = _Encoder(schema_id, parsed, plain_of(model, parsed), decode)

    def knows(self, model: type[Event]) -> bool:
        """Say whether ``encode`` can take events of ``model`` without I/O."""
        return model in self._encoders

    def encode(self, event: Event, stream: str, bytes_max: int) -> tuple[int, bytes]:
        """Return schema id and Avro bytes (no wire header) of an event.

        Raises:
            InvalidEventError: it does not fit its schema, is over ``bytes_max``, or could not be read back.
        """
        encoder = self._encoders[type(event)]
        out = BytesIO()
        try:
            _write(out, encoder.parsed, encoder.as_dict(event))
            data = out.getvalue()
            if encoder.decode is not None:
                orjson.dumps(encoder.decode(data), default=str)  # its bound of values within values is another
        except _UNREADABLE as error:
            why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
            raise InvalidEventError(stream, event.event_type, f"it does not fit its schema: {why}") from error
        if len(data) > bytes_max:
            raise InvalidEventError(
                stream,
                event.event_type,
                f"it has {len(data):,} bytes; {bytes_max:,} are allowed (event_bytes_max)",
            )
        return encoder.schema_id, data

    async def warm(self, schema_ids: set[int]) -> None:
        """Load the schemas that stored bytes were written with; unknown ids stay unknown.

        Raises:
            SchemaError: stored versions of an event type have no way to its newest model (see ``start``).
        """
        missing = schema_ids - self._writers.keys()
        if not missing:
            return
        found = await self._registry.load(missing)
        if self._upcasts and (unknown := {s.subject for s in found.values()} & upcast_types() - self._evolved):
            await self._load_versions(unknown)
        for schema_id, schema in found.items():
            self._writers[schema_id] = self._prepared(schema)

    async def _load_versions(self, event_types: set[str]) -> None:
        """Know the versions of types with upcasters, and of those that these make."""
        left, versions = list(event_types), {}
        while left:
            event_type = left.pop()
            if event_type not in versions:
                versions[event_type] = await self._registry.versions(event_type)
                left += [name for step in steps_of(event_type).values() for name in step.into or ()]
        if not versions:
            return
        for event_type in self._evolved - versions.keys():
            versions[event_type] = await self._registry.versions(event_type)
        evolution = Evolution(versions)
        evolution.check()
        self._evolution, self._evolved = evolution, set(versions)

    def _prepared(self, schema: RegisteredSchema) -> _Writer:
        try:
            parsed = fastavro.parse_schema(schema.definition)
            writer = _Writer(schema, parsed, Decoder(parsed).decode)
        except (*_UNREADABLE, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
            return _Writer(schema, {}, _nothing, f"Schema id {schema.id} ({schema.subject}) cannot be used: {error}")
        if self._evolution is not None and schema.subject in self._evolved:
            stop = self._evolution.first_stop(schema)
            if stop is not None:
                self._upcast[schema.id] = stop
                if self._evolution.reshapes(schema):
                    self.reshapes.add(schema.id)
        return writer

    def to_dict(self, schema_id: int, data: bytes) -> dict[str, Any]:
        """Return the payload as it was written.

        Raises:
            UndecodableRecordError: unknown schema id, or bytes that are not of this schema.
        """
        writer = self._writers.get(schema_id)
        if writer is None or writer.broken is not None:
            return self._decoded(schema_id, data, None)  # it says why not
        try:
            found = writer.decode(data)
        except _UNREADABLE as error:
            raise _unresolved(schema_id, error) from error
        assert isinstance(found, dict)  # an event's schema is a record
        return found

    def to_model(self, schema_id: int, data: bytes, model: type[Event]) -> Event:
        """Return the payload as ``model``, whatever older schema it was written with (Avro resolution, upcasters).

        Raises:
            UndecodableRecordError: the bytes or schemas do not resolve.
        """
        if schema_id in self._upcast:
            event = self._one(schema_id, data).data
            if not isinstance(event, model):
                raise UndecodableRecordError(f"An event under schema id {schema_id} is no {model.event_type} now.")
            return event
        key = (schema_id, model)
        if key not in self._readers:
            self._readers[key] = self._reader(schema_id, model)
        reader, classes = self._readers[key]
        try:
            found = self._decoded(schema_id, data, reader, named=classes is not None)
            return model.model_validate(found if classes is None else restored(found, classes))
        except ValidationError as error:
            raise UndecodableRecordError(f"A stored {model.event_type} is not a legal one today: {error}") from error

    def decode(self, event_type: str, schema_id: int, data: bytes) -> Event | dict[str, Any]:
        """Return the newest model of the type that this program defines, or a dict when it defines none."""
        if schema_id in self._upcast:
            return self._one(schema_id, data).data
        model = model_of(event_type)
        return self.to_dict(schema_id, data) if model is None else self.to_model(schema_id, data, model)

    def evolve(self, schema_id: int, data: bytes) -> list[Evolved]:
        """Return the events that a payload is read as, for ids in ``reshapes``.

        Raises:
            UndecodableRecordError: the bytes do not resolve, or an upcaster failed.
        """
        assert self._evolution is not None
        payload = self._decoded(schema_id, data, self._upcast[schema_id])
        return self._evolution.go(self._writers[schema_id].schema, payload)

    def _one(self, schema_id: int, data: bytes) -> Evolved:
        found = self.evolve(schema_id, data)
        if len(found) > 1:
            raise UndecodableRecordError(
                f"An event under schema id {schema_id} is read as {len(found)} events: take them from a reader or a "
                "subscription, each has its data."
            )
        return found[0]

    def _reader(self, schema_id: int, model: type[Event]) -> _Reader:
        if model not in self._parsed:
            self._parsed[model] = fastavro.parse_schema(model.avro_schema())
        own, writer = self._parsed[model], self._writers.get(schema_id)
        is_same = writer is not None and writer.parsed == own
        is_named = has_alternatives(own) or (writer is not None and has_alternatives(writer.parsed))
        classes = classes_of(model, model.event_type) if is_named else None
        return (None if is_same else with_values(own, model.avro_schema())), classes

    def _decoded(
        self, schema_id: int, data: bytes, reader: ParsedSchema | None, *, named: bool = False
    ) -> dict[str, Any]:
        writer = self._writers.get(schema_id)
        if writer is None:
            raise UndecodableRecordError(f"Schema id {schema_id} is not in the registry of this store.")
        if writer.broken is not None:
            raise UndecodableRecordError(writer.broken)
        try:
            found = writer.decode(data)  # fastavro must not see what is not of the schema
            if reader is not None or named:
                found = _read(BytesIO(data), writer.parsed, reader, return_named_type=named)
        except (*_UNREADABLE, fastavro.read.SchemaResolutionError) as error:
            raise _unresolved(schema_id, error) from error
        assert isinstance(found, dict)  # an event's schema is a record
        return found


def _unresolved(schema_id: int, error: Exception) -> UndecodableRecordError:
    return UndecodableRecordError(f"Bytes do not resolve under schema id {schema_id}: {error}")


def _nothing(_data: bytes) -> None:
    """Stand in for the check of a schema that cannot be used."""
