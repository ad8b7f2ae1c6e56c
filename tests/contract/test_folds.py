"""Folds and their snapshots, on both stores: a snapshot may be wrong in any way, the state never is."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from pydantic import Field, PrivateAttr
from support.stores import Store

from gatelog.core.errors import InvalidInputError, SchemaError, StreamNotFoundError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, HistoricEvent
from gatelog.reader import State
from gatelog.reader.folds.snapshots import PostgresSnapshots, Snapshot, SnapshotKey, Snapshots
from gatelog.reader.folds.state import fingerprint
from gatelog.schemas import Event, NewEvent, RecordedEvent

START = datetime(2026, 3, 1, tzinfo=UTC)


class Deposited(Event):
    amount: Decimal = Field(max_digits=12, decimal_places=2)


class Renamed(Event):
    name: str


class Ignored(Event):
    text: str = ""


applied: list[int] = []  # versions, as they were applied


class Account(State):
    balance: Decimal = Decimal(0)
    names: list[str] = Field(default_factory=list)

    def apply(self, event: RecordedEvent) -> None:
        applied.append(event.version)
        match event.data:
            case Deposited(amount=amount):
                self.balance += amount
            case Renamed(name=name):
                self.names.append(name)


@pytest.fixture
async def snapshots(store: Store, real: Settings | None) -> Any:  # noqa: ANN401 - a generator of Snapshots
    """The same snapshots that the store's reader uses."""
    applied.clear()
    if real is None:
        yield store.reader._snapshots
    else:
        async with asyncpg.create_pool(real.dsn, min_size=1, max_size=1) as pool:
            yield PostgresSnapshots(real.store, pool)


def key(stream: str, state: type[State]) -> SnapshotKey:
    return SnapshotKey(stream, f"{state.__module__}.{state.__qualname__}", fingerprint(state))


async def deposit(store: Store, *amounts: int) -> None:
    events = [Deposited(amount=Decimal(amount)) for amount in amounts]
    await store.producer.append("Account-1", events, expected_version=ANY)


async def test_a_fold_is_what_the_events_add_up_to(store: Store) -> None:
    with pytest.raises(StreamNotFoundError):
        await store.reader.fold("Account-1", Account)
    await deposit(store, 1, 2)
    await store.producer.append("Account-1", [Renamed(name="ann"), Ignored()], expected_version=2)
    account = await store.reader.fold("Account-1", Account)
    assert (account.balance, account.names, account.stream_version) == (Decimal(3), ["ann"], 4)
    await store.producer.append("Account-1", [Ignored()], expected_version=account.stream_version)


async def test_as_of_a_version_and_of_a_time(store: Store) -> None:
    await store.producer.load(
        HistoricEvent("Account-1", n, Deposited(amount=Decimal(n)), START + timedelta(hours=n)) for n in range(1, 11)
    )
    for every in (0, 3):
        for version in range(1, 12):
            account = await store.reader.fold("Account-1", Account, version=version, snapshot_every=every)
            last = min(version, 10)
            assert (account.balance, account.stream_version) == (Decimal(last * (last + 1) // 2), last)
        for hours in range(12):
            at = START + timedelta(hours=hours, minutes=30)
            account = await store.reader.fold("Account-1", Account, at=at, snapshot_every=every)
            last = min(hours, 10)
            assert (account.balance, account.stream_version) == (Decimal(last * (last + 1) // 2), last)
        await store.reader.fold("Account-1", Account, snapshot_every=every)  # from here on there is a snapshot, of 10
    for wrong in ({"version": 0}, {"at": datetime(2026, 1, 1)}):  # noqa: DTZ001 - on purpose
        with pytest.raises(InvalidInputError):
            await store.reader.fold("Account-1", Account, **wrong)


async def test_a_fold_goes_on_from_its_snapshot(store: Store, snapshots: Snapshots) -> None:
    await deposit(store, *[1] * 5)
    await store.reader.fold("Account-1", Account, snapshot_every=6)
    assert await snapshots.load(key("Account-1", Account)) is None, "five events are not six"
    await store.reader.fold("Account-1", Account, snapshot_every=5)
    await deposit(store, 1, 1)
    applied.clear()
    assert (await store.reader.fold("Account-1", Account, snapshot_every=5)).balance == 7
    assert applied == [6, 7]
    applied.clear()
    assert (await store.reader.fold("Account-1", Account, version=4, snapshot_every=5)).balance == 4
    assert applied == [1, 2, 3, 4], "the snapshot is younger than what is asked for"


async def test_random_folds_are_never_wrong(store: Store, chance: random.Random) -> None:
    balance = version = 0
    for _ in range(60):
        amounts = [chance.randint(1, 100) for _ in range(chance.randint(1, 4))]
        await deposit(store, *amounts)
        balance, version = balance + sum(amounts), version + len(amounts)
        account = await store.reader.fold("Account-1", Account, snapshot_every=chance.choice([0, 1, 3, 10]))
        assert (account.balance, account.stream_version) == (Decimal(balance), version)


async def test_a_changed_model_does_not_see_what_the_old_one_left(store: Store, snapshots: Snapshots) -> None:
    def account(fields: dict[str, Any], version: int) -> type[State]:
        def apply(self: Any, event: RecordedEvent) -> None:  # noqa: ANN401 - a state made here
            applied.append(event.version)

        namespace = {"__annotations__": dict.fromkeys(fields, int), **fields, "apply": apply}
        made: type[State] = type("Changing", (State,), {**namespace, "__module__": __name__}, version=version)
        return made

    await deposit(store, 1, 2)
    old = account({"a": 0}, 1)
    await store.reader.fold("Account-1", old, snapshot_every=1)
    for changed in (account({"a": 0, "b": 0}, 1), account({"b": 0}, 1), account({"a": 0}, 2), account({"a": 1}, 1)):
        applied.clear()
        await store.reader.fold("Account-1", changed, snapshot_every=1)
        assert applied == [1, 2]
    applied.clear()
    await store.reader.fold("Account-1", account({"a": 0}, 1), snapshot_every=1)
    assert applied == [], "the same model as the old one finds its snapshot still there"


@dataclass
class Spoiled:
    """How a snapshot is spoiled."""

    name: str
    change: Callable[[Snapshot], Snapshot]


@pytest.mark.parametrize(
    "spoiled",
    [
        Spoiled("not JSON", lambda s: replace(s, state="{")),
        Spoiled("of other fields", lambda s: replace(s, state='{"other": 1}')),
        Spoiled("of another history", lambda s: replace(s, event_id=uuid4())),
        Spoiled("ahead of its stream", lambda s: replace(s, version=s.version + 5)),
        Spoiled("of another version", lambda s: replace(s, version=s.version - 1)),
    ],
    ids=lambda spoiled: spoiled.name,
)
async def test_a_spoiled_snapshot_is_found_out_and_replaced(
    store: Store, snapshots: Snapshots, spoiled: Spoiled
) -> None:
    await deposit(store, 1, 2, 3)
    await store.reader.fold("Account-1", Account, snapshot_every=1)
    kept = await snapshots.load(key("Account-1", Account))
    assert kept is not None
    bad = spoiled.change(replace(kept, state=kept.state.replace('"6.00"', '"999.00"')))
    await snapshots.save(key("Account-1", Account), bad, replace=True)
    assert (await store.reader.fold("Account-1", Account, snapshot_every=50)).balance == 6
    assert await snapshots.load(key("Account-1", Account)) == kept, "a good one takes its place at once"


async def test_a_state_that_json_would_change_is_not_kept(store: Store, snapshots: Snapshots) -> None:
    class Lossy(State):
        seen: int = Field(0, exclude=True)

        def apply(self, event: RecordedEvent) -> None:
            self.seen += 1

    await deposit(store, 1, 2, 3)
    for _ in range(2):
        assert (await store.reader.fold("Account-1", Lossy, snapshot_every=1)).seen == 3
    assert await snapshots.load(key("Account-1", Lossy)) is None


async def test_a_state_with_more_than_its_fields_is_not_kept(store: Store, snapshots: Snapshots) -> None:
    """Private attributes are not in JSON: a fold that went on from a snapshot would have begun without them."""

    class Distinct(State):
        count: int = 0
        _seen: set[Decimal] = PrivateAttr(default_factory=set)

        def apply(self, event: RecordedEvent) -> None:
            if isinstance(event.data, Deposited) and event.data.amount not in self._seen:
                self._seen.add(event.data.amount)
                self.count += 1

    await deposit(store, 1, 2, 1)
    for expected in (2, 3):
        assert (await store.reader.fold("Account-1", Distinct, snapshot_every=1)).count == expected
        await deposit(store, 2, 3)
    assert await snapshots.load(key("Account-1", Distinct)) is None


async def test_scripts_do_not_share_snapshots(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scripts, each with a class of this name and these fields; every script is the module __main__."""

    def of_script(file: str, wanted: type[Event]) -> type[State]:
        class Count(State):
            count: int = 0

            def apply(self, event: RecordedEvent) -> None:
                self.count += isinstance(event.data, wanted)

        Count.__module__ = "__main__"
        monkeypatch.setattr("__main__.__spec__", None, raising=False)
        monkeypatch.setattr("__main__.__file__", file, raising=False)
        return Count

    await deposit(store, 1, 2)
    for file, wanted, expected in (("/a.py", Deposited, 2), ("/b.py", Renamed, 0), ("/a.py", Deposited, 2)):
        state = await store.reader.fold("Account-1", of_script(file, wanted), snapshot_every=1)
        assert state.model_dump() == {"count": expected}
    with pytest.raises(InvalidInputError, match="snapshot_every"):
        await store.reader.fold("Account-1", Account, snapshot_every=-1)


async def test_a_state_without_json_is_folded_without_snapshots(store: Store) -> None:
    class Odd(State, arbitrary_types_allowed=True):
        what: object = Field(default_factory=lambda: print)
        call: Callable[[], Awaitable[None]] | None = None

        def apply(self, event: RecordedEvent) -> None: ...

    await deposit(store, 1)
    with pytest.raises(SchemaError, match="snapshot_every=0"):
        fingerprint(Odd)
    for every in (0, 1, 1):
        assert (await store.reader.fold("Account-1", Odd, snapshot_every=every)).stream_version == 1


def test_a_state_needs_defaults() -> None:
    with pytest.raises(SchemaError, match="give balance a default"):

        class Undefined(State):
            balance: int


async def test_what_apply_raises_comes_through(store: Store) -> None:
    class Failing(State):
        def apply(self, event: RecordedEvent) -> None:
            raise ZeroDivisionError

    await store.producer.append("Account-1", [NewEvent(Ignored())], expected_version=0)
    with pytest.raises(ZeroDivisionError):
        await store.reader.fold("Account-1", Failing)
