"""A real PgBouncer in front of the Postgres of a test, in a process of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from gatelog.core.settings import Settings
from gatelog.local import ports
from support.waiting import until

PROGRAM = "pgbouncer"
USER = "nobody"  # PgBouncer refuses to run as root


class PgBouncer:
    """One that runs, with its folder."""

    def __init__(self, folder: Path, mode: str, user: str, password: str) -> None:
        self._folder = folder
        self._mode, self._user, self._password = mode, user, password
        self._port = ports.choose(None)

    def dsn(self, database: str) -> str:
        """The DSN of a database through it; ``pgbouncer``: its console."""
        return f"postgresql://{self._user}:{self._password}@{ports.HOST}:{self._port}/{database}"

    def lead_to(self, host: str | None, port: int | None) -> None:
        """Write down where Postgres is."""
        (self._folder / "users.txt").write_text(f'"{self._user}" "{self._password}"\n')
        (self._folder / "pgbouncer.ini").write_text(
            f"""
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = {ports.HOST}
listen_port = {self._port}
unix_socket_dir =
auth_type = {"scram-sha-256" if self._password else "trust"}
auth_file = users.txt
admin_users = {self._user}
pool_mode = {self._mode}
default_pool_size = 10
server_login_retry = 1
"""
        )
        _give(self._folder)

    async def command(self, *commands: str) -> None:
        """Say something to its console."""
        connection = await asyncpg.connect(self.dsn(PROGRAM))
        try:
            for command in commands:
                await connection.execute(command)
        finally:
            connection.terminate()


@contextmanager
def pgbouncer(folder: Path, dsn: str, mode: str) -> Iterator[PgBouncer]:
    """Yield a pool in ``mode`` in front of ``dsn``; skip the test where PgBouncer is not installed."""
    program = shutil.which(PROGRAM, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs PgBouncer (Debian: apt-get install pgbouncer)")
    folder.mkdir()
    parts = urlsplit(dsn)
    made = PgBouncer(folder, mode, parts.username or "", parts.password or "")
    made.lead_to(parts.hostname, parts.port)
    with (folder / "log").open("ab") as log:
        user = USER if os.geteuid() == 0 else None
        process = subprocess.Popen([program, "pgbouncer.ini"], cwd=folder, stdout=log, stderr=log, user=user)
    try:
        yield made
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
def bouncing(settings: Settings, mode: str) -> Iterator[PgBouncer]:
    """Yield a PgBouncer in front of the Postgres of these settings."""
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which only its owner may enter
        Path(folder).chmod(0o755)
        with pgbouncer(Path(folder) / "pgbouncer", settings.dsn, mode) as made:
            yield made


@contextmanager
def pooled(settings: Settings, mode: str) -> Iterator[Settings]:
    """Yield settings by which every connection goes through a pool in ``mode``."""
    with bouncing(settings, mode) as made:
        yield through(settings, made)


def through(settings: Settings, bouncer: PgBouncer) -> Settings:
    """Return these settings, by way of a pooler."""
    database = urlsplit(settings.dsn).path.removeprefix("/")
    return settings.model_copy(update={"postgres_dsn": SecretStr(bouncer.dsn(database))})


async def answers(settings: Settings) -> None:
    async def does_answer() -> bool:
        try:
            await (await asyncpg.connect(settings.dsn)).close()
        except OSError:
            return False
        return True

    await until(does_answer, "PgBouncer answers")
