"""A store whose schemas are in a real registry with Confluent's API; and from one registry to the other."""

import asyncio
import base64
import http.server
import json
import secrets
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from support.processes import environment, gatelog

from gatelog.core import postgres
from gatelog.core.errors import IncompatibleSchemaError, RegistryUnavailableError, SchemaError, SettingsError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import Event
from gatelog.schemas.codec import WIRE_HEADER
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.copying import Copied, copy
from gatelog.schemas.definitions import same
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import Compatibility, RegisteredSchema


@pytest.fixture
def name() -> str:
    """An event type of its own: the registry is shared by tests."""
    return f"shop.Sent{secrets.token_hex(4)}"


@pytest.fixture
def at_server(settings: Settings, registry_url: str) -> Settings:
    return settings.model_copy(update={"registry_url": registry_url})


def _model(name: str) -> Any:  # noqa: ANN401 - a class that only exists in here
    class Sent(Event, event_type=name):
        parcel: str
        grams: int = 0

    return Sent


def _record(name: str, *fields: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f, "type": "string", "default": ""} for f in fields]}


def _server(settings: Settings) -> ConfluentRegistry:
    return ConfluentRegistry(settings)


async def test_a_store_keeps_its_schemas_there_and_others_decode_its_events(
    at_server: Settings, name: str, registry_url: str, pipeline: None
) -> None:
    sent = _model(name)
    async with Producer.connect(at_server) as producer, Reader.connect(at_server) as reader:
        await producer.append("Parcel-1", [sent(parcel="a", grams=5)], expected_version=ANY)
        (event,) = [event async for event in reader.stream("Parcel-1")]
    assert event.data == sent(parcel="a", grams=5)
    async with postgres.pool(at_server.dsn, at_server.store, "test", 1) as pool:
        assert await PostgresRegistry(at_server, pool).subjects() == []

    def decode() -> object:
        with SchemaRegistryClient({"url": registry_url}) as client:
            value = WIRE_HEADER.pack(0, event.schema_id) + event.raw
            return AvroDeserializer(client)(value, SerializationContext("any", MessageField.VALUE))

    assert await asyncio.to_thread(decode) == {"parcel": "a", "grams": 5}


async def test_without_leave_to_register_nothing_is(at_server: Settings, name: str) -> None:
    closed = at_server.model_copy(update={"register_schemas": False})
    async with Producer.connect(closed) as producer:
        with pytest.raises(SchemaError, match=f"{name}.*not registered"):
            await producer.append("Parcel-1", [_model(name)(parcel="a")], expected_version=ANY)
    assert name not in await _server(at_server).subjects()


async def test_the_server_s_own_level_holds_too(at_server: Settings, name: str) -> None:
    server = _server(at_server)
    await server.id_of(name, _record(name, "a"), register=True)
    await server.set_level(Compatibility.BACKWARD, name)
    assert await server.level(name) is Compatibility.BACKWARD
    breaks = {**_record(name, "a"), "fields": [{"name": "b", "type": "string"}]}
    for registering in (
        server.id_of(name, breaks, register=True),
        server.register(name, breaks, lambda *_: []),
        server.register(name, breaks, lambda *_: [], dry_run=True),
    ):
        with pytest.raises(IncompatibleSchemaError, match=name):
            await registering
    assert len(await server.versions(name)) == 1


async def test_references_are_written_out(at_server: Settings, registry_url: str, name: str) -> None:
    line, money = f"{name}.Line", f"{name}.Money"

    def register() -> int:
        with SchemaRegistryClient({"url": registry_url}) as client:
            client.register_schema(money, Schema(json.dumps(_record(money, "amount")), "AVRO"))
            inner = {"type": "record", "name": line, "fields": [{"name": "price", "type": money}]}
            to_money = SchemaReference(money, money, 1)
            client.register_schema(line, Schema(json.dumps(inner), "AVRO", [to_money]))
            items = {"type": "array", "items": line}
            fields = [{"name": "lines", "type": items}, {"name": "total", "type": money}]
            outer = {"type": "record", "name": name, "fields": fields}
            to_line = SchemaReference(line, line, 1)
            return int(client.register_schema(name, Schema(json.dumps(outer), "AVRO", [to_line, to_money])))

    schema_id = await asyncio.to_thread(register)
    found = (await _server(at_server).load({schema_id}))[schema_id]
    amount = {"type": "record", "name": money, "fields": _record(money, "amount")["fields"]}
    written = {
        "type": "record",
        "name": name,
        "fields": [
            {
                "name": "lines",
                "type": {
                    "type": "array",
                    "items": {"type": "record", "name": line, "fields": [{"name": "price", "type": amount}]},
                },
            },
            {"name": "total", "type": money},
        ],
    }
    assert same(found.definition, written), found.definition
    assert (found.subject, found.version) == (name, 1)


async def test_what_is_no_event_is_not_there(at_server: Settings, registry_url: str, name: str) -> None:
    def register() -> list[int]:
        with SchemaRegistryClient({"url": registry_url}) as client:
            return [
                client.register_schema(
                    f"{name}-enum", Schema('{"type": "enum", "name": "E", "symbols": ["A"]}', "AVRO")
                ),
                client.register_schema(
                    f"{name}-json", Schema('{"$schema": "http://json-schema.org/draft-07/schema#"}', "JSON")
                ),
            ]

    ids = await asyncio.to_thread(register)
    assert await _server(at_server).load(set(ids)) == {}
    with pytest.raises(SchemaError, match="not the Avro schema of an event"):
        await _server(at_server).versions(f"{name}-enum")


async def test_a_server_that_is_away_is_a_retryable_error(settings: Settings, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = settings.model_copy(update={"registry_url": f"http://127.0.0.1:{port}"})
    with pytest.raises(RegistryUnavailableError, match=f"127.0.0.1:{port}.*does not answer") as caught:
        await _server(away).load({1})
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"registry_url": "ftp://x"}, "must look like https"),
        ({"registry_url": "http://ann:secret@x"}, "GATELOG_REGISTRY_AUTH"),
        ({"registry_url": "http://x", "registry_auth": "ann"}, "user:password"),
    ],
)
def test_settings_that_cannot_be_used(changes: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        ConfluentRegistry(Settings.load(**changes))
    assert "secret" not in str(caught.value)


@contextmanager
def _proxy(target: str, certificate: Path) -> Iterator[str]:
    """Stand between us and the registry: TLS, and a password."""
    wanted = "Basic " + base64.b64encode(b"ann:se:cret").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != wanted:
                return self._answer(401, b'{"error_code": 401, "message": "Unauthorized"}')
            with urllib.request.urlopen(target + self.path) as answer:
                return self._answer(200, answer.read())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _self_signed(path: Path) -> Path:
    """Write a key and a certificate of its own for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + made.public_bytes(encoding))
    return path


async def test_tls_and_a_password(registry_url: str, tmp_path: Path) -> None:
    certificate = _self_signed(tmp_path / "both.pem")
    with _proxy(registry_url, certificate) as url:
        good = {"registry_url": url, "registry_auth": "ann:se:cret", "registry_ca_file": certificate}
        assert isinstance(await _server(Settings.load(**good)).subjects(), list)
        with pytest.raises(SettingsError, match="registry_auth"):
            await _server(Settings.load(**{**good, "registry_auth": "ann:wrong"})).subjects()
        with pytest.raises(RegistryUnavailableError, match=r"(?i)certificate"):
            await _server(Settings.load(registry_url=url, registry_auth="ann:se:cret")).subjects()
        with pytest.raises(SettingsError, match="registry_"):
            await _server(Settings.load(**{**good, "registry_ca_file": tmp_path / "none"})).subjects()


async def _next_id(server: ConfluentRegistry, name: str) -> int:
    """Return the id that the server gives next: it numbers without gaps."""
    return (
        await server.id_of(f"{name}.Probe", _record(f"{name}.Probe", f"f{secrets.token_hex(4)}"), register=True) + 1
    )


async def test_ids_stay_valid_from_postgres_to_the_server_and_back(
    settings: Settings, at_server: Settings, registry_url: str, name: str, tmp_path: Path
) -> None:
    server, sent = _server(at_server), _model(name)
    first = await _next_id(server, name)
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        tables = PostgresRegistry(settings, pool)
        await tables.take_over([RegisteredSchema(first, name, 1, _record(name, "parcel"))])
        await tables.set_level(Compatibility.FULL_TRANSITIVE, name)
        async with Producer.connect(settings) as producer:
            await producer.append("Parcel-1", [sent(parcel="a", grams=5)], expected_version=ANY)
        before = await tables.versions(name)
    assert [schema.id for schema in before] == [first, first + 1]
    run = environment(settings)
    done = await asyncio.to_thread(gatelog, ["schema", "copy", "--to", registry_url, "--dry-run"], run, tmp_path)
    assert (done.returncode, done.stdout) == (0, "would copy 2 schemas of 1 event types\n"), done.stderr
    done = await asyncio.to_thread(gatelog, ["schema", "copy", "--to", registry_url, "--json"], run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"subjects": 1, "schemas": 2, "new": 2}
    assert await server.level(name) is Compatibility.FULL_TRANSITIVE
    async with Reader.connect(at_server) as reader:
        (event,) = [event async for event in reader.stream("Parcel-1")]
    assert (event.schema_id, event.data) == (first + 1, sent(parcel="a", grams=5))
    later = await server.register(name, _record(name, "parcel", "note"), lambda *_: [])
    assert later.version == 3, "the subject is not in mode IMPORT any more"

    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        tables = PostgresRegistry(settings, pool)
        assert await copy(server, tables, [name]) == Copied(subjects=1, schemas=3, new=1)
        assert await copy(tables, server) == Copied(subjects=1, schemas=3, new=0)
        after = await tables.versions(name)
        made = await tables.register("Next", _record("Next"), lambda *_: [])
    assert after[:2] == before
    assert after[2].id == later.schema_id
    assert made.schema_id == after[2].id + 1


async def test_a_server_that_numbers_as_it_likes_is_refused_and_left_as_it_was(
    settings: Settings, at_server: Settings, name: str
) -> None:
    server = _server(at_server)
    await server.id_of(name, _record(name, "old"), register=True)
    far = await _next_id(server, name) + 1_000
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        tables = PostgresRegistry(settings, pool)
        await tables.take_over([RegisteredSchema(far, f"{name}.Other", 1, _record(f"{name}.Other", "a"))])
        with pytest.raises(SchemaError, match=f"does not keep ids: .* as id {far}"):
            await copy(tables, server)
        await tables.take_over([RegisteredSchema(far + 1, name, 1, _record(name, "old"))])
        with pytest.raises(SchemaError, match="cannot take over"):
            await copy(tables, server, [name])
    assert len(await server.versions(name)) == 1
    assert await server.versions(f"{name}.Other") == []


async def test_a_copy_says_what_it_cannot_do(settings: Settings, at_server: Settings) -> None:
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        with pytest.raises(SchemaError, match="no subject 'Nobody'"):
            await copy(PostgresRegistry(settings, pool), _server(at_server), ["Nobody"])
