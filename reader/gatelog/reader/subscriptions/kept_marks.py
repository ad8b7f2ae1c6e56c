"""The marks of a group, in Postgres too: Kafka forgets them with a topic, and when a group is idle for days."""

from collections.abc import Sequence
from typing import Final

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.marks import Mark, Marks
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.starts import PACKAGE

KEEP_S: Final = 2.0  # between two times


class KeptMarks:
    """Where one group has handled its partitions. A little behind what it commits to Kafka, which counts first."""

    def __init__(self, settings: Settings, pool: postgres.Pool, group: str) -> None:
        """Keep them in the store's tables, through ``pool``."""
        self._settings = settings
        self._pool = pool
        self._group = group
        self._sql = queries(PACKAGE, "subscriptions.sql", settings.store)
        self._kept: dict[Place, Mark] = {}

    async def read(self, places: Sequence[Place]) -> dict[Place, Mark]:
        """Return the marks of those partitions that have one.

        Raises:
            PostgresUnavailableError: no answer.
        """
        columns = [topic for topic, _ in places], [partition for _, partition in places]
        with postgres.translated(self._settings.store, self._settings.dsn):
            rows = await self._pool.fetch(self._sql["marks"], self._group, *columns)
        return {(topic, partition): Mark(*mark) for topic, partition, *mark in rows}

    async def keep(self, marks: Marks) -> None:
        """Keep marks that have changed since.

        Raises:
            PostgresUnavailableError: no answer.
        """
        new = {place: mark for place, mark in marks.items() if self._kept.get(place) != mark}
        if new:
            rows = [(*place, *mark) for place, mark in new.items()]
            with postgres.translated(self._settings.store, self._settings.dsn):
                await self._pool.execute(self._sql["keep_marks"], self._group, *map(list, zip(*rows, strict=True)))
            self._kept |= new
