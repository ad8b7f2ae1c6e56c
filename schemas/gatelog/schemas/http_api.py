"""A registry over Confluent's HTTP API, for reading: what tools and consumers of other languages decode with.

Nothing can be changed through it. Whoever asks to register what is registered gets its id, as from a registry in mode
READONLY; anything else is refused.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatelog.core import logs
from gatelog.core.errors import GatelogError, SchemaError
from gatelog.core.telling import told
from gatelog.schemas.checking import problems
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import AvroSchema, Compatibility, RegisteredSchema, Registry

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
_MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_MODE: Final = {"mode": "READONLY"}
_CHANGES: Final = ("PUT", "DELETE", "PATCH")
_LATEST: Final = frozenset({"latest", "-1"})
_VERSION_MAX: Final = 2**31 - 1
_log = logs.logger("serve")

Handler = Callable[[Request], Awaitable[Any]]


class ApiError(Exception):
    """A refusal, with the code that Confluent's registry gives for it."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


def application(registry: Registry) -> Starlette:
    """Return the API over ``registry`` as an ASGI application."""
    api = _Api(registry)
    read: dict[str, Handler] = {
        "/": api.root,
        "/health": api.health,
        "/schemas/types": api.types,
        "/schemas/ids/{id}": api.by_id,
        "/schemas/ids/{id}/schema": api.text_by_id,
        "/schemas/ids/{id}/subjects": api.subjects_of_id,
        "/schemas/ids/{id}/versions": api.versions_of_id,
        "/subjects": api.subjects,
        "/subjects/{subject}/versions": api.versions,
        "/subjects/{subject}/versions/{version}": api.version,
        "/subjects/{subject}/versions/{version}/schema": api.text_of_version,
        "/config": api.config,
        "/config/{subject}": api.config,
        "/mode": api.mode,
        "/mode/{subject}": api.mode,
    }
    asked: dict[str, Handler] = {
        "/subjects/{subject}": api.lookup,
        "/subjects/{subject}/versions": api.register,
        "/compatibility/subjects/{subject}/versions": api.compatible,
        "/compatibility/subjects/{subject}/versions/{version}": api.compatible,
    }
    routes = [Route(path, _answering(handler), methods=["GET"]) for path, handler in read.items()]
    routes += [Route(path, _answering(handler), methods=["POST"]) for path, handler in asked.items()]
    routes.append(Route("/{path:path}", _answering(_elsewhere), methods=["GET", "POST", *_CHANGES]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_served})


class _Api:
    """One method an endpoint; each returns what becomes JSON."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def root(self, _request: Request) -> dict[str, Any]:
        return {}

    async def health(self, _request: Request) -> dict[str, Any]:
        await self._registry.level()
        return {"status": "ok"}

    async def types(self, _request: Request) -> list[str]:
        return ["AVRO"]

    async def by_id(self, request: Request) -> dict[str, Any]:
        return {"schema": _text((await self._by_id(request)).definition)}

    async def text_by_id(self, request: Request) -> AvroSchema:
        return (await self._by_id(request)).definition

    async def subjects_of_id(self, request: Request) -> list[str]:
        return [(await self._by_id(request)).subject]

    async def versions_of_id(self, request: Request) -> list[dict[str, Any]]:
        schema = await self._by_id(request)
        return [{"subject": schema.subject, "version": schema.version}]

    async def subjects(self, request: Request) -> list[str]:
        prefix = request.query_params.get("subjectPrefix", "")
        return [name for name in await self._registry.subjects() if name.startswith(prefix)]

    async def versions(self, request: Request) -> list[int]:
        return [schema.version for schema in await self._versions(request)]

    async def version(self, request: Request) -> dict[str, Any]:
        return _document(_chosen(request, await self._versions(request)))

    async def text_of_version(self, request: Request) -> AvroSchema:
        return _chosen(request, await self._versions(request)).definition

    async def lookup(self, request: Request) -> dict[str, Any]:
        definition = await _definition(request)
        await self._versions(request)  # an unknown subject is another error than an unknown schema
        found = await self._registry.find(request.path_params["subject"], definition)
        if found is None:
            raise ApiError(HTTPStatus.NOT_FOUND, 40403, "Schema not found")
        return _document(found)

    async def register(self, request: Request) -> dict[str, Any]:
        found = await self._registry.find(request.path_params["subject"], await _definition(request))
        if found is None:
            raise _refused(f"Subject {request.path_params['subject']}")
        return {"id": found.id}

    async def compatible(self, request: Request) -> dict[str, Any]:
        definition = await _definition(request)
        subject = request.path_params["subject"]
        versions = await self._registry.versions(subject)
        level = await self._registry.level(subject)
        if "version" in request.path_params:
            if not versions:
                raise ApiError(HTTPStatus.NOT_FOUND, 40401, f"Subject '{subject}' not found.")
            versions = [_chosen(request, versions)]
        found = problems(level, definition, versions)
        verbose = request.query_params.get("verbose", "").lower() == "true"
        return {"is_compatible": not found, **({"messages": found} if verbose else {})}

    async def config(self, request: Request) -> dict[str, Any]:
        level: Compatibility = await self._registry.level(request.path_params.get("subject"))
        return {"compatibilityLevel": level.value}

    async def mode(self, _request: Request) -> dict[str, Any]:
        return _MODE

    async def _by_id(self, request: Request) -> RegisteredSchema:
        text = request.path_params["id"]
        if text.isascii() and text.isdigit() and int(text[:11]) <= _VERSION_MAX:
            for schema in (await self._registry.load({int(text[:11])})).values():
                return schema
        raise ApiError(HTTPStatus.NOT_FOUND, 40403, f"Schema {text[:20]} not found")

    async def _versions(self, request: Request) -> list[RegisteredSchema]:
        subject = request.path_params["subject"]
        found = await self._registry.versions(subject) if "\0" not in subject else []
        if not found:
            raise ApiError(HTTPStatus.NOT_FOUND, 40401, f"Subject '{subject}' not found.")
        return found


def _answering(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a handler: every outcome is JSON, every error one of Confluent's."""

    async def answer(request: Request) -> Response:
        try:
            return _json(await handler(request))
        except ApiError as error:
            return _error(error.status, error.code, error.message)
        except GatelogError as error:
            _log.warning("serve.unavailable", path=request.url.path, reason=told(error))
            status = HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.INTERNAL_SERVER_ERROR
            return _error(status, 50001, "The registry of the store does not answer. See the server's log.")

    return answer


async def _elsewhere(request: Request) -> None:
    if request.method in _CHANGES:
        raise _refused("The registry")
    raise ApiError(HTTPStatus.NOT_FOUND, HTTPStatus.NOT_FOUND, "HTTP 404 Not Found")


async def _not_served(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.status_code, str(error.detail))


def _refused(what: str) -> ApiError:
    return ApiError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        42205,
        f"{what} is in read-only mode: `gatelog serve` changes nothing. Register with `gatelog schema register`.",
    )


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 413, f"A body has at most {BODY_BYTES_MAX:,} bytes")
    return body


async def _definition(request: Request) -> AvroSchema:
    """Return the schema in the body of a request, if it is a legal Avro record."""
    try:
        body = json.loads(await _body(request))
        text, kind = body["schema"], body.get("schemaType") or "AVRO"
        definition = json.loads(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, 42201, f"Invalid schema: {error}") from error
    if kind != "AVRO" or body.get("references"):
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, 42201, "Invalid schema: only AVRO without references is here")
    if not isinstance(definition, dict) or definition.get("type") != "record":
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, 42201, "Invalid schema: an event's schema is a record")
    try:
        parse(definition)
    except (SchemaError, RecursionError) as error:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, 42201, f"Invalid schema: {error}") from error
    return definition


def _chosen(request: Request, versions: Sequence[RegisteredSchema]) -> RegisteredSchema:
    text = request.path_params["version"]
    if text in _LATEST:
        return versions[-1]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:11]) <= _VERSION_MAX):
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            42202,
            f"The specified version '{text[:20]}' is not a valid version id. Allowed values are between [1, 2^31-1] "
            'and the string "latest"',
        )
    for schema in versions:
        if schema.version == int(text):
            return schema
    raise ApiError(HTTPStatus.NOT_FOUND, 40402, f"Version {text} not found.")


def _document(schema: RegisteredSchema) -> dict[str, Any]:
    return {
        "subject": schema.subject,
        "version": schema.version,
        "id": schema.id,
        "schemaType": "AVRO",
        "schema": _text(schema.definition),
    }


def _text(definition: AvroSchema) -> str:
    return json.dumps(definition, separators=(",", ":"))


def _error(status: int, code: int, message: str) -> Response:
    return _json({"error_code": code, "message": message}, status)


def _json(document: Any, status: int = HTTPStatus.OK) -> Response:  # noqa: ANN401 - a JSON value
    return Response(json.dumps(document), status, media_type=_MEDIA_TYPE)
