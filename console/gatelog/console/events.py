"""``gatelog append`` and ``tail``: events by hand."""

import asyncio
import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from pydantic import ValidationError

from gatelog.console import options
from gatelog.console.output import print_json
from gatelog.console.reading import print_event
from gatelog.core import postgres
from gatelog.core.domain import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, check_stream_id
from gatelog.core.errors import InvalidEventError, InvalidInputError, SchemaError
from gatelog.core.programs import import_module
from gatelog.core.settings import Settings
from gatelog.producer import Appended, Producer
from gatelog.reader import Reader
from gatelog.schemas import Event, NewEvent
from gatelog.schemas.event import model_of
from gatelog.schemas.from_avro import model_from
from gatelog.schemas.registries import registry_of

TAIL_INTERVAL_S: Final = 0.2
_EXPECTED: Final = {"any": ANY, "no-stream": NO_STREAM, "exists": STREAM_EXISTS}


def append(
    stream: Annotated[str, typer.Argument(help="Category-key, for example Order-42.")],
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Event type, for example OrderPlaced.")],
    payload: Annotated[str, typer.Argument(metavar="JSON", help="The payload; - reads it from standard input.")],
    expect: Annotated[str, typer.Option(help="any, no-stream, exists, or the exact version.")] = "any",
    schema: Annotated[Path | None, typer.Option(help="Avro schema file (.avsc) of the type.")] = None,
    models: Annotated[str | None, typer.Option(help="Python module that defines the type.")] = None,
    event_id: Annotated[UUID | None, typer.Option("--id", help="Event id, to repeat an append safely.")] = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Append one event. Its schema is the newest that the store knows for the type, or --schema, or --models.

    gatelog append Order-42 OrderPlaced '{"customer": "ann"}' --schema order.avsc --expect no-stream
    gatelog append Order-42 OrderPaid '{"amount": "9.90"}' --models shop.events --expect 1
    """
    check_stream_id(stream)
    expected = _expected(expect)
    text = sys.stdin.read() if payload == "-" else payload
    settings = options.settings_of(store, home)
    done = asyncio.run(_append(settings, stream, event_type, text, expected, schema, models, event_id))
    if json:
        print_json({"stream": done.stream, "version": done.version, "ids": done.event_ids, "known": done.known})
    else:
        typer.echo(f"{done.stream}@{done.version}  {done.event_ids[0]}{'  (known already)' if done.known else ''}")


async def _append(
    settings: Settings,
    stream: str,
    event_type: str,
    payload: str,
    expected: ExpectedVersion,
    schema: Path | None,
    models: str | None,
    event_id: UUID | None,
) -> Appended:
    async with Producer.connect(settings) as producer:
        model = await _model(settings, event_type, schema, models)
        try:
            event = model.model_validate_json(payload)
        except ValidationError as error:
            reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors())
            raise InvalidEventError(stream, event_type, reasons) from error
        new = NewEvent(event) if event_id is None else NewEvent(event, id=event_id)
        return await producer.append(stream, [new], expected_version=expected)


async def _model(settings: Settings, event_type: str, schema: Path | None, models: str | None) -> type[Event]:
    if models is not None:
        return _imported(models, event_type)
    if schema is not None:
        return _from_file(schema, event_type)
    async with postgres.pool(settings.dsn, settings.store, "gatelog append", 1) as pool:
        return model_from((await registry_of(settings, pool).latest(event_type)).definition)


def _imported(module: str, event_type: str) -> type[Event]:
    import_module(module)
    model = model_of(event_type)
    if model is None:
        raise SchemaError(f"Module {module} defines no event type {event_type!r}.")
    return model


def _from_file(schema: Path, event_type: str) -> type[Event]:
    try:
        definition: Any = json_module.loads(schema.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"--schema {schema}: {error}") from error
    if not isinstance(definition, dict) or definition.get("name") != event_type:
        raise SchemaError(f"--schema {schema} does not define a record named {event_type!r}.")
    return model_from(definition)


def _expected(text: str) -> ExpectedVersion:
    if text in _EXPECTED:
        return _EXPECTED[text]
    if text.isdecimal():
        return int(text)
    raise InvalidInputError(f"--expect {text!r}: say any, no-stream, exists, or a version such as 3.")


def tail(
    category: Annotated[list[str] | None, typer.Option(help="Only this category; may be repeated.")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Start after this position; default: now.")] = None,
    limit: Annotated[int | None, typer.Option("-n", "--limit", min=1, help="Stop after so many events.")] = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Follow the log in position order, as the index receives it, until Ctrl-C.

    gatelog tail
    gatelog tail --category Order --after 0 --json
    """
    settings = options.settings_of(store, home)

    async def follow() -> None:
        async with Reader.connect(settings) as reader:
            position = await reader.frontier() if after is None else after
            left = limit
            while left is None or left > 0:
                found = (
                    reader.category(*category, after=position, limit=left)
                    if category
                    else reader.all(after=position, limit=left)
                )
                async for event in found:
                    print_event(event, json)
                    assert event.position is not None
                    position = event.position
                    left = None if left is None else left - 1
                await asyncio.sleep(TAIL_INTERVAL_S)

    asyncio.run(follow())
