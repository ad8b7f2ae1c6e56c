"""A Kafka that controls access: what the relay may not do is named, and it goes on when it may."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from confluent_kafka.admin import AclOperation, ResourceType  # type: ignore[attr-defined] # not in its __all__
from support.guarded import GuardedKafka, guarded_kafka
from support.models import Noted
from support.running import running
from support.subscribing import published

from gatelog.core.errors import GatelogError, SettingsError, TopicError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay, publisher


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    with guarded_kafka(tmp_path_factory.mktemp("guarded") / "kafka") as started:
        yield started


async def append(producer: Producer) -> None:
    await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)


async def test_each_right_that_is_missing_is_named(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]", guarded: GuardedKafka
) -> None:
    own = settings.model_copy(update={"kafka": guarded.user_properties})
    topics = (ResourceType.TOPIC, f"{settings.store}.")

    async def refused(error: type[GatelogError], match: str) -> None:
        with pytest.raises(error, match=match):
            async with asyncio.timeout(60):
                await run_all(asyncio.Event(), Relay(own))

    await append(producer)
    await refused(SettingsError, "needs WRITE and DESCRIBE on its transactional ids")
    guarded.allow(ResourceType.TRANSACTIONAL_ID, f"gatelog.{settings.store}.", AclOperation.WRITE)
    await refused(TopicError, "refused to create topic.*Authorization")
    guarded.allow(*topics, AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    await refused(TopicError, rf"{settings.store}\.Note.*the relay needs WRITE")
    guarded.allow(*topics, AclOperation.WRITE, AclOperation.READ)
    guarded.allow(ResourceType.GROUP, "gatelog", AclOperation.READ)
    withdrawn = asyncio.create_task(refused(TopicError, rf"{settings.store}\.Note.*the relay needs WRITE"))
    await published(connection, settings, 1)
    guarded.withdraw(*topics, AclOperation.WRITE)
    await append(producer)
    await withdrawn
    guarded.allow(*topics, AclOperation.WRITE)
    async with running(Relay(own)):
        await published(connection, settings, 2)


async def test_credentials_that_are_refused_are_named(
    settings: Settings, guarded: GuardedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka says only that nobody answers."""
    monkeypatch.setattr(publisher, "INIT_TIMEOUT_S", 1.0)
    own = settings.model_copy(update={"kafka": {**guarded.user_properties, "sasl.password": "old"}})
    with pytest.raises(SettingsError, match=r"refused the credentials.*Invalid username or password"):
        async with asyncio.timeout(60):
            await run_all(asyncio.Event(), Relay(own))
