"""How a stored payload becomes events of the newest models: Avro resolution, upcaster, resolution, and so on.

A payload of version n is read as the version that the next upcaster takes, whatever lies between, by Avro's rules;
the upcaster makes the version behind it; so it goes on, and Avro's rules have the last step, to the newest model.
Where they cannot take a step, an upcaster has to: that is checked before the first event is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice, pairwise
from typing import Any, Final

import fastavro
from fastavro.types import Schema as ParsedSchema
from pydantic import ValidationError

from gatelog.core.errors import SchemaError, UndecodableRecordError
from gatelog.schemas.compatibility import mismatches
from gatelog.schemas.definitions import same
from gatelog.schemas.event import Event, model_of, pinned_version
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import AvroSchema, RegisteredSchema
from gatelog.schemas.upcasting import Part, Payload, Step, steps_of

PARTS_MAX: Final = 1_000  # of one stored event
STEPS_MAX: Final = 100  # on the way of one part


class UpcastError(UndecodableRecordError):
    """An upcaster failed, or made what does not fit."""

    def __init__(self, step: Step, why: str) -> None:
        self.event_type, self.from_version = step.event_type, step.from_version
        super().__init__(f"The {step} {why}")


@dataclass(frozen=True, slots=True)
class Evolved:
    """One event that a stored one is read as."""

    event_type: str
    data: Event | Payload


@dataclass
class _Line:
    """The versions of one event type, oldest first, the model at its end, and the upcasters between."""

    event_type: str
    model: type[Event] | None
    definitions: dict[int, AvroSchema]
    newest: int  # the version of the model, or of the last schema where there is no model
    steps: dict[int, Step]
    parsed: dict[int, ParsedSchema] = field(default_factory=dict)
    following: dict[int, Step | None] = field(default_factory=dict)  # what ``next_step`` found

    def next_step(self, version: int) -> Step | None:
        """Return the first upcaster that a payload of ``version`` comes to."""
        if version not in self.following:
            ways = (n for n, step in self.steps.items() if n >= version and self._is_open(n, step))
            at = min(ways, default=None)
            self.following[version] = None if at is None else self.steps[at]
        return self.following[version]

    def _is_open(self, number: int, step: Step) -> bool:
        """The newest version stays as it is, unless its events become others."""
        return number < self.newest or (number == self.newest and step.into is not None)

    def schema(self, version: int) -> ParsedSchema:
        if version not in self.parsed:
            self.parsed[version] = fastavro.parse_schema(self.definitions[version])
        return self.parsed[version]


def number_of(schema: RegisteredSchema) -> int:
    """Return the version that upcasters know a schema by: the one that it pins, else the registry's."""
    return pinned_version(schema.definition) or schema.version


class Evolution:
    """The way of every payload of the event types that have upcasters."""

    def __init__(self, versions: Mapping[str, Sequence[RegisteredSchema]]) -> None:
        """Know the registered ``versions`` of each event type that has upcasters or is made by one.

        Raises:
            SchemaError: two schemas of a type have one version.
        """
        self._lines = {event_type: _line(event_type, found) for event_type, found in versions.items()}

    def check(self) -> None:
        """See that every registered version has a way to the newest model.

        Raises:
            SchemaError: a step is missing, or leads nowhere; the message names it.
        """
        problems = [problem for line in self._lines.values() for problem in self._problems(line)]
        if problems:
            raise SchemaError("Stored events cannot be read as the newest models: " + " ".join(problems))

    def reshapes(self, schema: RegisteredSchema) -> bool:
        """Say whether events of this schema may become several, or of another type."""
        line, version = self._lines[schema.subject], number_of(schema)
        return any(step.into is not None for step in self._steps_from(line, version))

    def first_stop(self, schema: RegisteredSchema) -> ParsedSchema | None:
        """Return what the stored bytes are to be read as for the first upcaster; None: there is none."""
        line = self._lines[schema.subject]
        step = line.next_step(number_of(schema))
        return None if step is None else line.schema(step.from_version)

    def go(self, schema: RegisteredSchema, payload: Payload) -> list[Evolved]:
        """Return what a payload, read as ``first_stop``, becomes.

        Raises:
            UndecodableRecordError: an upcaster failed, or what it made does not fit.
        """
        line = self._lines[schema.subject]
        step = line.next_step(number_of(schema))
        assert step is not None
        found = list(islice(self._take(line, step, payload, STEPS_MAX), PARTS_MAX + 1))
        if len(found) > PARTS_MAX:
            raise UpcastError(step, f"led to over {PARTS_MAX:,} events.")
        return found

    def _take(self, line: _Line, step: Step, payload: Payload, left: int) -> Iterator[Evolved]:
        if left == 0:
            raise UpcastError(step, f"was reached after {STEPS_MAX:,} others: they go in a circle.")
        try:
            made = step.function(payload)
        except Exception as error:
            raise UpcastError(step, f"raised {type(error).__name__}: {error}") from error
        for part in _parts(step, made):
            into = self._lines.get(part.event_type) or _line(part.event_type, [])
            version = into.newest if part.version is None else part.version
            yield from self._advance(into, step, version, part.data, left - 1)

    def _advance(self, line: _Line, by: Step, version: int, payload: Payload, left: int) -> Iterator[Evolved]:
        following = line.next_step(version)
        if following is None:
            resolved = _resolved(line, by, version, line.newest, payload)
            yield Evolved(line.event_type, _validated(line, by, resolved))
        else:
            resolved = _resolved(line, by, version, following.from_version, payload)
            yield from self._take(line, following, resolved, left)

    def _steps_from(self, line: _Line, version: int) -> Iterator[Step]:
        while (step := line.next_step(version)) is not None:
            yield step
            if step.into is not None:
                return
            version = step.from_version + 1

    def _problems(self, line: _Line) -> Iterator[str]:
        for version, step in line.steps.items():
            if version >= line.newest and step.into is None:
                yield f"The {step} makes version {version + 1}, but the newest one is {line.newest}."
            elif version not in line.definitions:
                yield f"The {step} takes a version that {line.event_type} does not have."
            for name in step.into or ():
                if self._lines[name].newest == 0:
                    yield f"The {step} makes {name}, of which there is neither model nor schema."
        missing = {problem: None for version in line.definitions for problem in _gaps(line, version)}
        yield from missing


def _line(event_type: str, versions: Sequence[RegisteredSchema]) -> _Line:
    definitions: dict[int, AvroSchema] = {}
    for schema in versions:
        known = definitions.setdefault(number_of(schema), schema.definition)
        if known is not schema.definition:
            raise SchemaError(
                f"Two schemas of {event_type} are version {number_of(schema)}: one by its number in the registry or "
                "both by pinning it. Pin another version."
            )
    model, newest = model_of(event_type), max(definitions, default=0)
    if model is not None:
        definition = model.avro_schema()
        equal = [number for number, each in definitions.items() if same(each, definition)]
        newest = equal[-1] if equal else pinned_version(definition) or newest + 1
        if not same(definitions.setdefault(newest, definition), definition):
            raise SchemaError(
                f"The model of {event_type} pins version {newest}, which is registered as another schema: pin "
                "the next."
            )
    return _Line(event_type, model, definitions, newest, steps_of(event_type))


def _gaps(line: _Line, version: int) -> Iterator[str]:
    """Yield the steps of a version's way that neither Avro nor an upcaster can take."""
    while version <= line.newest:
        step = line.next_step(version)
        target = line.newest if step is None else step.from_version
        yield from _gap(line, version, target)
        if step is None or step.into is not None:
            return
        version = step.from_version + 1


def _gap(line: _Line, version: int, target: int) -> Iterator[str]:
    name, known = line.event_type, line.definitions
    if version not in known or target not in known:
        if version not in known:
            yield f"{name} has no version {version}, which an upcaster makes."
        return
    if not (problems := mismatches(parse(known[target]), parse(known[version]))):
        return
    between = [number for number in sorted(known) if version <= number <= target]
    for one, other in pairwise(between):
        if found := mismatches(parse(known[other]), parse(known[one])):
            yield _missing(name, one, other, found[0].detail)
            return
    yield _missing(name, version, target, problems[0].detail)


def _missing(name: str, one: int, other: int, why: str) -> str:
    return (
        f"{name}: version {one} cannot be read as version {other} ({why}), and there is no upcaster. "
        f"Write one: @upcast({name}, from_version={one})."
    )


def _parts(step: Step, made: Any) -> list[Part]:  # noqa: ANN401 - what a function of the program returned
    if isinstance(made, dict):
        if step.into is None:
            return [Part(step.event_type, made, step.from_version + 1)]
        if len(step.into) == 1:
            return [Part(step.into[0], made)]
    if step.into is None:
        raise UpcastError(step, f"returned {type(made).__name__}, not a dict; only with into= it makes other events.")
    if not isinstance(made, (list, tuple)) or not made or not all(isinstance(part, Part) for part in made):
        raise UpcastError(step, "did not return at least one Part. An event cannot be upcast to nothing.")
    if foreign := {part.event_type for part in made} - set(step.into):
        raise UpcastError(step, f"made {', '.join(sorted(foreign))}, which its into= does not name.")
    return list(made)


def _resolved(line: _Line, by: Step, version: int, target: int, payload: Payload) -> Payload:
    """Return a payload of ``version`` as one of ``target``, by writing it and reading it back."""
    if version == target:
        return payload
    if version not in line.definitions:
        raise UpcastError(by, f"made {line.event_type} version {version}, which does not exist.")
    out = BytesIO()
    try:
        fastavro.schemaless_writer(out, line.schema(version), payload)
        out.seek(0)
        found = fastavro.schemaless_reader(out, line.schema(version), line.schema(target))
    except (ValueError, TypeError, LookupError, EOFError, OverflowError, AttributeError, RecursionError) as error:
        raise UpcastError(
            by, f"made what is not version {version} of {line.event_type}, or not readable as {target}: {error}"
        ) from error
    except fastavro.read.SchemaResolutionError as error:
        raise UpcastError(by, f"made {line.event_type} version {version}, unreadable as {target}: {error}") from error
    assert isinstance(found, dict)  # an event's schema is a record
    return found


def _validated(line: _Line, by: Step, payload: Payload) -> Event | Payload:
    if line.model is None:
        return payload
    try:
        return line.model.model_validate(payload)
    except ValidationError as error:
        raise UpcastError(by, f"led to what is not a legal {line.event_type} today: {error}") from error
