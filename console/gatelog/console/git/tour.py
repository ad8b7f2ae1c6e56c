"""The stations of ``gatelog demo``: each does one thing with the store and says what came out."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import KafkaException

from gatelog.console.git.churn import Churn
from gatelog.console.git.events import FILE_EVENTS, FileAdded, FileChange, FileDeleted, FileRenamed
from gatelog.console.git.history import Repository
from gatelog.console.git.importer import CATEGORY, Imported, import_history
from gatelog.console.progress import bars
from gatelog.core import identity, kafka
from gatelog.core.domain import NO_STREAM
from gatelog.core.errors import ConflictError, LogMismatchError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader, Subscription
from gatelog.schemas import RecordedEvent

INDEX_TIMEOUT_S: Final = 3600.0
GROUP_TIMEOUT_S: Final = 600.0
LOOK_INTERVAL_S: Final = 0.1
_EVENTS_SHOWN: Final = 5
_TOP: Final = 5


@dataclass
class Tour:
    """A store and a history, and what the stations found: ``facts`` are the same on every run, ``rates`` are not."""

    settings: Settings
    history: Repository
    is_healthy: Callable[[], None]  # raises when the process that publishes and indexes has ended
    facts: dict[str, str] = field(default_factory=dict)
    rates: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Visit every station.

        Raises:
            GatelogError: whatever a station could not do.
        """
        async with Reader.connect(self.settings) as reader:
            done = await self._import(reader)
            await self._one_file(reader, done)
            total = await self._category(reader, done)
            await self._consumer_group(total)
            await self._refused_append(done)
            await self._newer_schema(reader)

    async def _import(self, reader: Reader) -> Imported:
        started = time.perf_counter()
        with bars() as progress:
            appended = progress.add_task("append (commits)", total=self.history.commits)
            indexed = progress.add_task("publish and index (events)", total=None)

            async def follow(wait: Awaitable[object]) -> None:
                waiting = asyncio.ensure_future(wait)
                while not waiting.done():
                    self.is_healthy()
                    progress.update(indexed, completed=await reader.frontier())
                    await asyncio.wait([waiting], timeout=LOOK_INTERVAL_S)
                await waiting

            def show(done: Imported) -> None:
                progress.update(appended, completed=done.commits)

            importing = asyncio.ensure_future(import_history(self.settings, self.history, show))
            await follow(importing)
            done = importing.result()
            took_append = time.perf_counter() - started
            progress.update(indexed, total=done.new + done.known)
            if done.last is not None:
                await follow(reader.indexed([done.last], timeout=INDEX_TIMEOUT_S))
            progress.update(indexed, completed=await reader.frontier())
        took = time.perf_counter() - started
        events = done.new + done.known
        self.facts["commits"] = f"{done.commits:,}"
        self.facts["events"] = f"{events:,} in {len(done.streams):,} streams"
        self.facts["event types"] = ", ".join(f"{name} {count:,}" for name, count in sorted(done.types.items()))
        self.rates["imported"] = f"{done.new:,} new events, {done.known:,} known already"
        self.rates["append"] = f"{events / took_append:,.0f} events/s, git log and Avro included"
        self.rates["git to index"] = f"{events / took:,.0f} events/s: gate, outbox, relay, Kafka, index"
        return done

    async def _one_file(self, reader: Reader, done: Imported) -> None:
        if not done.streams:
            return
        stream = max(done.streams, key=lambda name: (done.streams[name], name))
        newest = [event async for event in reader.stream(stream, backward=True, limit=_EVENTS_SHOWN)]
        version = await reader.version(stream)
        lines = [f"{stream}: {version} events, the newest first", *(_line(event) for event in newest)]
        self.facts["one file"] = "\n".join(lines)

    async def _category(self, reader: Reader, done: Imported) -> int:
        """Read the whole category and hold it against git."""
        started = time.perf_counter()
        found: Counter[str] = Counter()
        async for event in reader.category(CATEGORY):
            found[event.stream] += 1
        total = found.total()
        self.rates["category read"] = f"{total / (time.perf_counter() - started):,.0f} events/s"
        if missing := done.streams - found:
            raise LogMismatchError(
                f"The index lacks {missing.total():,} events, for example of {next(iter(missing))!r}."
            )
        others = total - done.streams.total()
        self.facts["index and git log"] = "agree on every file" + (f"; {others:,} of other commits" if others else "")
        renames = [event async for event in reader.category(CATEGORY, types=[FileRenamed])]
        self.facts["query: renames"] = f"{len(renames):,}" + (
            f", the last: {_rename(renames[-1])}" if renames else ""
        )
        return total

    async def _consumer_group(self, total: int) -> None:
        """Build the projection from Kafka, in a consumer group that lives for this run."""
        churn, stop, started = Churn(), asyncio.Event(), time.perf_counter()
        group = Subscription(f"demo-{secrets.token_hex(4)}", categories=[CATEGORY])
        with bars() as progress:
            task = progress.add_task("consumer group (events)", total=total)

            @group.on(*FILE_EVENTS)
            async def count(event: RecordedEvent) -> None:
                churn.apply(event)
                progress.update(task, completed=churn.events)
                if churn.events == total:
                    stop.set()

            if total:
                async with asyncio.timeout(GROUP_TIMEOUT_S):
                    await group.run(stop, self.settings)
        self.rates["consumer group"] = (
            f"{churn.events / (time.perf_counter() - started):,.0f} events/s, models decoded"
        )
        self.facts["churn by author"] = _top(churn.authors)
        self.facts["churn by folder"] = _top(churn.folders)
        store = await identity.ask(self.settings, "gatelog tour")
        await asyncio.to_thread(_forget, self.settings, group.group_of(store))

    async def _refused_append(self, done: Imported) -> None:
        """Claim that a file's stream does not exist: the gate knows better, and nothing is stored."""
        stream = min(done.streams, default=None)
        if stream is None:
            return
        async with Producer.connect(self.settings) as producer:
            event = FileDeleted(
                commit="0" * 40,
                author="nobody",
                email="",
                at=datetime.now(UTC),
                path=stream.partition("-")[2],
                lines_removed=None,
            )
            try:
                await producer.append(stream, [event], expected_version=NO_STREAM)
            except ConflictError as conflict:
                self.facts["refused append"] = str(conflict)

    async def _newer_schema(self, reader: Reader) -> None:
        """Read the first FileAdded as a program of next year would: its model has a field that none had then."""

        class FileAddedNextYear(FileAdded, event_type=FileAdded.event_type):
            reviewed_by: str = "nobody"

        async for event in reader.category(CATEGORY, types=[FileAdded], limit=1):
            assert isinstance(event.data, FileAddedNextYear)
            self.facts["newer schema"] = (
                f"{event.data.path} (stored under schema {event.schema_id}) read with the new field "
                f"reviewed_by={event.data.reviewed_by!r}"
            )


def _line(event: RecordedEvent) -> str:
    change = event.data
    assert isinstance(change, FileChange)
    numbers = (f"+{getattr(change, 'lines_added', None) or 0}", f"-{getattr(change, 'lines_removed', None) or 0}")
    what = event.type.removeprefix(CATEGORY).lower()
    return f"@{event.version:<5} {change.at:%Y-%m-%d}  {what:<8} {' '.join(numbers):<12} {change.author}"


def _rename(event: RecordedEvent) -> str:
    assert isinstance(event.data, FileRenamed)
    return f"{event.data.old_path} -> {event.data.path}"


def _top(lines: Counter[str]) -> str:
    ranking = sorted(lines.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    return "\n".join(f"{count:>9,} lines  {name}" for name, count in ranking)


def _forget(settings: Settings, group: str) -> None:
    """Remove a consumer group; one that stays behind harms nobody."""
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.delete_consumer_groups([group]).values():
        with suppress(KafkaException):
            future.result(timeout=kafka.REQUEST_TIMEOUT_S)
