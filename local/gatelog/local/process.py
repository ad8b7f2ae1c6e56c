"""Processes: started so that they outlive us, recognised beyond doubt, stopped in order."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatelog.core.errors import LocalServiceError

try:
    import psutil
except ImportError as error:
    raise LocalServiceError("Local services need more packages: `pip install gatelog[local]`.") from error

_POLL_INTERVAL_S = 0.02
_TAIL_BYTES_MAX = 16_384
# The shell puts the command into the background and tells its process id: as a grandchild it becomes no zombie
# of ours when it dies, and nothing in this interpreter keeps waiting for it. Its output goes to the log (stderr).
_DETACH = '"$@" >&2 & echo $!'


@dataclass(frozen=True)
class RunAs:
    """How to start a program as somebody else: words before the command, or another user and group."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Root's supplementary groups are dropped together with its id."""
        return None if self.user is None else []


AS_WE_ARE = RunAs()


def run(
    command: Sequence[str],
    *,
    run_as: RunAs = AS_WE_ARE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return output and exit code; a Ctrl-C in the terminal does not reach the program."""
    try:
        return subprocess.run(  # noqa: S603 (every word of the command comes from this package)
            [*run_as.prefix, *command],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            cwd=cwd,
            timeout=timeout_s,
            check=False,
            user=run_as.user,
            group=run_as.group,
            extra_groups=run_as.groups,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalServiceError(f"Cannot run {command[0]}: {error}") from error


def run_checked(
    command: Sequence[str],
    what: str,
    *,
    run_as: RunAs = AS_WE_ARE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
) -> str:
    """Run to the end; a failure becomes an error that says what was tried and what the program said."""
    done = run(command, run_as=run_as, env=env, cwd=cwd, stdin=stdin)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise LocalServiceError(f"{what} failed with exit code {done.returncode}:\n{said}")
    return done.stdout


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    run_as: RunAs = AS_WE_ARE,
    env: Mapping[str, str] | None = None,
    cwd: Path,
) -> int:
    """Start a program that outlives us, in its own session, appending its output to ``log``; its process id."""
    try:
        with log.open("ab") as output:
            done = subprocess.run(  # noqa: S603 (every word of the command comes from this package)
                ["/bin/sh", "-c", _DETACH, "sh", *run_as.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                cwd=cwd,
                check=True,
                user=run_as.user,
                group=run_as.group,
                extra_groups=run_as.groups,
                start_new_session=True,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        raise LocalServiceError(f"Cannot start {command[0]} with its log {log}: {error}") from error
    return int(done.stdout)


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. A dead process that its parent has not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def alive_process(pid: int) -> psutil.Process | None:
    """The process with this id, if there is one and it runs."""
    try:
        process = psutil.Process(pid)
    except (psutil.NoSuchProcess, ValueError):
        return None
    return process if is_alive(process) else None


def find(hint: int | None, matches: Callable[[list[str]], bool]) -> psutil.Process | None:
    """The running process whose command line matches: the remembered one, else the oldest of all.

    The search covers a start that was killed before it could remember the process id. The oldest, because a
    process that has just forked shows its parent's command line.
    """
    remembered = alive_process(hint) if hint else None
    if remembered and matches(command_line(remembered)):
        return remembered
    return min(find_all(matches), key=lambda process: process.create_time(), default=None)


def find_all(matches: Callable[[list[str]], bool]) -> list[psutil.Process]:
    """All running processes whose command line matches."""
    return [process for process in psutil.process_iter() if matches(command_line(process)) and is_alive(process)]


def command_line(process: psutil.Process) -> list[str]:
    """The words of the command line; none if it is gone or not ours to see."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def stop(processes: Sequence[tuple[psutil.Process, signal.Signals]], timeout_s: float) -> None:
    """Ask all to end, wait for all, and kill only what has not ended by the deadline."""
    for process, how in processes:
        _signal(process, how)
    deadline = time.monotonic() + timeout_s
    late = [process for process, _ in processes if not wait_gone(process, deadline - time.monotonic())]
    for process in late:
        _signal(process, signal.SIGKILL)
    stuck = [process.pid for process in late if not wait_gone(process, 10.0)]
    if stuck:
        raise LocalServiceError(f"Process {stuck[0]} does not end, even killed. Is its disk stuck?")


def wait_gone(process: psutil.Process, timeout_s: float) -> bool:
    """Wait until it has ended; whether it did. (psutil's own wait takes an uncollected zombie for alive.)"""
    deadline = time.monotonic() + timeout_s
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL_S)
    return True


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    try:
        process.send_signal(how)  # psutil refuses when the id was reused meanwhile
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise LocalServiceError(f"Process {process.pid} belongs to another user: stop it as that user.") from error


def tail(log: Path, since: int = 0, lines: int = 15) -> str:
    """The last lines of a log, for an error message; none from before the byte ``since``."""
    try:
        with log.open("rb") as file:
            size = log.stat().st_size
            file.seek(max(since if since <= size else 0, size - _TAIL_BYTES_MAX))  # smaller: a new file since
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
