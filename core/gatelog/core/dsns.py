"""DSNs of Postgres: checked before anything is opened, taken apart, and shown without their secrets."""

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from gatelog.core.errors import SettingsError

_PORT: Final = 5432


def check(what: str, dsn: str) -> str:
    """Return ``dsn`` if no character of a password has cut it in the wrong place.

    Raises:
        SettingsError: it cannot be read; the message shows nothing of it.
    """
    try:
        parts = urlsplit(dsn)
        is_clear = parts.netloc.count("@") < 2 and "@" not in parts.path + parts.query and not parts.fragment
        legible = parts.scheme in {"postgres", "postgresql"} and is_clear and bool(hosts(dsn))
    except ValueError:  # a port that is no number, say
        legible = False
    if not legible:
        raise SettingsError(
            f"{what} cannot be read. It must look like postgresql://user:password@host:port/database, with commas "
            "between several host:port. In user and password write @ / ? # [ ] % as %40 %2F %3F %23 %5B %5D %25."
        )
    return dsn


def where(dsn: str) -> str:
    """Return a DSN without its secrets, for messages."""
    return ",".join(f"{host}:{port}" for host, port in hosts(dsn)) + urlsplit(dsn).path


def hosts(dsn: str) -> list[tuple[str, int]]:
    """Return the hosts of a DSN in their order, each with its port."""
    given = options(dsn)
    listed = urlsplit(dsn).netloc.rpartition("@")[2] or given.get("host") or "localhost"
    found = [_pair(each) for each in listed.split(",")]
    ports = [int(port) for port in given.get("port", "").split(",") if port]
    return [(host, port or ports[n % len(ports)] if ports else port or _PORT) for n, (host, port) in enumerate(found)]


def options(dsn: str) -> dict[str, str]:
    """Return what stands behind the question mark."""
    query = urlsplit(dsn).query
    return dict(parse_qsl(query, strict_parsing=True)) if query else {}


def _pair(each: str) -> tuple[str, int]:
    """Take ``host``, ``host:port`` or ``[address]:port`` apart; 0 without a port."""
    address, bracket, rest = each.rpartition("]")
    name, _, port = rest.partition(":")
    return (address.removeprefix("[") if bracket else unquote(name)), int(port or 0)
