"""Other event stores under the same work: ten appends a stream, 200 bytes, exact expected version, 32 callers.

Optional: ``pip install -e '.[rivals]'`` brings ``eventsourcing`` and UmaDB, and ``npm`` Message DB. What is missing
is said, and left out.
"""

import asyncio
import importlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from bench.baselines import pgbench_script
from uuid_utils.compat import uuid7

from gatelog.local import ports

CALLERS: Final = 32
_MESSAGE_DB: Final = "@eventide/message-db@1.3.1"
_MESSAGE_DB_FILES: Final = (  # as its own install.sh has them, without the extension that Postgres no longer needs
    "schema/message-store.sql",
    "tables/messages.sql",
    "types/message.sql",
    *(f"functions/{name}.sql" for name in (
        "message-store-version", "hash-64", "acquire-lock", "category", "is-category", "id", "cardinal-id",
        "stream-version", "write-message",
    )),
    "indexes/messages-id.sql",
    "indexes/messages-stream.sql",
    "indexes/messages-category.sql",
)  # fmt: skip
_WRITE_MESSAGE: Final = r"""
\set nth mod(:at, 10)
\set stream :at / 10
SELECT message_store.write_message(
    gen_random_uuid()::varchar, 'order-' || :client_id || '-' || :tag || '-' || :stream, 'Measured',
    ('{"text": "' || repeat('x', 190) || '"}')::jsonb, NULL, :nth - 1);
\set at :at + 1
"""


def has(package: str) -> bool:
    """Say whether a rival is installed; if it is not, print so. Imports it: UmaDB wants that in the main thread."""
    try:
        importlib.import_module(package)
    except ImportError:
        print(f"  left out: {package} is not installed (pip install -e '.[rivals]')")
        return False
    return True


def _threads(append: Callable[[str, int], None], events: int, seconds: float) -> float:
    """Let 32 threads append, ten times to a stream; ``append`` takes stream and number of events before."""
    tag, stop = secrets.token_hex(4), time.perf_counter() + seconds

    def caller(number: int) -> int:
        done = stream = 0
        while time.perf_counter() < stop:
            stream += 1
            for nth in range(10):
                append(f"Order-{tag}-{number}-{stream}", nth * events)
                done += events
        return done

    begun = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        total = sum(pool.map(caller, range(CALLERS)))
    return total / (time.perf_counter() - begun)


@contextmanager
def umadb_server() -> Iterator[str]:
    """Yield the address of an UmaDB server of this run's own."""
    port = ports.choose(None)
    command = [str(Path(sys.executable).parent / "umadb"), "--listen", f"{ports.HOST}:{port}", "--db-path"]
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as folder:
        server = subprocess.Popen([*command, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"http://{ports.HOST}:{port}"
        finally:
            server.terminate()
            server.wait()


def umadb(address: str, events: int, seconds: float) -> float:
    """Return the events a second of UmaDB; its condition is: nothing with the stream's tag since my last append."""
    import umadb as rival

    client = _until_connected(lambda: rival.Client(address))
    last: dict[str, int] = {}

    def append(stream: str, before: int) -> None:
        own = rival.Query([rival.QueryItem(tags=[stream])])
        condition = rival.AppendCondition(own, last.get(stream) if before else None)
        new = [rival.Event("Measured", b"x" * 200, tags=[stream]) for _ in range(events)]
        last[stream] = client.append(new, condition)

    return _threads(append, events, seconds)


def _until_connected(connect: Callable[[], Any]) -> Any:  # noqa: ANN401 - of an optional package
    deadline = time.monotonic() + 10
    while True:
        try:
            client = connect()
            client.head()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return client


def eventsourcing(dsn: str, events: int, seconds: float) -> float:
    """Return the events a second of eventsourcing's Postgres recorder."""
    from eventsourcing.persistence import StoredEvent

    recorder, close = _recorder(dsn)

    def append(stream: str, before: int) -> None:
        versions = range(before + 1, before + events + 1)
        recorder.insert_events([StoredEvent(stream, version, "Measured", b"x" * 200) for version in versions])

    try:
        return _threads(append, events, seconds)
    finally:
        close()


@contextmanager
def eventsourcing_stream(dsn: str, events: int) -> Iterator[Callable[[], int]]:
    """Yield what reads a stream of so many events with eventsourcing, and returns their number."""
    from eventsourcing.persistence import StoredEvent

    recorder, close = _recorder(dsn)
    recorder.insert_events([StoredEvent("Order-long", n, "Measured", b"x" * 200) for n in range(1, events + 1)])
    try:
        yield lambda: len(recorder.select_events("Order-long"))
    finally:
        close()


def _recorder(dsn: str) -> tuple[Any, Callable[[], None]]:
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

    parts = urlsplit(dsn)
    store = PostgresDatastore(
        dbname=parts.path[1:],
        host=parts.hostname or "",
        port=str(parts.port),
        user=parts.username or "",
        password=parts.password or "",
        pool_size=CALLERS,
        max_overflow=0,
        originator_id_type="text",
    )
    recorder = PostgresApplicationRecorder(store, events_table_name=f"es_{secrets.token_hex(4)}")
    recorder.create_table()
    return recorder, store.close


async def install_message_db(dsn: str) -> bool:
    """Install Message DB into the database, if npm can fetch it."""
    if shutil.which("npm") is None:
        print("  left out: Message DB comes by npm, which is not installed")
        return False
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as folder:
        command = ["npm", "install", "--silent", "--no-audit", "--prefix", folder, _MESSAGE_DB]
        if (await asyncio.to_thread(subprocess.run, command, check=False)).returncode:
            print("  left out: npm could not fetch Message DB")
            return False
        base = Path(folder) / "node_modules" / "@eventide" / "message-db" / "database"
        connection = await asyncpg.connect(dsn)
        with suppress(asyncpg.DuplicateObjectError):
            await connection.execute("CREATE ROLE message_store")
        await connection.execute("DROP SCHEMA IF EXISTS message_store CASCADE")
        await connection.execute("SET search_path TO message_store, public")
        for name in _MESSAGE_DB_FILES:
            await connection.execute((base / name).read_text())
        await connection.close()
    return True


async def message_db(dsn: str, seconds: int) -> float:
    """Return the calls a second of Message DB's ``write_message`` under pgbench."""
    variables = ["-D", "at=0", "-D", f"tag={int(uuid7()) % 10**9}"]
    script = _WRITE_MESSAGE
    async with asyncio.timeout(seconds + 30):
        return await pgbench_script(dsn, script, CALLERS, seconds, variables, "-c search_path=message_store,public")


def avroschema_order() -> Any:  # noqa: ANN401 - a class of a library that few install
    """Return the order of ``bench.schemas`` as a model of dataclasses-avroschema."""
    from dataclasses_avroschema.pydantic import AvroBaseModel
    from dataclasses_avroschema.types import condecimal

    amount: Any = condecimal(max_digits=12, decimal_places=2)

    class Item(AvroBaseModel):  # type: ignore[misc,unused-ignore] # untyped where it is not installed
        sku: str
        quantity: int
        price: amount

    class Order(AvroBaseModel):  # type: ignore[misc,unused-ignore] # see above
        order_id: UUID
        customer: str
        total: amount
        at: datetime
        items: list[Item]
        note: str = ""

    return Order
