"""The grants in the documentation are enough for a program that appends and reads, and for `gatelog run`."""

import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def as_role(settings: Settings, role: str) -> Settings:
    parts = urlsplit(settings.dsn)
    dsn = parts._replace(netloc=f"{role}:{role}@{parts.hostname}:{parts.port}").geturl()
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


@pytest.fixture
async def roles(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> AsyncIterator[tuple[Settings, Settings]]:
    """Roles that have what the documentation grants, and nothing else: app and worker."""
    tag = secrets.token_hex(4)
    grants = re.search(r"### Roles.*?```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert grants is not None
    text = grants[1].replace("gatelog", settings.store)
    for role in ("app", "worker"):
        text = re.sub(rf"\b{role}\b(?=[,;])", f"{role}{tag}", text)
        await connection.execute(f"CREATE ROLE {role}{tag} LOGIN PASSWORD '{role}{tag}'")
    await connection.execute(text)
    yield as_role(settings, f"app{tag}"), as_role(settings, f"worker{tag}")
    await connection.execute(f"DROP OWNED BY app{tag}, worker{tag}; DROP ROLE app{tag}, worker{tag}")


async def test_the_documented_grants_are_enough(roles: tuple[Settings, Settings]) -> None:
    app, worker = roles
    rotating = worker.model_copy(update={"outbox_segment_events": 1})
    async with Producer.connect(app) as producer, Reader.connect(app) as reader:
        keeper = OutboxKeeper(rotating)
        steps: set[str | None] = set()
        own = await asyncpg.connect(rotating.dsn)

        async def is_emptied() -> bool:
            steps.add(await keeper.run_once(own))
            return "emptied" in steps

        async with running(Relay(worker), Indexer(worker)):
            await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
            await producer.close_stream("Note-1", expected_version=1)
            await producer.load([HistoricEvent("Note-2", 1, Noted(text="b"))])
            done = await producer.append("Note-2", [Noted(text="c")], expected_version=ANY)
            await reader.indexed(done.event_ids)
            assert [event.version async for event in reader.stream("Note-1")] == [1, 2]
            await until(is_emptied, "a segment of the outbox is emptied")
        await own.close()
