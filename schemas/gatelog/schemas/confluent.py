"""A registry behind Confluent's HTTP API: Confluent's own, Apicurio, Karapace, Redpanda, and others.

A client is open only while calls are under way: the codec asks for a schema once in a process' life, and there is
nothing that whoever has a registry would have to close.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from gatelog.core.errors import (
    IncompatibleSchemaError,
    RegistryUnavailableError,
    SchemaError,
    SettingsError,
)
from gatelog.core.settings import Settings
from gatelog.schemas.definitions import full_name, inlined, same
from gatelog.schemas.registry import AvroSchema, Check, Compatibility, RegisteredSchema, Registration

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, Schema

_RETRIES_MAX: Final = 2
_RETRY_WAIT_MS: Final = 200
_REQUESTS_MAX: Final = 8  # at once
_ID_MAX: Final = 2**31 - 1
_BUSY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_IMPORT: Final = "IMPORT"


class ConfluentRegistry:
    """See ``gatelog.schemas.registry.Registry``; asks the server only for what it has not seen."""

    def __init__(self, settings: Settings) -> None:
        """Use the server of the settings.

        Raises:
            SettingsError: its URL, credentials or files cannot be used, or ``gatelog[registry]`` is not installed.
        """
        self._configuration = _configuration(settings)
        self._url = settings.registry_url or ""
        self._by_id: dict[int, RegisteredSchema] = {}
        self._open: AsyncSchemaRegistryClient | None = None
        self._users = 0

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """See ``Registry``."""
        async with self._client() as client:
            found = await self.find(subject, definition)
            if found is not None:
                return found.id
            if not register:
                raise SchemaError(
                    f"The schema of {subject} in this program is not registered at {self._url}, and register_schemas "
                    "is off. Register it at deploy time."
                )
            with self._translated(subject):
                return int(await client.register_schema(subject, _avro(definition)))

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """See ``Registry``. What is not an Avro record is not there."""
        missing = [i for i in ids if i not in self._by_id and 0 < i <= _ID_MAX]
        if missing:
            async with self._client() as client:
                slots = asyncio.Semaphore(_REQUESTS_MAX)
                found = await asyncio.gather(*(self._load(client, slots, schema_id) for schema_id in missing))
            self._by_id |= {schema.id: schema for schema in found if schema is not None}
        return {i: self._by_id[i] for i in ids if i in self._by_id}

    async def _load(
        self, client: "AsyncSchemaRegistryClient", slots: asyncio.Semaphore, schema_id: int
    ) -> RegisteredSchema | None:
        async with slots:
            with self._translated(f"id {schema_id}"):
                schema = await _or_none(client.get_schema(schema_id))
                if schema is None:
                    return None
                places = await _or_none(client.get_schema_versions(schema_id)) or []
            definition = await self._definition(client, schema)
        if definition is None:
            return None
        name = full_name(definition)
        named = sorted(((p.subject, p.version) for p in places), key=lambda p: (p[0] != name, p))
        subject, version = named[0] if named else (name, 0)  # a deleted subject: the id still says what was written
        return RegisteredSchema(schema_id, subject, version, definition)

    async def subjects(self) -> list[str]:
        """See ``Registry``."""
        async with self._client() as client:
            with self._translated("subjects"):
                return sorted(await client.get_subjects())

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """See ``Registry``."""
        async with self._client() as client:
            with self._translated(subject):
                numbers = await _or_none(client.get_versions(subject)) or []
            return [await self._version(client, subject, number) for number in sorted(numbers)]

    async def _version(
        self, client: "AsyncSchemaRegistryClient", subject: str, number: int | str
    ) -> RegisteredSchema:
        with self._translated(subject):
            found = await client.get_version(subject, number)  # type: ignore[arg-type] # "latest" is a Literal there
        definition = await self._definition(client, found.schema)
        if definition is None or found.schema_id is None or found.version is None:
            raise SchemaError(f"{subject} version {number} at {self._url} is not the Avro schema of an event.")
        return RegisteredSchema(found.schema_id, subject, found.version, definition)

    async def latest(self, subject: str) -> RegisteredSchema:
        """See ``Registry``."""
        async with self._client() as client:
            with self._translated(subject):
                there = await _or_none(client.get_versions(subject))
            if not there:
                raise SchemaError(f"The registry at {self._url} knows no schema for event type {subject!r}.")
            return await self._version(client, subject, "latest")

    async def find(self, subject: str, definition: AvroSchema) -> RegisteredSchema | None:
        """See ``Registry``. The server judges what is the same definition."""
        async with self._client() as client:
            with self._translated(subject):
                found = await _or_none(client.lookup_schema(subject, _avro(definition)))
        if found is None or found.schema_id is None or found.version is None:
            return None
        return RegisteredSchema(found.schema_id, subject, found.version, definition)

    async def register(
        self, subject: str, definition: AvroSchema, check: Check, *, dry_run: bool = False
    ) -> Registration:
        """See ``Registry``. The server checks too, by its own rules, and under its own lock."""
        async with self._client() as client:  # one for all that follows
            if found := await self.find(subject, definition):
                return Registration(found.id, found.version, new=False)
            versions, level = await self.versions(subject), await self.level(subject)
            if problems := check(level, definition, versions):
                raise IncompatibleSchemaError(subject, level, problems)
            with self._translated(subject):
                if dry_run:
                    if versions and not await client.test_compatibility(subject, _avro(definition)):
                        raise IncompatibleSchemaError(subject, level, ["the registry says so, without a reason"])
                    return Registration(None, versions[-1].version + 1 if versions else 1, new=True)
                schema_id = int(await client.register_schema(subject, _avro(definition)))
            made = await self.find(subject, definition)
        if made is None:
            raise SchemaError(f"The registry at {self._url} took {subject} as id {schema_id}, but does not find it.")
        return Registration(made.id, made.version, new=True)

    async def level(self, subject: str | None = None) -> Compatibility:
        """See ``Registry``."""
        async with self._client() as client:
            with self._translated(subject or "config"):
                own = await _or_none(client.get_compatibility(subject)) if subject is not None else None
                found = own or await client.get_compatibility()
        return Compatibility(found)

    async def set_level(self, level: Compatibility, subject: str | None = None) -> None:
        """See ``Registry``."""
        async with self._client() as client:
            with self._translated(subject or "config"):
                await client.set_compatibility(subject, level.value)

    async def take_over(self, schemas: Iterable[RegisteredSchema]) -> int:
        """See ``Registry``. Subjects are put into mode IMPORT meanwhile; what cannot keep its id is taken back."""
        async with self._client() as client:
            new = sorted([s for s in schemas if not await self._has(s)], key=lambda schema: schema.id)
            written: list[tuple[str, int]] = []
            with self._translated("import"):
                try:
                    for schema in new:
                        await _import(client, schema)
                        await self._verify(schema, written)
                except BaseException:
                    await _take_back(client, written)
                    raise
                finally:
                    for subject in {schema.subject for schema in new}:
                        await _end_import(client, subject)
        return len(new)

    async def _has(self, schema: RegisteredSchema) -> bool:
        """Say whether a schema is there under its id. A server names an id's subjects only in part: ask both ways."""
        there = (await self.load({schema.id})).get(schema.id)
        known = await self.find(schema.subject, schema.definition)
        if there is None and known is None:
            return False
        equal = there is not None and same(there.definition, schema.definition)
        if equal and known is not None and (known.id, known.version) == (schema.id, schema.version):
            return True
        what = f"as id {known.id}, version {known.version}" if known else f"but has {there.subject if there else ''}"
        raise SchemaError(
            f"The registry at {self._url} cannot take over {schema.subject} version {schema.version} as id "
            f"{schema.id}: it has it {what}. Nothing was taken over: use an empty registry."
        )

    async def _verify(self, schema: RegisteredSchema, written: list[tuple[str, int]]) -> None:
        """See that a server did as told: there are those that take an id and give another, without a word."""
        found = await self.find(schema.subject, schema.definition)
        if found is not None:
            written.append((found.subject, found.version))
        if found is None or (found.id, found.version) != (schema.id, schema.version):
            got = "nothing" if found is None else f"id {found.id}, version {found.version}"
            raise SchemaError(
                f"The registry at {self._url} does not keep ids: {schema.subject} version {schema.version} was sent "
                f"as id {schema.id}, and became {got}. The {len(written)} schemas that were written were taken back, "
                "as far as the server allows it. Some servers number from 1 whatever they are told: an empty one of "
                "these can take over ids without gaps, in order."
            )

    async def _definition(self, client: "AsyncSchemaRegistryClient", schema: "Schema") -> AvroSchema | None:
        """Return a schema with what it refers to written out, or None if it is not an Avro record."""
        if (schema.schema_type or "AVRO") != "AVRO" or schema.schema_str is None:
            return None
        try:
            outer = json.loads(schema.schema_str)
        except ValueError as error:
            raise SchemaError(f"The registry at {self._url} returned a schema that is not JSON: {error}") from error
        if not isinstance(outer, dict) or outer.get("type") != "record":
            return None
        known: dict[str, Any] = {}
        await self._collect(client, schema, known)
        return inlined(outer, known)

    async def _collect(self, client: "AsyncSchemaRegistryClient", schema: "Schema", known: dict[str, Any]) -> None:
        for reference in schema.references or ():
            if reference.name in known or reference.subject is None or reference.version is None:
                continue
            with self._translated(reference.subject):
                found = await client.get_version(reference.subject, reference.version)
            known[str(reference.name)] = json.loads(found.schema.schema_str or "null")
            await self._collect(client, found.schema, known)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator["AsyncSchemaRegistryClient"]:
        """Open a client, or share the one that is open; who leaves last closes it."""
        if self._open is None:
            self._open = self._made()
        client = self._open
        self._users += 1
        try:
            yield client
        finally:
            self._users -= 1
            if self._users == 0:
                self._open = None
                await client.aclose()

    def _made(self) -> "AsyncSchemaRegistryClient":
        from confluent_kafka.schema_registry import AsyncSchemaRegistryClient

        try:
            return AsyncSchemaRegistryClient(self._configuration)
        except (ValueError, OSError) as error:  # its own checks; certificates that cannot be read
            raise SettingsError(f"The registry settings (registry_…) cannot be used: {error}") from error

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn the client's errors into gatelog's, by class and code.

        Raises:
            RegistryUnavailableError: no answer, or not now.
            IncompatibleSchemaError, SchemaError, SettingsError: the server refused.
        """
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            yield
        except _transport_errors() as error:
            raise RegistryUnavailableError(
                f"The registry at {self._url} does not answer ({type(error).__name__}: {error}). Is it running?"
            ) from error
        except SchemaRegistryError as error:
            raise self._refused(what, error.http_status_code, error.error_message) from error
        except json.JSONDecodeError as error:
            raise SchemaError(f"{self._url} does not answer like a schema registry: {error}") from error

    def _refused(self, what: str, status: int, message: str) -> Exception:
        said = f"The registry at {self._url} ({what}): {message} (HTTP {status})"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY:
            return RegistryUnavailableError(said)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return SettingsError(f"{said}. Check registry_auth.")
        if status == HTTPStatus.CONFLICT:
            return IncompatibleSchemaError(what, "the registry's level", [message])
        return SchemaError(said)


def _configuration(settings: Settings) -> dict[str, Any]:
    try:
        import confluent_kafka.schema_registry  # noqa: F401 - only whether it can be
    except ImportError as error:
        raise SettingsError(
            "registry_url is set: install the client with `pip install gatelog[registry]`."
        ) from error
    urls = [urlsplit(url.strip()) for url in (settings.registry_url or "").split(",")]
    if any(url.scheme not in {"http", "https"} or not url.hostname for url in urls):
        raise SettingsError("registry_url must look like https://host:port, with commas between several.")
    if any(url.username or url.password for url in urls):
        raise SettingsError("registry_url holds a password: put user:password into GATELOG_REGISTRY_AUTH.")
    auth = settings.registry_auth.get_secret_value() if settings.registry_auth else None
    if auth is not None and ":" not in auth:
        raise SettingsError("registry_auth must look like user:password.")
    given = {
        "url": settings.registry_url,
        "basic.auth.user.info": auth,
        "ssl.ca.location": settings.registry_ca_file and str(settings.registry_ca_file),
        "ssl.certificate.location": settings.registry_cert_file and str(settings.registry_cert_file),
        "ssl.key.location": settings.registry_key_file and str(settings.registry_key_file),
        "timeout": settings.registry_timeout_s,
        "max.retries": _RETRIES_MAX,
        "retries.wait.ms": _RETRY_WAIT_MS,
    }
    return {name: value for name, value in given.items() if value is not None}


def _avro(definition: AvroSchema) -> "Schema":
    from confluent_kafka.schema_registry import Schema

    return Schema(json.dumps(definition, separators=(",", ":")), "AVRO")


async def _or_none(asked: Any) -> Any:  # noqa: ANN401 - any of the client's coroutines
    """Return what was asked for, or None if the server does not have it."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    try:
        return await asked
    except SchemaRegistryError as error:
        if error.http_status_code == HTTPStatus.NOT_FOUND:
            return None
        raise


async def _import(client: "AsyncSchemaRegistryClient", schema: RegisteredSchema) -> None:
    """Register under an id and version: the API has it, the client has not."""
    await client.update_mode(schema.subject, _IMPORT, force=True)
    body = {**_avro(schema.definition).to_dict(), "id": schema.id, "version": schema.version}
    await client._rest_client.post(f"subjects/{quote(schema.subject, safe='')}/versions", body=body)


async def _take_back(client: "AsyncSchemaRegistryClient", written: list[tuple[str, int]]) -> None:
    """Delete what an import has written, and nothing else; a server may not allow it, and says so in its log."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    for subject, version in reversed(written):
        with suppress(SchemaRegistryError):
            await client.delete_version(subject, version)
            await client.delete_version(subject, version, permanent=True)


async def _end_import(client: "AsyncSchemaRegistryClient", subject: str) -> None:
    """Let the subject follow the server's own mode again, or be writable where there is no such thing."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    try:
        await client.delete_mode(subject)
    except SchemaRegistryError:
        await client.update_mode(subject, "READWRITE")


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the client's HTTP library raises when there is no answer; which library depends on its version."""
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx  # type: ignore[no-redef,import-not-found,unused-ignore] # older clients
    return (httpx.TransportError,)
