"""DSNs: several hosts, and passwords that nobody is shown."""

import pytest

from gatelog.core import dsns
from gatelog.core.errors import SettingsError

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("dsn", "hosts", "shown"),
    [
        ("postgresql://u:p@h/db", [("h", 5432)], "h:5432/db"),
        ("postgresql://u:p@h1:1,h2:2/db", [("h1", 1), ("h2", 2)], "h1:1,h2:2/db"),
        ("postgresql://u:p@h1,h2:2/db?target_session_attrs=any", [("h1", 5432), ("h2", 2)], "h1:5432,h2:2/db"),
        ("postgresql://[::1]:3,[::2]/db", [("::1", 3), ("::2", 5432)], "::1:3,::2:5432/db"),
        ("postgresql:///db?host=h1,h2&port=7,8", [("h1", 7), ("h2", 8)], "h1:7,h2:8/db"),
        ("postgresql:///db?host=h1,h2&port=7", [("h1", 7), ("h2", 7)], "h1:7,h2:7/db"),
        ("postgresql://u@%2Frun%2Fpostgresql/db", [("/run/postgresql", 5432)], "/run/postgresql:5432/db"),
        ("postgres:///db", [("localhost", 5432)], "localhost:5432/db"),
        ("postgresql://u:%40%2F%3A@h/db", [("h", 5432)], "h:5432/db"),
    ],
)
def test_hosts_are_known_and_shown_without_secrets(dsn: str, hosts: list[tuple[str, int]], shown: str) -> None:
    assert dsns.check("It", dsn) == dsn
    assert (dsns.hosts(dsn), dsns.where(dsn)) == (hosts, shown)


@pytest.mark.parametrize("character", list("@/?#[]"))
@pytest.mark.parametrize("digits", ["", "12"])  # which would pass for a port
def test_a_password_that_cuts_the_dsn_is_refused_and_not_shown(character: str, digits: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read.*%40") as caught:
        dsns.check("The DSN", f"postgresql://u:{digits}{character}{SECRET}@h:1/db")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("dsn", ["mysql://u@h/db", "h:5432", "postgresql://u@h:port/db", "postgresql://h/db?a"])
def test_what_is_no_dsn_is_refused(dsn: str) -> None:
    with pytest.raises(SettingsError, match="must look like postgresql://"):
        dsns.check("The DSN", dsn)
