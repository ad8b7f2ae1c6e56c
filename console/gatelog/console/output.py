"""What commands print: tables and lines for people, JSON for programs."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
import typer
from rich.console import Console

from gatelog.core.errors import UndecodableRecordError
from gatelog.schemas import RecordedEvent

errors: Final = Console(stderr=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on a line of its own."""
    typer.echo(orjson.dumps(document, default=_plain))


def document_of(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as a JSON document; a payload that cannot be decoded is shown as its reason and hex."""
    document: dict[str, Any] = {
        "stream": event.stream,
        "version": event.version,
        "position": event.position,
        "id": event.id,
        "type": event.type,
        "recorded_at": event.recorded_at,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "metadata": event.metadata,
    }
    try:
        return {**document, "data": event.as_dict()}
    except UndecodableRecordError as error:
        return {**document, "unreadable": str(error), "raw": event.raw.hex()}


def line_of(event: RecordedEvent) -> str:
    """Return an event as one line for people: position, time, stream@version, type, payload."""
    document = document_of(event)
    payload = orjson.dumps(document.get("data", document.get("unreadable")), default=_plain).decode()
    position = "·" if event.position is None else str(event.position)
    when = event.recorded_at.strftime("%Y-%m-%d %H:%M:%S")
    return f"{position:>8}  {when}  {event.stream}@{event.version}  {event.type}  {payload}"


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values below a title; values are never cut or wrapped, so that they can be copied."""
    typer.secho(title, bold=True)
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        typer.echo(f"  {name:<{width}}  {value}")


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
