"""One membership in a consumer group: a thread that polls, and hands batches of parsed events to the event loop.

The thread never stops polling, so that slow handlers do not get the member thrown out: when what is in hand reaches
its bounds, the partitions are paused and polling goes on. Rebalances are cooperative; the owner is asked, in the
event loop, when partitions come and go.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from gatelog.core import asking, logs
from gatelog.core.errors import HistoryGoneError, KafkaUnavailableError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.core.services import ended
from gatelog.core.telling import told
from gatelog.reader.subscriptions.client import ProtocolNotSupportedError
from gatelog.reader.subscriptions.marks import Mark, Marks
from gatelog.reader.subscriptions.parsing import Parser
from gatelog.reader.subscriptions.places import Batch, Joining, Offsets, Owner, Place
from gatelog.reader.subscriptions.polling import Arrival, Polled, Poller
from gatelog.reader.subscriptions.probing import committed
from gatelog.schemas.codec import Codec

TOPICS_INTERVAL_S: Final = 5.0

_log = logs.logger("subscription")


class Membership:
    """One member of a consumer group. Make it with ``joined``; use it in that event loop only."""

    def __init__(self, settings: Identified, joining: Joining, codec: Codec, owner: Owner) -> None:
        """Use ``joined`` instead."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._joining = joining
        self._codec = codec
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Arrival] = asyncio.Queue()  # bounded by the poller
        self._namesakes = Namesakes(settings)
        self._parser = Parser(settings.source, codec, joining.types, self._namesakes.met)
        self._poller = self._new_poller("classic" if settings.subscription_protocol == "classic" else "consumer")
        self._outdated: Poller | None = None  # it has met a topic that is another one now
        self._gone: tuple[str, int, int | None] | None = None  # where records were gone the last time

    @classmethod
    @asynccontextmanager
    async def joined(
        cls, settings: Identified, joining: Joining, codec: Codec, owner: Owner
    ) -> AsyncIterator["Membership"]:
        """Join the group; at the end ask the owner to finish, commit, and leave at once.

        Raises:
            SettingsError: Kafka is not configured, or refused the credentials.
        """
        member = cls(settings, joining, codec, owner)
        owner.bind(member)
        member._poller.start()
        watching = asyncio.create_task(member._watch_topics(), name="subscription topics")
        try:
            yield member
        finally:
            watching.cancel()
            await ended(watching)
            await member._poller.close()

    def _new_poller(self, protocol: str) -> Poller:
        return Poller(self._settings, self._joining, protocol, self._owner, self._deliver)

    def _deliver(self, arrivals: list[Arrival]) -> None:
        """Called in the polling thread."""
        self._loop.call_soon_threadsafe(self._put, arrivals)

    def _put(self, arrivals: list[Arrival]) -> None:
        for each in arrivals:
            self._arrived.put_nowait(each)

    async def next(self, timeout: float | None = None) -> list[Batch]:
        """Wait for what arrives next: at most one batch a partition. Nothing within ``timeout`` seconds: empty.

        What was taken counts against the bounds until ``release`` is called for it.

        Raises:
            HistoryGoneError: the next record of a partition is gone from Kafka, and the owner does not begin again.
            ForeignStoreError: a topic is another store's of the same name.
            KafkaUnavailableError: Kafka was not found at all.
            Exception: what the owner raised when it was asked, or has put in with ``fail``.
        """
        while True:
            if not self._arrived.empty():
                await asyncio.sleep(0)  # let others run, however much has arrived
            try:
                async with asyncio.timeout(timeout):
                    arrived = await self._arrived.get()
            except TimeoutError:
                return []
            if isinstance(arrived, BaseException):
                raise arrived
            if arrived is None:
                if self._poller.has_ended:  # and not one that was left for it
                    await self._ended()
                elif self._poller is self._outdated:
                    await self.join_again()
                continue
            batches = await self._parsed(arrived) if isinstance(arrived, Polled) else arrived
            await self._codec.warm({event.schema_id for batch in batches for event in batch.events})
            if owned := [batch for batch in batches if self._is_ours(batch)]:
                return owned

    async def _parsed(self, polled: Polled) -> list[Batch]:
        batches = self._parser.batches(polled.messages, polled.assigned)
        await self._namesakes.judge_met()
        events = sum(len(batch.events) for batch in batches)
        if events < len(polled.messages):  # others were filtered, or are not ours
            size_bytes = sum(batch.size_bytes for batch in batches)
            self.release(len(polled.messages) - events, polled.size_bytes - size_bytes)
        return batches

    def _is_ours(self, batch: Batch) -> bool:
        """Drop what was revoked while it was on its way; it may even be ours again, from another offset on."""
        ours = self._poller.assigned.get(batch.place) == batch.assignment
        if not ours:
            self.release(len(batch.events), batch.size_bytes)
        return ours

    async def _ended(self) -> None:
        """The polling thread is through: raise its reason, or join again where that helps."""
        failure = self._poller.failure
        if isinstance(failure, ProtocolNotSupportedError) and self._settings.subscription_protocol == "auto":
            _log.info("subscription.protocol", protocol="classic", reason=told(failure))
            await self._join_again("classic")
        elif isinstance(failure, HistoryGoneError) and self._joining.begins_again and self._is_new(failure):
            _log.info("subscription.gone", group=self._joining.group, reason=told(failure))
            await self.join_again()
        else:
            raise failure or RuntimeError("a membership is not used after its end")

    def _is_new(self, failure: HistoryGoneError) -> bool:
        """Say whether joining again may help: the second time at the same place it did not."""
        is_new, self._gone = failure.where != self._gone, failure.where
        return is_new

    async def join_again(self) -> None:
        """Leave, and join anew: the owner is asked again where partitions begin."""
        await self._join_again(self._poller.protocol)

    async def _join_again(self, protocol: str) -> None:
        earlier = self._poller
        await earlier.close()
        self._poller = self._new_poller(protocol)
        self._poller.take_over(earlier)
        self._poller.start()

    async def _watch_topics(self) -> None:
        """Join again, with a new client, where a topic that it has met was deleted and made again."""
        while True:
            await asyncio.sleep(TOPICS_INTERVAL_S)
            poller = self._poller
            with suppress(KafkaUnavailableError):
                if topics := await asyncio.to_thread(asking.made_again, self._properties, poller.topics):
                    _log.info("subscription.made_again", group=self._joining.group, topics=topics)
                    self._outdated = poller
                    self._put([None])

    def release(self, events: int, size_bytes: int) -> None:
        """Say that ``events`` which ``next`` returned are done with: there is room for as many."""
        self._poller.release(events, size_bytes)

    @property
    def assigned(self) -> frozenset[Place]:
        """The partitions that are ours now."""
        return frozenset(self._poller.assigned)

    @property
    def has_room(self) -> bool:
        """Whether more may be in hand, by both bounds."""
        poller, joining = self._poller, self._joining
        return poller.in_hand < joining.events_max and poller.in_hand_bytes < joining.bytes_max

    @property
    def events_max(self) -> int:
        """How many events may be in hand."""
        return self._joining.events_max

    def acknowledged(self, place: Place) -> int:
        """Return the offset of a partition of ours that Kafka has last said to be committed; -1: none yet."""
        return self._poller.acknowledged.get(place, -1)

    @property
    def in_hand(self) -> int:
        """Events that were read and not released yet."""
        return self._poller.in_hand

    @property
    def polled_s_ago(self) -> float:
        """How long ago the polling thread was seen alive."""
        return time.monotonic() - self._poller.polled_at

    @property
    def passed_over(self) -> int:
        """Foreign and unreadable records that were passed over."""
        return self._parser.passed_over

    @property
    def protocol(self) -> str:
        """The group protocol in use: ``consumer`` (KIP-848) or ``classic``."""
        return self._poller.protocol

    def pause(self, places: Iterable[Place]) -> None:
        """Read nothing more of ``places`` until ``resume``. What is on its way already still arrives."""
        self._poller.post(partial(self._poller.pause, frozenset(places)))

    def resume(self, places: Iterable[Place]) -> None:
        """Read ``places`` again."""
        self._poller.post(partial(self._poller.resume, frozenset(places)))

    def seek(self, offsets: Offsets) -> None:
        """Go on reading at ``offsets``. What is on its way already still arrives: tell it by its offsets."""
        self._poller.post(partial(self._poller.seek, dict(offsets)))

    def begin_paused(self, places: Iterable[Place]) -> None:
        """Read nothing of ``places`` until ``resume``: for the owner, while it is asked where they begin."""
        self._poller.begin_paused(places)

    def tell(self, batches: list[Batch]) -> None:
        """Have ``next`` return what the owner has from elsewhere; it counts against the bounds as well."""
        self._poller.tell(batches)

    def fail(self, error: BaseException) -> None:
        """Have ``next`` raise an error."""
        self._arrived.put_nowait(error)

    def assignment_of(self, place: Place) -> int | None:
        """Return what tells this time that a partition is ours from others; None: it is not."""
        return self._poller.assigned.get(place)

    def commit(self, marks: Marks) -> None:
        """Commit without waiting. A member that lost a partition unknowingly is refused by its generation; logged."""
        self._poller.post(partial(self._poller.commit, dict(marks)))

    async def committed(self, places: Iterable[Place]) -> dict[Place, Mark]:
        """Return where the group stands in ``places``, without those that it has no offset for.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        # Asked by a client of its own: the member's does not answer while it waits for where to begin.
        return await asyncio.to_thread(committed, self._properties, self._joining.group, list(places))

    async def group_metadata(self) -> Any:  # noqa: ANN401 - opaque in the client's own stubs
        """Return what ``Producer.send_offsets_to_transaction`` needs to be fenced with this membership."""
        return await self._poller.call(lambda consumer: consumer.consumer_group_metadata())
