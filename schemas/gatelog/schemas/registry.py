"""What a registry is: schemas under ids that never change, as numbered versions of subjects.

gatelog has one subject an event type, named as the type, which is the full name of the Avro record (Confluent's
RecordNameStrategy).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias

AvroSchema: TypeAlias = dict[str, Any]


class Compatibility(StrEnum):
    """How a new version of a subject must fit those before it; the names are Confluent's.

    BACKWARD: who has the new version reads what was written with the last. FORWARD: who has the last version reads
    what is written with the new. FULL: both. TRANSITIVE: not only the last version, but every one.
    """

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


DEFAULT_LEVEL: Final = Compatibility.BACKWARD


@dataclass(frozen=True)
class RegisteredSchema:
    """One version of a subject, under an id that is unique in the registry."""

    id: int
    subject: str
    version: int
    definition: AvroSchema


@dataclass(frozen=True)
class Registration:
    """What became of a registration, or would become of it: ``schema_id`` is None after a dry run of a new one."""

    schema_id: int | None
    version: int
    new: bool


Check: TypeAlias = Callable[[Compatibility, AvroSchema, Sequence[RegisteredSchema]], Sequence[str]]
"""(level, new definition, versions so far, oldest first) → what is wrong, one line each; empty if it fits."""


class Registry(Protocol):
    """Where schemas are. ``id_of`` and ``load`` are what a codec asks; the rest is for deployment and tools."""

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """Return the id of exactly this definition, registering it first if it is new and that is allowed.

        Raises:
            SchemaError: it is not registered, and may not be here.
            IncompatibleSchemaError: the registry itself refuses it.
        """
        ...

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """Return the schemas of ``ids`` that exist; those that were loaded before without I/O."""
        ...

    async def subjects(self) -> list[str]:
        """Return the names of all subjects, sorted."""
        ...

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """Return all versions of a subject, oldest first; none if the subject is unknown."""
        ...

    async def latest(self, subject: str) -> RegisteredSchema:
        """Return the newest version of a subject.

        Raises:
            SchemaError: the subject has none.
        """
        ...

    async def find(self, subject: str, definition: AvroSchema) -> RegisteredSchema | None:
        """Return the version of a subject that is exactly this definition, if there is one."""
        ...

    async def register(
        self, subject: str, definition: AvroSchema, check: Check, *, dry_run: bool = False
    ) -> Registration:
        """Register a definition as the next version, if ``check`` finds nothing wrong under the subject's level.

        What is registered already is found and left as it is. A dry run only says what would be.

        Raises:
            IncompatibleSchemaError: it does not fit the versions before it.
        """
        ...

    async def level(self, subject: str | None = None) -> Compatibility:
        """Return the level of a subject, or of those that have none of their own (None)."""
        ...

    async def set_level(self, level: Compatibility, subject: str | None = None) -> None:
        """Set the level of a subject, or of those that have none of their own (None)."""
        ...

    async def take_over(self, schemas: Iterable[RegisteredSchema]) -> int:
        """Store schemas of another registry under their ids and versions, all or none; return how many are new.

        Raises:
            SchemaError: an id or version is taken by another definition, or the registry cannot keep ids.
        """
        ...
