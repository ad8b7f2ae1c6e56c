"""A real PgBouncer in front of the Postgres of a test, in a process of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from gatelog.core.settings import Settings
from gatelog.local import ports
from support.waiting import until

PROGRAM = "pgbouncer"
USER = "nobody"  # PgBouncer refuses to run as root


@contextmanager
def pgbouncer(folder: Path, dsn: str, mode: str) -> Iterator[str]:
    """Yield the DSN of a pool in ``mode`` in front of ``dsn``; skip the test where PgBouncer is not installed."""
    program = shutil.which(PROGRAM, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs PgBouncer (Debian: apt-get install pgbouncer)")
    folder.mkdir()
    port = ports.choose(None)
    parts = urlsplit(dsn)
    (folder / "users.txt").write_text(f'"{parts.username}" "{parts.password or ""}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={parts.hostname} port={parts.port}
[pgbouncer]
listen_addr = {ports.HOST}
listen_port = {port}
unix_socket_dir =
auth_type = {"scram-sha-256" if parts.password else "trust"}
auth_file = users.txt
pool_mode = {mode}
default_pool_size = 10
"""
    )
    _give(folder)
    with (folder / "log").open("ab") as log:
        user = USER if os.geteuid() == 0 else None
        process = subprocess.Popen([program, "pgbouncer.ini"], cwd=folder, stdout=log, stderr=log, user=user)
    try:
        yield urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{ports.HOST}:{port}"))
    finally:
        process.terminate()
        process.wait(20.0)


def _give(folder: Path) -> None:
    """Let PgBouncer read its files, whoever owns the folders above them."""
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.iterdir()):
        os.chown(path, pwd.getpwnam(USER).pw_uid, -1)


@contextmanager
def pooled(settings: Settings, mode: str) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which only its owner may enter
        Path(folder).chmod(0o755)
        with pgbouncer(Path(folder) / "pgbouncer", settings.dsn, mode) as dsn:
            yield settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def answers(settings: Settings) -> None:
    async def does_answer() -> bool:
        try:
            await (await asyncpg.connect(settings.dsn)).close()
        except OSError:
            return False
        return True

    await until(does_answer, "PgBouncer answers")
