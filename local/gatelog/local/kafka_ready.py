"""Asks a Kafka whether it answers, and whether its transaction and group coordinators do their work."""

import logging
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

_ANSWER_TIMEOUT_S = 2.0
_COORDINATOR_TIMEOUT_S = 10.0
_NAME = "gatelog-ready"

# While Kafka starts, refused connections are expected: nobody needs to read about them.
_silent = logging.getLogger("gatelog.local.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


def _config(bootstrap_servers: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap_servers,
        "log_level": 0,
        "logger": _silent,
        "error_cb": lambda _error: None,
        "reconnect.backoff.max.ms": 200,
    }


def answers(bootstrap_servers: str) -> bool:
    """Whether a broker answers a metadata request."""
    try:
        return bool(AdminClient(_config(bootstrap_servers)).list_topics(timeout=_ANSWER_TIMEOUT_S).brokers)
    except KafkaException:
        return False


def is_ready(bootstrap_servers: str) -> bool:
    """Whether transactions can begin and groups can read their offsets: the first time both topics are made."""
    try:
        _begin_transactions(bootstrap_servers)
        _read_offsets(bootstrap_servers)
    except KafkaException:
        return False
    return True


def _begin_transactions(bootstrap_servers: str) -> None:
    producer = Producer({**_config(bootstrap_servers), "transactional.id": _NAME})
    producer.init_transactions(_COORDINATOR_TIMEOUT_S)


def _read_offsets(bootstrap_servers: str) -> None:
    consumer = Consumer({**_config(bootstrap_servers), "group.id": _NAME})
    try:
        consumer.committed([TopicPartition(_NAME, 0)], timeout=_COORDINATOR_TIMEOUT_S)
    finally:
        consumer.close()
