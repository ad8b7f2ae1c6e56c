"""A primary Postgres and its asynchronous standby, which loses what it has not received, and takes its place."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gatelog.local import ports
from gatelog.local.postgres import _binary, _env
from gatelog.local.process import run_checked
from gatelog.local.runas import postgres_identity
from support.apart import connected
from support.waiting import until

_USER = "gatelog"
_SETTINGS = {
    "listen_addresses": ports.HOST,
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "fsync": "off",  # processes are killed here, not machines
}


class Server:
    """One Postgres below a folder of its own."""

    def __init__(self, folder: Path, taken: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.port = ports.choose(None, taken)
        self._run_as = postgres_identity(folder.parent, _binary("postgres"))
        self._process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}@{ports.HOST}:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        run_checked([_binary(program), *arguments], program, run_as=self._run_as, env=_env())

    async def start(self) -> None:
        """Return when it takes connections."""
        self._launch()
        ready = [_binary("pg_isready"), "-h", ports.HOST, "-p", str(self.port)]

        async def is_ready() -> bool:
            return (await asyncio.to_thread(subprocess.run, ready, capture_output=True)).returncode == 0

        await until(is_ready, "Postgres starts")

    def _launch(self) -> None:
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [*self._run_as.prefix, _binary("postgres"), "-D", str(self.folder), "-p", str(self.port), *options]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=_env(),
                user=self._run_as.user,
                group=self._run_as.group,
                extra_groups=self._run_as.groups,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL. Its sessions notice, and end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20.0)
            self._process = None


class Pair:
    """Both of them."""

    def __init__(self, folder: Path) -> None:
        self.primary = Server(folder / "one")
        self.standby = Server(folder / "other", (self.primary.port,))

    @property
    def dsn(self) -> str:
        """The DSN that names both, the primary first."""
        return f"postgresql://{_USER}@{ports.HOST}:{self.primary.port},{ports.HOST}:{self.standby.port}/{_USER}"

    async def start(self) -> None:
        primary, standby = self.primary, self.standby
        options = ["--auth=trust", f"--username={_USER}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        await asyncio.to_thread(primary.run, "initdb", f"--pgdata={primary.folder}", *options)
        await primary.start()
        async with connected(primary.dsn()) as connection:
            await connection.execute(f"CREATE DATABASE {_USER}")
        how = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        source = f"--dbname={primary.dsn()}"
        await asyncio.to_thread(standby.run, "pg_basebackup", f"--pgdata={standby.folder}", source, *how)
        await standby.start()

    async def caught_up(self) -> None:
        """Wait until the standby has all that was committed so far."""
        async with connected(self.primary.dsn()) as primary, connected(self.standby.dsn()) as standby:
            end = await primary.fetchval("SELECT pg_current_wal_insert_lsn()::text")

            async def has_it() -> bool:
                return bool(await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end))

            await until(has_it, "the standby has caught up")

    async def cut_off(self) -> None:
        """From here on the standby receives nothing."""
        async with connected(self.standby.dsn()) as standby:
            await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await standby.execute("SELECT pg_reload_conf()")

            async def is_cut_off() -> bool:
                return bool(await standby.fetchval("SELECT count(*) = 0 FROM pg_stat_wal_receiver"))

            await until(is_cut_off, "nothing is received any more")

    async def fail_over(self) -> None:
        """Kill the primary, and let the standby take its place."""
        await asyncio.to_thread(self.primary.kill)
        async with connected(self.standby.dsn()) as standby:
            await standby.execute("SELECT pg_promote(true, 60)")


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    """Yield both, started; they do not outlive the block."""
    made = Pair(_reachable(folder))
    try:
        await made.start()
        yield made
    finally:
        made.primary.kill()
        made.standby.kill()


def _reachable(folder: Path) -> Path:
    """Make a folder that the user finds who runs Postgres."""
    folder.mkdir()
    for each in (folder, *list(folder.parents)[:2]):
        each.chmod(0o755)
    return folder
