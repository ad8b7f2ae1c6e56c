"""Postgres refuses to run as root, and CI and containers are root: how it is started there instead."""

import os
import pwd
import shutil
from pathlib import Path

from gatelog.core.errors import LocalServiceError
from gatelog.local.process import AS_WE_ARE, RunAs, run


def postgres_identity(folder: Path, program: str) -> RunAs:
    """How to start Postgres here, with ``folder`` made its own: as is, in a user namespace, or as another user."""
    if os.geteuid() != 0:
        return AS_WE_ARE
    user = _ordinary_user()
    run_as = _in_user_namespace(user) or RunAs(user=user.pw_uid, group=user.pw_gid)
    _give(folder, run_as.user or 0, run_as.group or 0)
    _check_access(run_as, user.pw_name, folder, program)
    return run_as


def _ordinary_user() -> pwd.struct_passwd:
    """An account that exists (initdb looks up its own name), ``postgres`` if the machine has one."""
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid != 0}
    for name in ("postgres", "nobody"):
        if name in accounts:
            return accounts[name]
    if accounts:
        return next(iter(accounts.values()))
    raise LocalServiceError("Postgres does not run as root, and this machine has no other user. Add one, run as it.")


def _in_user_namespace(user: pwd.struct_passwd) -> RunAs | None:
    """A user namespace: Postgres sees itself as ``user``, the files stay root's. Not allowed everywhere: tried."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    # Without --fork, unshare execs the command: the process id stays the one that was started.
    prefix = (unshare, "-U", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}")
    works = run(["true"], run_as=RunAs(prefix)).returncode == 0
    return RunAs(prefix) if works else None


def _give(folder: Path, user: int, group: int) -> None:
    """The folder may be another's from a run under other rules (namespaces allowed or not)."""
    if folder.stat().st_uid == user:
        return
    for path in (*folder.rglob("*"), folder):  # the folder last: its owner says that all of it was done
        os.chown(path, user, group, follow_symlinks=False)


def _check_access(run_as: RunAs, name: str, folder: Path, program: str) -> None:
    tries = {f"write to {folder}": ["test", "-w", str(folder)], f"run {program}": [program, "--version"]}
    for what, command in tries.items():
        if run(command, run_as=run_as).returncode != 0:
            raise LocalServiceError(
                f"Postgres does not run as root, so it runs as {name!r} here, who cannot {what}. Run gatelog as an "
                "ordinary user, or install it and set GATELOG_HOME in folders that all may enter."
            )
