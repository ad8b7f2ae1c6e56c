"""What is remembered between two runs: the token that marks our processes, ports, and process ids."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gatelog.local.files import write_atomic


@dataclass(frozen=True)
class State:
    """The content of services.json.

    ``token`` stands on the command line of every process of this folder, so that neither a reused process id
    nor the same path inside a container is ever taken for ours. ``pids`` only saves a search.
    """

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    ports: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)

    def with_port(self, name: str, port: int) -> "State":
        return State(self.token, {**self.ports, name: port}, self.pids)

    def with_pid(self, name: str, pid: int) -> "State":
        return State(self.token, self.ports, {**self.pids, name: pid})

    def without_pid(self, name: str) -> "State":
        return State(self.token, self.ports, {key: pid for key, pid in self.pids.items() if key != name})


class StateFile:
    """services.json of one state folder. Written only under the folder's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> State | None:
        """What was written last. A file that a broken disk or an editor damaged counts as none."""
        try:
            return _parse(json.loads(self.path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def read_or_new(self) -> State:
        """What was written last, else a new token that is written before anything can start with it."""
        state = self.read()
        if state is None:
            state = State()
            self.write(state)
        return state

    def write(self, state: State) -> None:
        write_atomic(self.path, json.dumps(asdict(state), indent=2) + "\n")


def _parse(raw: dict[str, object]) -> State:
    token = raw["token"]
    if not isinstance(token, str) or not token.isalnum():
        raise ValueError("the token is no token")
    return State(token, _numbers(raw["ports"]), _numbers(raw["pids"]))


def _numbers(raw: object) -> dict[str, int]:
    if not isinstance(raw, dict):
        raise TypeError("no table of numbers")
    return {str(name): int(number) for name, number in raw.items()}
