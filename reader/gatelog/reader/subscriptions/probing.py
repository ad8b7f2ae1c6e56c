"""What stands where in Kafka: records looked at one by one, to find positions. Blocks: call it off the event loop."""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined] # public, not in its __all__

from gatelog.core import asking, kafka
from gatelog.core.domain import topic_of
from gatelog.core.errors import KafkaUnavailableError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.reader.subscriptions.marks import Mark, marks_of
from gatelog.reader.subscriptions.places import Offsets, Place, kafka_offsets
from gatelog.schemas.envelope import NamesakeRecordError, Record, chained, parse_record


class Found(NamedTuple):
    """A record, and the position of the one before it; 0: not known, or none."""

    offset: int
    record: Record
    previous: int


class Probe:
    """Looks at single records of a store's topics."""

    def __init__(self, settings: Identified) -> None:
        """Connect when first asked."""
        self._properties = settings.kafka_properties
        self._store = settings.store
        self._source = settings.source
        self._namesakes = Namesakes(settings)
        self._consumer = kafka.looking(self._properties, "gatelog-probe")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def places(self, categories: Iterable[str] | None) -> list[Place]:
        """Return the partitions of the categories, or of the whole store, that exist now.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        found = kafka.topics_of(self._consumer, self._properties, self._store)
        wanted = found if categories is None else [topic_of(self._store, each) for each in categories]
        names = [name for name in wanted if name in found]
        return [(name, partition) for name in names for partition in range(found[name])]

    def leaderless(self) -> set[Place]:
        """Return the partitions of the store's topics that no broker leads now.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return kafka.leaderless(self._consumer, self._properties, self._store)

    def bounds(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        """Return of each partition the first offset that Kafka still has, and the one that can be read up to.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        places = list(places)
        begins = asking.begins(self._properties, places)
        ends = asking.ends(self._properties, places, committed=True)
        return {place: (begins[place], ends[place]) for place in places}

    def first(self, offsets: Offsets) -> dict[Place, Found]:
        """Return the first record of the store at or after each offset, where there is one.

        Raises:
            ForeignStoreError: a topic is another store's of the same name.
            KafkaUnavailableError: no answer in time.
        """
        found: dict[Place, Found] = {}
        missing = set(offsets)
        if not missing:
            return found
        self._consumer.assign(kafka_offsets(offsets))
        deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
        while missing:
            message = self._consumer.poll(1.0)
            if message is None:
                if time.monotonic() > deadline:
                    raise KafkaUnavailableError(f"Kafka does not deliver records of {min(missing)}.")
                continue
            deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
            self._take(message, missing, found)
        self._consumer.unassign()
        return found

    def _take(self, message: Message, missing: set[Place], found: dict[Place, Found]) -> None:
        topic, partition, offset, error = message.topic(), message.partition(), message.offset(), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            with kafka.translated(self._properties):
                raise KafkaException(error)
        assert topic is not None
        assert partition is not None
        assert offset is not None
        place = (topic, partition)
        if place not in missing:
            return
        if error is None:
            headers = dict(message.headers() or ())
            try:
                record = parse_record(self._source, headers, message.value())
                found[place] = Found(offset, record, chained(headers)[1])
            except NamesakeRecordError:
                self._namesakes.judge([topic])
            except UndecodableRecordError:
                pass  # not ours: look at the next one
        if error is not None or place in found:
            missing.discard(place)

    def last(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Return the last record of each partition that has one. Transaction markers lie behind it.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        bounds = self.bounds(places)
        low = {place: max(begin, end - 8) for place, (begin, end) in bounds.items() if begin < end}
        found: dict[Place, Record] = {}
        step = 64
        while low:  # step back until there is a record, then go forward to the last one
            seen = self.first(low)
            for place, (offset, record, _) in seen.items():
                low[place] = offset + 1
                found[place] = record
            low = {
                place: offset if place in seen else max(bounds[place][0], offset - step)
                for place, offset in low.items()
                if place in seen or (place not in found and offset > bounds[place][0])
            }
            step *= 8
        return found

    def after_position(self, places: Iterable[Place], position: int) -> dict[Place, int]:
        """Return, for each partition, the offset of its first record after a position. Positions rise with offsets.

        Partitions are left out whose record may be among those that retention has removed.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        bounds = self.bounds(places)
        begins = {place: begin for place, (begin, _) in bounds.items()}
        gone = self._gone(begins, lambda first: first.position > position + 1)
        low = {place: begin for place, begin in begins.items() if place not in gone}
        high = {place: end for place, (_, end) in bounds.items() if place in low}
        if position == 0:
            return low
        while open_places := [place for place in low if low[place] < high[place]]:
            middle = {place: (low[place] + high[place]) // 2 for place in open_places}
            seen = self.first(middle)
            for place in open_places:
                if place in seen and seen[place].record.position <= position:
                    low[place] = seen[place].offset + 1
                else:
                    high[place] = middle[place]
        return low

    def _gone(self, begins: Offsets, is_later: Callable[[Record], bool]) -> set[Place]:
        """Return partitions that have lost records, and now begin with a later one than was asked for, or none."""
        cut = {place: begin for place, begin in begins.items() if begin > 0}
        first = self.first(cut)
        return {place for place in cut if place not in first or is_later(first[place].record)}

    def at_time(self, places: Iterable[Place], at: datetime) -> dict[Place, int]:
        """Return, for each partition, the offset of the first record of this time or later.

        Partitions are left out whose record may be among those that retention has removed.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        bounds = self.bounds(places)
        begins = {place: begin for place, (begin, _) in bounds.items()}
        gone = self._gone(begins, lambda first: first.recorded_at >= at)
        milliseconds = int(at.timestamp() * 1000)  # rounded up, it might pass a record
        after = OffsetSpec.for_timestamp(milliseconds)
        found = asking.ask(self._properties, {place: after for place in begins if place not in gone}, committed=True)
        return {place: offset if offset >= 0 else bounds[place][1] for place, offset in found.items()}


def committed(properties: dict[str, str], group: str, places: Sequence[Place]) -> dict[Place, Mark]:
    """Return where a group stands, without partitions that it has no offset for; transactions are waited for.

    A consumer is asked, which never joins: an admin client takes the process with it when the coordinator goes away
    at the wrong moment (an assertion of librdkafka 2.16, its issue 3663).

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    if not places:
        return {}
    asked = [TopicPartition(*place) for place in places]
    own = kafka.client_properties(
        properties, group_id=group, enable_auto_commit=False, isolation_level="read_committed"
    )

    def once(timeout_s: float) -> dict[Place, Mark]:
        with kafka.translated(properties):
            found = consumer.committed(asked, timeout=timeout_s)
            if refused := [each.error for each in found if each.error is not None]:  # it says so of each partition
                if refused[0].code() == KafkaError.UNSTABLE_OFFSET_COMMIT:
                    raise KafkaUnavailableError(
                        f"Group {group!r}: a transaction that commits offsets is open, and does not end."
                    )
                raise KafkaException(refused[0])
            return marks_of(found)

    with kafka.legal(properties):
        consumer = Consumer(own)
    try:
        return kafka.patiently(once)
    finally:
        consumer.close()
