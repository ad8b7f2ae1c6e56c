"""The index has lost rows: no read of a stream returns what is left as if it were the stream."""

import asyncpg
import pytest
from pydantic import Field
from support.apart import connected, noted, parts, rotate
from support.running import running

from gatelog.core.errors import StreamIncompleteError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader, State
from gatelog.reader.source import PostgresSource
from gatelog.schemas import RecordedEvent

EVENTS, LOST = 9, (4, 5)


class Texts(State):
    texts: list[str] = Field(default_factory=list)

    def apply(self, event: RecordedEvent) -> None:
        self.texts.append(event.type)


async def lose(settings: Settings, dsn: str) -> None:
    """Remove rows by a superuser's hand; the frontier knows nothing of it."""
    async with connected(dsn) as index:
        await index.execute(
            f"ALTER TABLE {settings.store}.events DISABLE TRIGGER ALL;"
            f"DELETE FROM {settings.store}.events WHERE version = ANY (ARRAY[{LOST[0]}, {LOST[1]}]);"
            f"ALTER TABLE {settings.store}.events ENABLE TRIGGER ALL"
        )


async def read(reader: Reader, low: int, high: int | None, backward: bool) -> None:
    async for _ in reader.stream("Note-1", from_version=low, to_version=high, backward=backward):
        pass


async def judge(settings: Settings, index: str, gate: "asyncpg.Connection[asyncpg.Record]") -> None:
    """While the outbox has what is missing, it is read from there; then every read that would need it says so."""
    paged = settings.model_copy(update={"read_rows_max": 4})
    async with Reader.connect(paged) as reader:
        await lose(settings, index)
        for backward in (False, True):
            found = [event.version async for event in reader.stream("Note-1", backward=backward)]
            assert sorted(found) == list(range(1, EVENTS + 1))
        await rotate(settings, gate)
        assert (await reader.last("Note-1")) is not None
        assert [event.version async for event in reader.stream("Note-1", to_version=3)] == [1, 2, 3]
        assert [event.version async for event in reader.stream("Note-1", backward=True, limit=4)] == [9, 8, 7, 6]
        for low, high in ((1, None), (5, None), (1, 5), (1, 4), (4, 5)):
            for backward in (False, True):
                with pytest.raises(StreamIncompleteError, match=r"'Note-1'.*missing.*gatelog verify") as named:
                    await read(reader, low, high, backward)
                assert (named.value.first, named.value.last) == (max(LOST[0], low), min(LOST[1], high or LOST[1]))
        with pytest.raises(StreamIncompleteError):
            await reader.fold("Note-1", Texts)


async def test_beside_the_gate(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        done = await producer.append("Note-1", noted(EVENTS), expected_version=0)
        async with running(Relay(settings), Indexer(settings)):
            await reader.indexed(done.event_ids)
            await judge(settings, settings.dsn, connection)


async def test_in_other_databases(apart: Settings) -> None:
    async with Producer.connect(apart) as producer, Reader.connect(apart) as reader, connected(apart.dsn) as gate:
        done = await producer.append("Note-1", noted(EVENTS), expected_version=0)
        async with running(*parts(apart)):
            await reader.indexed(done.event_ids)
            for dsn in apart.index_dsns:
                await lose(apart, dsn.get_secret_value())
            await judge(apart, apart.index_dsns[0].get_secret_value(), gate)


async def test_a_stream_that_grows_while_it_is_read_has_no_hole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read up to a version beyond the end asks how far the stream goes: something is appended right before."""
    version = PostgresSource.version
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        await producer.append("Note-1", noted(EVENTS), expected_version=0)

        async def grown(source: PostgresSource, stream: str) -> int:
            await producer.append("Note-1", noted(1), expected_version=ANY)
            return await version(source, stream)

        monkeypatch.setattr(PostgresSource, "version", grown)
        for backward in (False, True):
            found = [each.version async for each in reader.stream("Note-1", to_version=99, backward=backward)]
            assert sorted(found) == list(range(1, len(found) + 1))
            assert len(found) >= EVENTS
        assert len((await reader.fold("Note-1", Texts, version=99)).texts) >= EVENTS
        assert [each.version async for each in reader.stream("Note-1", from_version=98, to_version=99)] == []
