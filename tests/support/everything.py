"""Members of everything that consumes, in one process each; the judge reads what they made of the same events."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.cimpl import NewTopic

from gatelog.core import kafka
from gatelog.core.identity import ask
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from support import members
from support.crashing_transform import PARTITIONS, out_of, produced
from support.members import NAME, handled, judge_order
from support.models import Noted
from support.processes import Background, environment
from support.projections import Connection, has, keeping, positions, schema_of
from support.waiting import until

STREAMS = 6
POISONED = 7  # of as many versions, one cannot be handled by the subscription
PROGRAM = f"""
{members.PROGRAM}
from gatelog.core.settings import Settings
from support.crashing_transform import upper
from support.projections import keeping

settings = Settings.load()
partition = keeping("partition", settings, categories=["Note"])
total = keeping("total", settings, order="total")
transform = upper(settings)
"""
ORDERS = ("partition", "total")
TARGETS = ("app", *ORDERS, "transform")


class Everything:
    """A subscription, both kinds of projections, a transform."""

    def __init__(self, settings: Settings, folder: Path, rows: Connection) -> None:
        """Use ``everything`` instead."""
        self._settings, self._folder, self._rows = settings, folder, rows
        self.members: list[Background] = []
        self.versions = 0

    async def prepare(self) -> None:
        """Make tables, topics, and the program."""
        await members.prepare(self._rows, self._settings, self._folder)
        (self._folder / "members_program.py").write_text(PROGRAM)
        for order in ORDERS:
            await keeping(order, self._settings).prepare(self._settings)
        admin = kafka.admin(self._settings.kafka_properties)
        for future in admin.create_topics([NewTopic(out_of(self._settings), num_partitions=PARTITIONS)]).values():
            await asyncio.to_thread(future.result, 30)

    def start(self) -> Background:
        """Start a member of all of them."""
        tests = str(Path(__file__).parent.parent)
        own = environment(
            self._settings,
            GATELOG_SUBSCRIPTION_PROTOCOL=self._settings.subscription_protocol,
            PYTHONPATH=tests,
        )
        arguments = ["consume", *(f"members_program.py:{target}" for target in TARGETS), "--json-logs"]
        self.members.append(Background(arguments, own, self._folder / "members.log", ()))
        return self.members[-1]

    async def append(self, producer: Producer, versions: int) -> None:
        """Append to every stream."""
        for _ in range(versions):
            self.versions += 1
            text = "poison" if self.versions % POISONED == 0 else "x"
            for stream in range(STREAMS):
                await producer.append(f"Note-{stream}", [Noted(text=text)], expected_version=ANY)

    async def done(self) -> None:
        """Wait until everything was handled, by members that are the same processes still; each transform once."""
        events, poisoned = STREAMS * self.versions, STREAMS * (self.versions // POISONED)

        async def is_handled() -> bool:
            assert [each.process.poll() for each in self.members] == [None] * len(self.members), "a member ended"
            rows = await handled(self._rows, self._settings)
            return len({row[:2] for row in rows}) == events - poisoned

        store = await ask(self._settings, "test")

        def parked() -> int:
            with ParkedTopic(store, NAME) as topic:
                return len(topic.all())

        async def are_parked() -> bool:
            return await asyncio.to_thread(parked) == poisoned

        await until(is_handled, "the subscription has handled everything", timeout=120)
        await until(are_parked, "what cannot be handled is parked", timeout=120)
        for order in ORDERS:
            await has(self._rows, schema_of(order, self._settings), events, timeout=120)
        seen = await asyncio.to_thread(produced, self._settings, events)
        assert (len(seen), set(seen.values())) == (events, {1}), "the transform: each event once"

    async def judge(self) -> None:
        """Nothing is lost, out of order, or twice where that is promised."""
        events = STREAMS * self.versions
        for order in ORDERS:
            found = await positions(self._rows, schema_of(order, self._settings))
            assert sorted(found) == list(range(1, events + 1)), f"{order}: each event once"
            assert order == "partition" or found == sorted(found), "in order of positions"
        good = [v for v in range(1, self.versions + 1) if v % POISONED]
        nth = {version: number for number, version in enumerate(good, 1)}
        rows = [(stream, nth[version], pid) for stream, version, pid in await handled(self._rows, self._settings)]
        judge_order(rows, STREAMS, len(good))

    @property
    def log(self) -> str:
        """What all members have said."""
        return (self._folder / "members.log").read_text()


@contextmanager
def everything(settings: Settings, folder: Path, rows: Connection) -> Iterator[Everything]:
    """Yield it; its members do not outlive the block, frozen or not."""
    made = Everything(settings, folder, rows)
    try:
        yield made
    finally:
        for each in made.members:
            if each.process.poll() is None:
                each.kill()
