"""The schemas of a store over the HTTP API of a registry, asked by the client of others and by bare requests."""

import asyncio
import http.client
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from support.running import running

from gatelog.console.serving import SchemaServer
from gatelog.core import postgres
from gatelog.core.errors import SettingsError, StoreNotInitialisedError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import Event
from gatelog.schemas.codec import WIRE_HEADER
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.definitions import same
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import Compatibility


class Shipped(Event, event_type="shop.Shipped"):
    parcel: str
    grams: int = 0


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    server = SchemaServer(settings, "127.0.0.1", 0)
    async with running(server):
        yield server.url


@pytest.fixture
async def registered(settings: Settings) -> int:
    async with Producer.connect(settings) as producer:
        await producer.append("Parcel-1", [Shipped(parcel="a", grams=5)], expected_version=ANY)
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        return (await PostgresRegistry(settings, pool).latest("shop.Shipped")).id


def _ask(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


async def _asked(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:  # noqa: ANN401 - JSON
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return await asyncio.to_thread(_ask, url, method, path, raw)


async def test_the_deserializer_of_others_decodes_a_record(url: str, settings: Settings, registered: int) -> None:
    async with Reader.connect(settings) as reader:
        (event,) = [event async for event in reader.stream("Parcel-1")]
    value = WIRE_HEADER.pack(0, registered) + event.raw

    def decode() -> object:
        with SchemaRegistryClient({"url": url}) as client:
            context = SerializationContext("any", MessageField.VALUE)
            return AvroDeserializer(client)(value, context)

    assert await asyncio.to_thread(decode) == {"parcel": "a", "grams": 5}


async def test_the_client_of_others_finds_everything(url: str, registered: int) -> None:
    def look() -> None:
        with SchemaRegistryClient({"url": url}) as client:
            _look(client, registered)

    await asyncio.to_thread(look)


def _look(client: SchemaRegistryClient, registered: int) -> None:
    assert client.get_subjects() == ["shop.Shipped"]
    assert client.get_versions("shop.Shipped") == [1]
    latest = client.get_latest_version("shop.Shipped")
    assert (latest.schema_id, latest.version) == (registered, 1)
    assert json.loads(client.get_schema(registered).schema_str or "") == Shipped.avro_schema()
    schema = Schema(json.dumps(Shipped.avro_schema()), "AVRO")
    assert client.lookup_schema("shop.Shipped", schema).schema_id == registered
    assert client.register_schema("shop.Shipped", schema) == registered
    assert client.get_compatibility("shop.Shipped") == "BACKWARD"
    with pytest.raises(SchemaRegistryError, match="read-only"):
        client.register_schema("shop.Other", schema)


async def test_our_own_client_agrees_with_the_tables(url: str, settings: Settings, registered: int) -> None:
    server = ConfluentRegistry(Settings.load(registry_url=url))
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        tables = PostgresRegistry(settings, pool)
        await tables.set_level(Compatibility.FULL, "shop.Shipped")
        assert await server.subjects() == await tables.subjects()
        assert await server.versions("shop.Shipped") == await tables.versions("shop.Shipped")
        assert await server.load({registered, 999}) == await tables.load({registered, 999})
        assert await server.level("shop.Shipped") is Compatibility.FULL
        found = await server.find("shop.Shipped", Shipped.avro_schema())
        assert found is not None
        assert same(found.definition, Shipped.avro_schema())


async def test_compatibility_is_judged_under_the_level_of_the_subject(
    url: str, settings: Settings, registered: int
) -> None:
    path = "/compatibility/subjects/shop.Shipped/versions/latest"
    fields = Shipped.avro_schema()["fields"]
    fits = {**Shipped.avro_schema(), "fields": [*fields, {"name": "note", "type": "string", "default": ""}]}
    breaks = {**Shipped.avro_schema(), "fields": [*fields, {"name": "note", "type": "string"}]}
    assert await _asked(url, "POST", path, {"schema": json.dumps(fits)}) == (200, {"is_compatible": True})
    status, found = await _asked(url, "POST", f"{path}?verbose=true", {"schema": json.dumps(breaks)})
    assert (status, found["is_compatible"]) == (200, False)
    assert "note" in found["messages"][0]
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        await PostgresRegistry(settings, pool).set_level(Compatibility.NONE, "shop.Shipped")
    assert await _asked(url, "POST", path, {"schema": json.dumps(breaks)}) == (200, {"is_compatible": True})


_SCHEMA = json.dumps(Shipped.avro_schema())


_RUBBISH: list[tuple[str, str, Any, int, int]] = [
    ("GET", "/schemas/ids/99", None, 404, 40403),
    ("GET", "/schemas/ids/x", None, 404, 40403),
    ("GET", "/schemas/ids/-1", None, 404, 40403),
    ("GET", f"/schemas/ids/{'9' * 1000}", None, 404, 40403),
    ("GET", "/schemas/ids/%D9%A1", None, 404, 40403),
    ("GET", "/subjects/Nobody/versions", None, 404, 40401),
    ("GET", "/subjects/a%00b/versions", None, 404, 40401),
    ("GET", "/subjects/shop.Shipped/versions/2", None, 404, 40402),
    ("GET", "/subjects/shop.Shipped/versions/0", None, 422, 42202),
    ("GET", "/subjects/shop.Shipped/versions/first", None, 422, 42202),
    ("GET", f"/subjects/shop.Shipped/versions/{'9' * 5000}", None, 422, 42202),
    ("GET", "/nothing/here", None, 404, 404),
    ("POST", "/subjects", b"{}", 404, 404),
    ("POST", "/subjects/shop.Shipped", b"", 422, 42201),
    ("POST", "/subjects/shop.Shipped", b"[]", 422, 42201),
    ("POST", "/subjects/shop.Shipped", b"\xff\xfe", 422, 42201),
    ("POST", "/subjects/shop.Shipped", b"[" * 200_000, 422, 42201),
    ("POST", "/subjects/shop.Shipped", {"schema": "[" * 100_000}, 422, 42201),
    ("POST", "/subjects/shop.Shipped", {"schema": 5}, 422, 42201),
    ("POST", "/subjects/shop.Shipped", {"schema": '"string"'}, 422, 42201),
    ("POST", "/subjects/shop.Shipped", {"schema": '{"type": "record"}'}, 422, 42201),
    ("POST", "/subjects/shop.Shipped", {"schema": _SCHEMA, "schemaType": "JSON"}, 422, 42201),
    ("POST", "/subjects/Nobody", {"schema": _SCHEMA}, 404, 40401),
    ("POST", "/subjects/shop.Shipped", {"schema": '{"type":"record","name":"X","fields":[]}'}, 404, 40403),
    ("POST", "/subjects/Nobody/versions", {"schema": _SCHEMA}, 422, 42205),
    ("POST", "/subjects/shop.Shipped", b"x" * 5_000_000, 413, 413),
    ("PUT", "/config", {"compatibility": "NONE"}, 422, 42205),
    ("PUT", "/mode/shop.Shipped", {"mode": "IMPORT"}, 422, 42205),
    ("DELETE", "/subjects/shop.Shipped", None, 422, 42205),
]


async def test_rubbish_is_refused_with_the_codes_of_a_registry(url: str, registered: int) -> None:
    for method, path, body, status, code in _RUBBISH:
        found = await _asked(url, method, path, body)
        assert (found[0], found[1]["error_code"]) == (status, code), (method, path[:100], str(body)[:100], found)
        assert found[1]["message"]
    assert await _asked(url, "GET", "/health") == (200, {"status": "ok"})


async def test_what_is_not_http_ends_that_connection_only(url: str, registered: int) -> None:
    where, chance = urlsplit(url), random.Random(1)
    for text in (b"", b"\0" * 100, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, chance.randbytes(10_000), b"GET"):
        with suppress(OSError):  # it may hang up while we are talking
            connection = socket.create_connection((where.hostname or "", where.port or 0), timeout=10)
            with connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                await asyncio.to_thread(connection.recv, 100)
    assert await _asked(url, "GET", "/subjects") == (200, ["shop.Shipped"])


async def test_health_says_when_postgres_is_away(settings: Settings, url: str) -> None:
    assert await _asked(url, "GET", "/health") == (200, {"status": "ok"})
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f'DROP SCHEMA "{settings.store}" CASCADE')
    await connection.close()
    status, found = await _asked(url, "GET", "/health")
    assert (status, found["error_code"]) == (500, 50001)
    assert settings.store not in found["message"]


async def test_a_taken_port_and_a_store_without_tables_are_errors_of_the_start(bare_settings: Settings) -> None:
    server = SchemaServer(bare_settings, "127.0.0.1", 0)
    with pytest.raises(SettingsError, match="Cannot listen"):
        SchemaServer(bare_settings, "127.0.0.1", urlsplit(server.url).port or 0)
    with pytest.raises(StoreNotInitialisedError):
        await server.run(asyncio.Event())
