"""Other stores of the same name in one Kafka: whose a topic is, and what follows. All but ``judge_met`` blocks.

A topic is the store's whose records it begins with. A single record of a namesake further on changes nothing: anybody
who may write could put one there.
"""

import asyncio
from collections.abc import Collection, Mapping

from confluent_kafka import KafkaError, Message, TopicPartition

from gatelog.core import asking, kafka
from gatelog.core.errors import KafkaUnavailableError, TopicError
from gatelog.core.identity import ForeignStoreError, Identified, namesake_in


class Namesakes:
    """Tells the topics of one store from those of its namesakes."""

    def __init__(self, settings: Identified) -> None:
        """Connect when first asked."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._ours: set[str] = set()
        self.met: set[str] = set()  # topics in which a reader has met a record of a namesake

    async def judge_met(self) -> None:
        """Look whose the topics are in which a reader has met records of a namesake; raises what ``judge`` raises."""
        if self.met:
            await asyncio.to_thread(self.judge, self.met)
            self.met.clear()

    def judge(self, met: Collection[str]) -> None:
        """Look whose these topics are, in which a record of a namesake was met.

        Raises:
            ForeignStoreError: a namesake's.
            KafkaUnavailableError: no answer in time.
        """
        if new := set(met) - self._ours:
            there = kafka.partitions_of(kafka.admin(self._properties), self._properties)
            self.refuse({name: there[name] for name in new if name in there})

    def refuse_any(self) -> None:
        """Look whose the topics of this name are, all of them; raises what ``judge`` raises."""
        self.refuse(kafka.topics_of(kafka.admin(self._properties), self._properties, self._settings.store))

    def refuse(self, topics: Mapping[str, int]) -> None:
        """Look whose these topics are, given with their numbers of partitions; raises what ``judge`` raises."""
        settings, own = self._settings, str(self._settings.store_id)
        unknown = {name: count for name, count in topics.items() if name not in self._ours}
        owners = owners_of(self._properties, settings.store, unknown)
        self._ours |= {name for name, ids in owners.items() if own in ids}
        others = {name: ids for name, ids in owners.items() if ids and own not in ids}
        if others:
            name, ids = min(others.items())
            raise ForeignStoreError(
                settings.store,
                own,
                min(ids),
                f"topic {name!r} holds records of another store of this name, {_id(min(ids))}; this database has "
                f"the store with the id {own}. Nothing was written or read. Two stores of one name cannot share a "
                "Kafka: give one of them another name (GATELOG_STORE). If this database is to take the place of one "
                f"that was lost: drop the schema {settings.store!r} and run `gatelog init --id {min(ids) or 'ID'}`.",
            )


def owners_of(properties: dict[str, str], store: str, topics: Mapping[str, int]) -> dict[str, set[str]]:
    """Return the ids of the stores of this name whose records the partitions of topics begin with.

    Raises:
        KafkaUnavailableError: no answer in time.
        TopicError: Kafka does not let us read one of them.
    """
    owners: dict[str, set[str]] = {name: set() for name in topics}
    missing = {(name, partition) for name, count in topics.items() for partition in range(count)}
    if not missing:
        return owners
    consumer = kafka.looking(properties, "gatelog-recovery")
    try:
        begins = asking.begins(properties, missing)  # the client itself would take half a second to find them
        consumer.assign([TopicPartition(*place, begin) for place, begin in begins.items()])
        while missing:
            with kafka.translated(properties):
                message = consumer.poll(kafka.REQUEST_TIMEOUT_S)
            if message is None:
                raise KafkaUnavailableError(
                    f"Kafka did not deliver within {kafka.REQUEST_TIMEOUT_S:g} s what {kafka.named(missing)} begins "
                    "with, by which it is told whose topic it is."
                )
            place, owner = (message.topic() or "", message.partition() or 0), _owner(message, properties, store)
            if owner is not None and place in missing:
                owners[place[0]].add(owner)
            if owner is not None or _is_end(message):
                missing.discard(place)
    finally:
        consumer.close()
    return owners


def _owner(message: Message, properties: dict[str, str], store: str) -> str | None:
    error = message.error()
    if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise TopicError(
            f"Kafka does not let us read topic {message.topic()!r} ({error.str()}), so that nobody can tell whose it "
            "is. Nothing was written to it."
        )
    if _is_end(message) or not kafka.is_record(message, properties):
        return None
    return namesake_in(dict(message.headers() or ()).get("ce_source"), store)


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _id(found: str) -> str:
    return f"with the id {found}" if found else "of a gatelog before the first release"
