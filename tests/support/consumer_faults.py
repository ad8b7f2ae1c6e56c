"""What may happen to the consumers of a sweep and to what they read: processes, brokers, builds, topics."""

import asyncio
import random
import signal
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
from confluent_kafka.cimpl import NewTopic

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.local import LocalServices, ports
from gatelog.local.process import wait_gone
from gatelog.reader.subscriptions.topics import Topics
from support.consumed import FOLDER, PROJECTIONS, VERSION
from support.fleet import Fleet, Member
from support.forked import Forked
from support.losses import lose_topic
from support.processes import environment
from support.retention import forget_before
from support.waiting import until

TESTS: Final = Path(__file__).parents[1]
SIZES: Final = {"run": 1, "shared": 3, "ordered": 3, "app": 3, "copy": 2}
CONSUMERS: Final = ("shared", "ordered", "app", "copy")
SMALL: Final = {"outbox_segment_events": 200, "outbox_snapshot_age_max_s": 0.0}
END_S: Final = 120.0  # for a command, or for the switch to a new build


class Faults:
    """What may happen to consumers and to what they read, one at a time."""

    def __init__(self, settings: Settings, own: LocalServices, folder: Path, chance: random.Random) -> None:
        self._settings, self._own, self._folder, self._chance = settings, own, folder, chance
        self._versions = dict.fromkeys(PROJECTIONS, 1)
        self._protocols = dict.fromkeys(CONSUMERS, "auto")
        self._commands = 0
        self.are_remade = False  # topics
        self.handled: dict[tuple[str, int], int] = {}  # up to where everybody has handled everything
        self.fleet = Fleet(SIZES, self._start, folder)
        self._faults: dict[Callable[[], Coroutine[Any, Any, str]], int] = {
            self._kill: 6,
            self._kill_all: 3,
            self._freeze: 6,
            self._freeze_all: 2,
            self._roll: 3,
            self._terminate: 4,
            self._restart_kafka: 5,
            self._rebuild: 5,
            self._rebuild_killed: 4,
            self._new_version: 5,
            self._drop: 1,
            self._other_protocol: 3,
            self._forget: 3,
            self._lose: 4,
            self._recreate: 6,
            self._reconcile: 1,
        }

    async def strike(self) -> str:
        """Let one happen, and sometimes a second one meanwhile; print its name, and return the rest."""
        (fault,) = self._chance.choices(list(self._faults), list(self._faults.values()))
        beside = self._chance.choices([None, self._kill, self._freeze], [6, 1, 1])[0]
        print(fault.__name__.strip("_"), end=" ", flush=True)
        async with asyncio.TaskGroup() as work:
            first = work.create_task(fault())
            if beside is not None:
                await asyncio.sleep(self._chance.uniform(0, 4))
                second = await beside()
        also = f"; {beside.__name__.strip('_')} {second}" if beside is not None else ""
        return f"{first.result()}{also}"

    # --- processes --------------------------------------------------------------------------------

    def _environment(self, kind: str) -> dict[str, str]:
        more = {f"GATELOG_{name.upper()}": str(value) for name, value in SMALL.items()}
        more |= {"PYTHONPATH": str(TESTS), FOLDER: str(self._folder), VERSION: str(self._versions.get(kind, 1))}
        if kind in self._protocols:
            more |= {"GATELOG_SUBSCRIPTION_PROTOCOL": self._protocols[kind]}
            more |= {"GATELOG_SUBSCRIPTION_SESSION_TIMEOUT_S": "6"}
        return environment(self._settings, **more)

    def _start(self, kind: str, log: Path) -> Forked:
        command = ["run"] if kind == "run" else ["consume", f"support.consumers:{kind}"]
        return Forked([*command, "--json-logs"], self._environment(kind), log)

    @property
    def surprises(self) -> list[str]:
        """How members have ended that should have gone on: a newer version ends them, and records that are gone."""
        is_legal = ("has taken the place of version", "exit code 8" if self.are_remade else "has taken the place of")
        return [ended for ended in self.fleet.ended if not any(text in ended for text in is_legal)]

    async def _gatelog(self, *arguments: str, kind: str = "") -> str:
        running = self._command(kind, *arguments)
        code, said = await running.ended(), running.log.read_text()
        assert code == 0, f"gatelog {' '.join(arguments)}: {code}: {said[-3000:]}"
        return said

    def _command(self, kind: str, *arguments: str) -> Forked:
        self._commands += 1
        log = self._folder / f"{'-'.join(arguments[:2])}-{self._commands}.log"
        return Forked(arguments, self._environment(kind), log)

    async def prepare(self) -> None:
        """Make the read models."""
        for name in PROJECTIONS:
            await self._gatelog("projection", "prepare", f"support.consumers:{name}", kind=name)

    async def replay(self) -> None:
        """Have everything that is parked handled again."""
        await self._gatelog("parked", "replay", "app", "--all")

    def _one(self, *kinds: str) -> Member:
        return self._chance.choice(self.fleet.of(*(kinds or SIZES)))

    def _kind(self) -> str:
        return self._chance.choice(CONSUMERS)

    async def _kill(self) -> str:
        member = self._one()
        self.fleet.kill(member)
        return member.kind

    async def _kill_all(self) -> str:
        kinds = self._chance.choice([(self._kind(),), CONSUMERS, tuple(SIZES)])
        self.fleet.kill(*self.fleet.of(*kinds))
        return ", ".join(kinds)

    async def _freeze(self) -> str:
        member, seconds = self._one(), self._chance.uniform(2, 15)
        await self.fleet.freeze(seconds, member)
        return f"{member.kind} for {seconds:.0f} s"

    async def _freeze_all(self) -> str:
        kind, seconds = self._kind(), self._chance.uniform(2, 15)
        await self.fleet.freeze(seconds, *self.fleet.of(kind))
        return f"{kind} for {seconds:.0f} s"

    async def _roll(self) -> str:
        kind = self._kind()
        for member in self.fleet.of(kind):
            await self.fleet.stop(member)
        return kind

    async def _terminate(self) -> str:
        share = self._chance.choice([0.2, 0.6, 1.0])
        rows = await asyncpg.connect(self._settings.dsn)
        ended = await rows.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'gatelog%' AND random() < $1",
            share,
        )
        await rows.close()
        return f"{len(ended)} sessions"

    async def _restart_kafka(self) -> str:
        (server,) = [service for service in self._own.status() if service.name == "kafka"]
        assert server.pid is not None
        assert server.port is not None
        process, port, seconds = psutil.Process(server.pid), server.port, self._chance.uniform(0.3, 8)
        self._chance.choice([process.kill, process.terminate])()
        assert await asyncio.to_thread(wait_gone, process, 60.0)

        async def is_free() -> bool:
            return ports.is_free(port)

        await until(is_free, "the port is free for the next one")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._own.up, only="kafka")
        return f"away for {seconds:.1f} s"

    # --- builds -----------------------------------------------------------------------------------

    def _rebuilding(self, name: str) -> Forked:
        return self._command(name, "projection", "rebuild", f"support.consumers:{name}")

    async def _is_rebuilt(self, running: Forked) -> None:
        code = await running.ended(END_S)
        assert code == 0, f"the rebuild ended with {code}: {running.log.read_text()[-3000:]}"

    async def _meanwhile(self, name: str) -> str:
        """Something small happens to a member while builds change."""
        what = self._chance.choice(["nothing", "kill", "freeze"])
        await asyncio.sleep(self._chance.uniform(0, 4))
        if what == "kill":
            self.fleet.kill(self._one(name))
        elif what == "freeze":
            await self.fleet.freeze(self._chance.uniform(1, 8), self._one(name))
        return what

    async def _rebuild(self) -> str:
        name = self._chance.choice(PROJECTIONS)
        running = self._rebuilding(name)
        meanwhile = await self._meanwhile(name)
        await self._is_rebuilt(running)
        return f"{name}, meanwhile {meanwhile}"

    async def _rebuild_killed(self) -> str:
        name, seconds = self._chance.choice(PROJECTIONS), self._chance.uniform(0.5, 5)
        running = self._rebuilding(name)
        await asyncio.sleep(seconds)
        running.signal(signal.SIGKILL)
        is_again = self._chance.random() < 0.5
        if is_again:
            await self._is_rebuilt(self._rebuilding(name))
        return f"{name} after {seconds:.1f} s{', again' if is_again else ''}"

    async def _new_version(self) -> str:
        name = self._chance.choice(PROJECTIONS)
        self._versions[name] += 1
        await self.fleet.stop(self._one(name))
        meanwhile = await self._meanwhile(name)
        rows = await asyncpg.connect(self._settings.dsn)

        async def is_live() -> bool:
            found = f"SELECT version FROM {self._settings.store}.projection_builds WHERE projection = $1"
            return bool(await rows.fetchval(f"{found} AND state = 'live'", name) == self._versions[name])

        try:
            await until(is_live, f"version {self._versions[name]} of {name} is live", END_S)
        finally:
            await rows.close()
        return f"{name} {self._versions[name]}, meanwhile {meanwhile}"

    async def _drop(self) -> str:
        name = self._chance.choice(PROJECTIONS)
        rows = await asyncpg.connect(self._settings.dsn)
        found = (
            f"SELECT build FROM {self._settings.store}.projection_builds WHERE projection = $1 AND state = 'retired'"
        )
        retired = [row[0] for row in await rows.fetch(found, name)]
        await rows.close()
        for build in retired:
            await self._gatelog("projection", "drop", f"support.consumers:{name}", "--build", str(build), kind=name)
        return f"{name}: {len(retired)} builds"

    # --- groups, records, the gate ------------------------------------------------------------------

    async def _other_protocol(self) -> str:
        kind = self._kind()
        self._protocols[kind] = "classic" if self._protocols[kind] != "classic" else "consumer"
        async with self.fleet.away(kind):
            pass
        return f"{kind}: {self._protocols[kind]}"

    async def _forget(self) -> str:
        """Kafka forgets a part of what everybody has handled."""
        kinds = self._chance.choice([(), ("shared",), ("ordered",), ("app",), ("shared", "ordered", "app")])
        async with self.fleet.away(*kinds):
            await asyncio.sleep(self._chance.uniform(0, 5))
            offsets = {place: self._chance.randint(0, offset) for place, offset in self.handled.items()}
            await forget_before(self._settings, offsets)
        return f"{sum(offsets.values())} offsets, without {', '.join(kinds) or 'nobody'}"

    async def indexed(self) -> tuple[int, dict[tuple[str, int], int]]:
        """Return the highest position that is indexed, and where each partition's next record is."""
        rows = await asyncpg.connect(self._settings.dsn)
        found = await rows.fetch(
            queries("gatelog.reader", "subscriptions/history.sql", self._settings.store)["handover"]
        )
        await rows.close()
        return found[0]["highest"], {
            (row["topic"], row["partition"]): row["next_offset"] for row in found if row["topic"]
        }

    # --- topics that are lost ---------------------------------------------------------------------

    async def _lose(self) -> str:
        """Topics are deleted and filled again, as the documents say; consumers run meanwhile, or do not."""
        lost, kinds = await self._some_topics(), self._chance.choice([(), ("shared",), ("ordered",), ("app",)])
        async with self.fleet.away("run", *kinds):
            await self._delete(lost)
            await self._gatelog("republish", "--apply")
        return f"{len(lost)} topics, without {', '.join(kinds) or 'nobody'}"

    async def _recreate(self) -> str:
        """Topics are deleted, and made again by somebody else, with as many partitions; then filled again."""
        lost, seconds = await self._some_topics(), self._chance.choice([1, 20])
        await self._delete(lost)
        await asyncio.sleep(seconds)
        made = [NewTopic(topic, num_partitions=self._settings.topic_partitions) for topic in lost]
        admin = kafka.admin(self._settings.kafka_properties)
        for future in admin.create_topics(made).values():
            await asyncio.to_thread(future.exception, 30)  # the relay may have been first
        await asyncio.sleep(self._chance.uniform(0, 10))
        async with self.fleet.away("run"):
            if await self._command("", "republish", "--apply").ended() != 0:
                await self._delete(lost)  # a relay has published to them before it noticed
                await self._gatelog("republish", "--apply")
        return f"{len(lost)} topics, away for {seconds} s"

    async def _some_topics(self) -> list[str]:
        """Choose some; and all that lack records before others, which have to be emptied to be filled."""
        topics = Topics(self._settings, None)
        places = [(topic, number) for topic, count in (await topics.partitions()).items() for number in range(count)]
        self.are_remade = True
        self.handled.clear()
        cut = {topic for (topic, _), offset in (await topics.beginnings(places)).items() if offset}
        others = sorted({topic for topic, _ in places})
        return sorted(cut | set(self._chance.sample(others, self._chance.randint(1, len(others)))))

    async def _delete(self, topics: Collection[str]) -> None:
        for topic in topics:
            await lose_topic(self._settings, topic.removeprefix(topic_of(self._settings.store, "")))

    async def _reconcile(self) -> str:
        async with self.fleet.away("run"):
            await self._gatelog("reconcile", "--apply")
        return ""
