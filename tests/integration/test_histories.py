"""Whether logs still hold what they held: asked of many partitions at once."""

import secrets

from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.cimpl import NewTopic

from gatelog.core import asking, histories, kafka, tail
from gatelog.core.settings import Settings

PARTITIONS = 12


def test_many_partitions_that_have_grown_since_are_told_to_be_whole(bare_settings: Settings) -> None:
    """Each has records behind the end that was seen: the answer for one is not to hold up the others."""
    properties, topic = bare_settings.kafka_properties, f"{bare_settings.store}.Note"
    admin = kafka.admin(properties)
    admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1)])[topic].result()
    producer = KafkaProducer({**properties, "transactional.id": secrets.token_hex(4)})
    producer.init_transactions(10)
    for _ in range(10):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce(topic, b"x" * 200, partition=partition)
        producer.commit_transaction(10)
    ends = histories.flat(tail.stands_of(properties, {topic: PARTITIONS}))
    seen = {place: asking.End(end.offset // 2, end.epoch) for place, end in ends.items()}
    older = {place: asking.End(end.offset, (end.epoch or 0) + 1) for place, end in ends.items()}
    assert histories.differences(properties, seen, older) == {}
