"""Watches a projection from outside: how far its builds have come, and whether they have seen an append."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

from gatelog.core import postgres
from gatelog.core.domain import category_of, topic_of
from gatelog.core.errors import InvalidInputError, WaitTimeoutError
from gatelog.core.partitioning import partition_of
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.log_query import LogQuery
from gatelog.reader.sharded import opened_source
from gatelog.reader.source import Source
from gatelog.reader.subscriptions.checkpoints import PACKAGE, SQL_FILE
from gatelog.reader.subscriptions.merge import Place
from gatelog.reader.subscriptions.topics import Topics

LOOK_INTERVAL_S: Final = 0.01
LOOK_INTERVAL_MAX_S: Final = 0.1


class Append(Protocol):
    """What an append returns."""

    @property
    def stream(self) -> str:
        """The stream that was appended to."""
        ...

    @property
    def event_ids(self) -> Sequence[UUID]:
        """The ids of its events."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build has come. ``behind`` is about as many events as Kafka holds beyond it.

    ``events_per_s`` is that since the last look, or since the build was begun; ``seconds_left`` follows from both.
    """

    projection: str
    build: int
    version: int
    state: str
    since: datetime
    events: int
    position: int
    behind: int
    events_per_s: float
    seconds_left: float | None
    moved_at: datetime | None


class Watch:
    """Looks at one projection. Make it with ``Projection.watched``."""

    def __init__(
        self,
        settings: Settings,
        target: postgres.Pool,
        source: Source,
        where: tuple[str, str],
        name: str,
        categories: Collection[str] | None,
    ) -> None:
        """Use ``Projection.watched`` instead."""
        self._settings = settings
        self._target = target
        self._source = source
        self._where = where
        self._name = name
        self._categories = categories
        self._topics = Topics(settings, categories)
        self._sql = queries(PACKAGE, SQL_FILE, settings.store)
        self._counts: dict[str, int] = {}
        self._looks: dict[int, tuple[float, int]] = {}

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: Settings, dsn: str, name: str, categories: Collection[str] | None
    ) -> AsyncIterator["Watch"]:
        """Yield a watch of the projection ``name`` in the database at ``dsn``.

        Raises:
            PostgresUnavailableError: no answer.
        """
        application = f"gatelog watch {name}"
        async with (
            postgres.pool(settings.dsn, settings.store, application, 2) as store,
            opened_source(settings, store, 2) as source,
            postgres.pool(dsn, settings.store, application, 2) as target,
        ):
            yield cls(settings, target, source, (settings.store, dsn), name, categories)

    async def seen(self, append: Append | int, *, timeout: float = 30.0) -> None:
        """Wait until the live build holds an append, or the event at a position, and all before it in its stream.

        It needs the index, which knows the positions of events.

        Raises:
            WaitTimeoutError: not within ``timeout`` seconds.
            InvalidInputError: the projection does not read the category.
            PostgresUnavailableError, KafkaUnavailableError: no answer.
        """
        if not isinstance(append, int):
            self._check(append.stream)
        try:
            async with asyncio.timeout(timeout):
                stream, position = await self._found(append)
                self._check(stream)
                place = await self._place_of(stream)
                await self._until(lambda: self._has_passed(place, position))
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"Projection {self._name!r} has not seen {_named(append)} after {timeout:g} s. Are relay, indexer "
                "and the projection running? See `gatelog projection list`."
            ) from error

    def _check(self, stream: str) -> None:
        if self._categories is not None and category_of(stream) not in self._categories:
            raise InvalidInputError(
                f"Projection {self._name!r} reads {', '.join(self._categories)}: it never sees stream {stream!r}."
            )

    async def _found(self, append: Append | int) -> tuple[str, int]:
        """Wait until the index knows the event; return its stream and position."""
        if isinstance(append, int):
            await self._until(lambda: self._stream_at(append))
            return await self._stream_at(append) or "", append
        last = append.event_ids[-1]
        await self._until(lambda: self._source.positions([last]))
        return append.stream, (await self._source.positions([last]))[last]

    async def _stream_at(self, position: int) -> str | None:
        found = await self._source.log(LogQuery(), position - 1, 1)
        return next((row[0] for row in found if row[2] == position), None)

    async def _place_of(self, stream: str) -> Place:
        topic = topic_of(self._settings.store, category_of(stream))
        if topic not in self._counts:
            self._counts = await self._topics.partitions()
        return topic, partition_of(stream, self._counts[topic])

    async def _has_passed(self, place: Place, position: int) -> bool:
        with postgres.translated(*self._where):
            found = await self._target.fetchval(self._sql["checkpoint"], self._name, *place)
        return found is not None and found >= position

    async def _until(self, fact: Any) -> None:  # noqa: ANN401 - whatever is true in the end
        wait_s = LOOK_INTERVAL_S
        while not await fact():
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, LOOK_INTERVAL_MAX_S)

    async def progress(self) -> list[Progress]:
        """Return how far each build has come, the oldest first. A later look measures the rate since this one.

        Raises:
            PostgresUnavailableError, KafkaUnavailableError: no answer.
        """
        with postgres.translated(*self._where):
            builds = await self._target.fetch(self._sql["projections"], self._name)
        counts = await self._topics.partitions()
        ends = await self._topics.ends([(topic, p) for topic, count in counts.items() for p in range(count)])
        return [await self._progress_of(build, ends) for build in builds]

    async def _progress_of(self, build: Any, ends: dict[Place, int]) -> Progress:  # noqa: ANN401 - a row
        number, events = build["build"], build["events"]
        with postgres.translated(*self._where):
            rows = await self._target.fetch(self._sql["checkpoints"], self._name, number)
        at = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        read = max(sum(max(offset, 0) for offset in at.values()), events)  # offsets stand still during history
        behind = sum(ends.values()) - read
        if all(end - at.get(place, 0) <= 1 for place, end in ends.items()):
            behind = 0  # what follows the last record is the end of its transaction
        now = time.monotonic()
        began = now - (datetime.now(UTC) - build["since"]).total_seconds()
        seen_at, seen = self._looks.get(number, (began, 0))
        self._looks[number] = now, events
        rate = max(events - seen, 0) / max(now - seen_at, 1e-3)
        return Progress(
            projection=self._name,
            build=number,
            version=build["version"],
            state=build["state"],
            since=build["since"],
            events=events,
            position=build["position"],
            behind=max(behind, 0),
            events_per_s=rate,
            seconds_left=0.0 if behind <= 0 else behind / rate if rate else None,
            moved_at=build["moved_at"],
        )


def _named(append: Append | int) -> str:
    return f"position {append}" if isinstance(append, int) else f"the append to {append.stream!r}"
