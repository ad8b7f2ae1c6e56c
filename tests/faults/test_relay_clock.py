"""The clock of Postgres is set back, and the active relay freezes: the next one need not wait for the clock."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.models import Noted
from support.pgbouncer import answers, pooled
from support.trial import Row, relay
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.producer import ANY, Producer

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
USUAL_S = 30.0  # of 3 s of silence, on a machine that others use; the clock is set back by far more


class Clock:
    """A Postgres of its own, and the clock that it sees."""

    def __init__(self, services: LocalServices, file: Path) -> None:
        self._file = file
        self.dsn = services.up(only="postgres").postgres_dsn

    def set(self, seconds: int) -> None:
        """So far from what it is."""
        self._file.write_text(f"{seconds:+}s\n")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    if not LIBRARY.exists():
        pytest.skip("needs libfaketime (Debian: apt-get install faketime)")
    folder = tmp_path_factory.mktemp("clock")
    file = folder / "offset"
    file.write_text("+0s\n")
    for each in (folder, *list(folder.parents)[:2]):  # the user that Postgres runs as reads it
        each.chmod(0o755)
    services = LocalServices(folder / "services")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(LIBRARY))
        environment.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
        environment.setenv("FAKETIME_NO_CACHE", "1")
        environment.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        made = Clock(services, file)
    yield made
    services.destroy()


@pytest.mark.parametrize("through", ["a pooler", "its own session"])
async def test_the_clock_is_set_back_and_the_active_relay_freezes(
    settings: Settings, clock: Clock, through: str
) -> None:
    clock.set(0)
    own = settings.model_copy(update={"postgres_dsn": SecretStr(clock.dsn)})
    await initialise(own)
    row = Row(own)
    ways: AbstractContextManager[Settings] = pooled(own, "transaction") if through == "a pooler" else nullcontext(own)
    async with Producer.connect(own) as producer:
        with ways as way:
            await answers(way)
            with relay(way) as one:
                await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
                await row.moves(1)
                epoch = await row.epoch()
                assert one.pid is not None
                os.kill(one.pid, signal.SIGSTOP)
                clock.set(-600)
                with relay(way):

                    async def has_taken_over() -> bool:
                        return await row.epoch() > epoch

                    await until(has_taken_over, "the other relay takes over", USUAL_S)
