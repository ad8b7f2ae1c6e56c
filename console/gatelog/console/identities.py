"""Which store ``gatelog init`` makes, or mends: its id, and whether Kafka holds topics of another one of its name."""

import asyncio
from uuid import UUID, uuid4

import asyncpg

from gatelog.core import identity, kafka, namesakes, postgres
from gatelog.core.errors import KafkaUnavailableError, SettingsError, TopicError
from gatelog.core.identity import ForeignStoreError
from gatelog.core.mending import Finish, InitRefusedError
from gatelog.core.migrations import Migration
from gatelog.core.settings import Settings


async def look_at_kafka(connection: postgres.Connection, settings: Settings, given: UUID | None) -> list[str]:
    """Look for topics of another store of this name, if Kafka is configured; return what is to be done about them.

    Raises:
        ForeignStoreError: there are some, and this store is not in use yet.
    """
    if not settings.kafka.get("bootstrap.servers"):
        return []
    try:
        owners = await asyncio.to_thread(_owners, settings)
    except (KafkaUnavailableError, SettingsError, TopicError) as error:  # tables can be made without it
        return [f"whether Kafka holds topics of another store of this name could not be looked at ({error})"]
    written = await _written(connection, settings.store)
    expected = written or given
    others = {name: ids for name, ids in owners.items() if ids and str(expected) not in ids}
    if not others:
        return []
    topic, ids = min(others.items())
    other = min(ids)
    what = f"Kafka at {settings.kafka['bootstrap.servers']} holds topics of another store of this name: {topic!r}"
    what += f" is of the store with the id {other or 'none'}"
    if written is not None:
        return [f"{what}. Give one of the two another name: relay and indexer refuse these topics."]
    raise ForeignStoreError(
        settings.store,
        str(expected),
        other,
        f"{what}. Nothing was made. Give this store another name (GATELOG_STORE, --store) or another Kafka. If it is "
        f"to take that store's place, whose gate was lost: `gatelog init --id {other or 'ID'}`, then `gatelog "
        "reconcile`. If that store is gone for good: delete its topics.",
    )


def _owners(settings: Settings) -> dict[str, set[str]]:
    properties = settings.kafka_properties
    topics = kafka.topics_of(kafka.admin(properties), properties, settings.store)
    return namesakes.owners_of(properties, settings.store, topics)


def settle(settings: Settings, given: UUID | None) -> Finish:
    """Return what writes down which store it is, when the tables are made; a new one gets an id.

    It raises InitRefusedError where it is another store than ``given``, or its id is lost, and nobody knows it here.
    """

    async def settled(connection: postgres.Connection, applied: list[Migration]) -> None:
        await _settle(connection, settings, given, applied)

    return settled


async def _settle(
    connection: postgres.Connection, settings: Settings, given: UUID | None, applied: list[Migration]
) -> None:
    store = settings.store
    is_new = any(each.part == identity.PACKAGE.rpartition(".")[2] for each in applied)
    store_id = await identity.known(connection, store) or await identity.remembered(connection, store)
    store_id = store_id or given or (uuid4() if is_new else None)
    if store_id is None:
        raise InitRefusedError(
            f"Store {store!r}: the table `identity` was lost, and with it the store's id. Nothing was changed. Each "
            "record in Kafka has it, in the header ce_source (/gatelog/<store>/<id>): `gatelog init --id ID`."
        )
    if given not in (None, store_id):
        raise InitRefusedError(
            f"Store {store!r}: this database has the store with the id {store_id}, not {given}. Nothing was changed. "
            f"An id stays. If the tables here are to go: drop the schema {store!r} first."
        )
    await identity.record(connection, store, store_id, settings.dsn)
    await identity.remember(connection, store, store_id)


async def _written(connection: postgres.Connection, store: str) -> UUID | None:
    """Return the id that the database has, in its table or in the comment on the schema."""
    try:
        found = await identity.known(connection, store)
    except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError):
        found = None
    return found or await identity.remembered(connection, store)
