"""Where a position is in a partition: found by halving, because positions rise in each. Blocks."""

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from gatelog.core import kafka
from gatelog.core.errors import KafkaUnavailableError, UndecodableRecordError
from gatelog.core.tail import Offsets
from gatelog.schemas.envelope import parse_record


def offsets_of(properties: dict[str, str], source: str, begins: Offsets, ends: Offsets, position: int) -> Offsets:
    """Return, for each partition, the offset of the first record at or after ``position``, or its end.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    own = kafka.client_properties(
        properties,
        group_id="gatelog-recovery",  # never committed to
        enable_auto_commit=False,
        enable_partition_eof=True,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_wait_max_ms=50,
    )
    consumer = Consumer(own)
    try:
        seek = _Seek(consumer, properties, source)
        return {
            topic: [seek.first(topic, p, begins[topic][p], end, position) for p, end in enumerate(offsets)]
            for topic, offsets in ends.items()
        }
    finally:
        consumer.close()


class _Seek:
    def __init__(self, consumer: Consumer, properties: dict[str, str], source: str) -> None:
        self._consumer = consumer
        self._properties = properties
        self._source = source

    def first(self, topic: str, partition: int, low: int, high: int, wanted: int) -> int:
        """Return the first offset from ``low`` to ``high`` with a position that is at least ``wanted``."""
        while low < high:
            middle = (low + high) // 2
            found = self._next(topic, partition, middle, high)
            if found is None or found[1] >= wanted:
                high = middle
            else:
                low = found[0] + 1
        return low

    def _next(self, topic: str, partition: int, start: int, end: int) -> tuple[int, int] | None:
        """Return offset and position of the first record of ours from ``start`` on, before ``end``."""
        self._consumer.assign([TopicPartition(topic, partition, start)])
        while True:
            with kafka.translated(self._properties):
                message = self._consumer.poll(kafka.REQUEST_TIMEOUT_S)
                if message is None:
                    raise KafkaUnavailableError(f"Kafka did not deliver what it holds of topic {topic!r} in time.")
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return None
                    raise KafkaException(error)
            offset = message.offset()
            assert offset is not None
            if offset >= end:
                return None
            try:
                return offset, parse_record(self._source, message.headers(), message.value()).position
            except UndecodableRecordError:
                continue
