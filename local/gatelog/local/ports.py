"""Free TCP ports on loopback, remembered from run to run."""

import secrets
import socket
from collections.abc import Container

from gatelog.core.errors import LocalServiceError

HOST = "127.0.0.1"
# Below every usual range of ephemeral ports (Linux 32768, macOS 49152): an outgoing connection of any program
# cannot take a remembered port while the service is down.
_FIRST, _LAST = 15_000, 32_000
_ATTEMPTS_MAX = 200


def is_free(port: int) -> bool:
    """Whether a service could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As both services do themselves: connections that still linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_open(port: int) -> bool:
    """Whether anything accepts connections on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False


def choose(remembered: int | None, taken: Container[int] = ()) -> int:
    """The remembered port if it is still free, else another one."""
    if remembered is not None and is_free(remembered):
        return remembered
    for _ in range(_ATTEMPTS_MAX):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in taken and is_free(port):
            return port
    raise LocalServiceError(f"No free TCP port found on {HOST} between {_FIRST} and {_LAST}.")
