"""Members of a subscription in processes of their own, and a table in which they write down what they handle."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from gatelog.core.settings import Settings
from support.processes import Background, environment

NAME = "work"
SESSION_TIMEOUT_S = 6  # brokers allow no less
PROGRAM = f'''
import asyncio, os
import asyncpg
from gatelog.reader import Failures, Subscription

app = Subscription("{NAME}", concurrency=8, failures=Failures(attempts_max=2, first_delay_s=0.01, hold_stream=False))
connecting, connection = asyncio.Lock(), None

@app.on("Noted")
async def note(event):
    global connection
    async with connecting:
        if connection is None:
            connection = await asyncpg.create_pool(os.environ["GATELOG_POSTGRES_DSN"], min_size=1, max_size=2)
    if event.as_dict()["text"] == "poison":
        raise ValueError("poison")
    row = (event.stream, event.version, os.getpid())
    await connection.execute("INSERT INTO " + os.environ["GATELOG_STORE"] + ".handled VALUES ($1, $2, $3)", *row)
    await asyncio.sleep(0.002)
'''


async def prepare(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings, folder: Path) -> None:
    """Make the table and the program."""
    await connection.execute(
        f"CREATE TABLE {settings.store}.handled (stream text, version bigint, pid int, nth bigserial)"
    )
    (folder / "members_program.py").write_text(PROGRAM)


def start(settings: Settings, folder: Path, *options: str) -> Background:
    """Start a member."""
    own = environment(
        settings,
        GATELOG_SUBSCRIPTION_PROTOCOL=settings.subscription_protocol,
        GATELOG_SUBSCRIPTION_SESSION_TIMEOUT_S=str(SESSION_TIMEOUT_S),
    )
    return Background(["consume", "members_program.py:app", "--json-logs", *options], own, folder / "members.log", ())


async def handled(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> list[tuple[str, int, int]]:
    """Return stream, version and pid of what was handled, in the order in which it was."""
    rows = await connection.fetch(f"SELECT stream, version, pid FROM {settings.store}.handled ORDER BY nth")
    return [(row["stream"], row["version"], row["pid"]) for row in rows]


def judge_order(rows: Sequence[tuple[str, int, int]], streams: int, versions: int) -> Counter[tuple[str, int]]:
    """Every event was handled, and for the first time in the order of its stream; return how often each was."""
    first: dict[str, list[int]] = defaultdict(list)
    counts: Counter[tuple[str, int]] = Counter()
    for stream, version, _ in rows:
        counts[stream, version] += 1
        if counts[stream, version] == 1:
            first[stream].append(version)
    assert len(first) == streams, "a whole stream is missing"
    assert all(found == list(range(1, versions + 1)) for found in first.values()), "lost, or out of order"
    return counts
