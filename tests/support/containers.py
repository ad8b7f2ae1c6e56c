"""Postgres and Kafka from testcontainers, for machines with Docker."""

from collections.abc import Iterator
from contextlib import contextmanager

from testcontainers.kafka import KafkaContainer
from testcontainers.postgres import PostgresContainer

from gatelog.local import Endpoints


@contextmanager
def endpoints() -> Iterator[Endpoints]:
    """Start both, yield where they listen, and remove them. Every worker of a parallel run has its own."""
    with (
        PostgresContainer("postgres:18", driver=None) as postgres,
        KafkaContainer("confluentinc/cp-kafka:7.9.0").with_kraft() as kafka,
    ):
        yield Endpoints(postgres.get_connection_url(), kafka.get_bootstrap_server())
