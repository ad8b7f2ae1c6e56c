"""What a subscription has parked, and asking for it again."""

import asyncio
from collections.abc import Sequence

from gatelog.core.identity import Identified
from gatelog.reader.subscriptions.parked import ParkedEvent
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from support.waiting import until


def parked(settings: Identified, name: str = "s") -> list[ParkedEvent]:
    with ParkedTopic(settings, name) as topic:
        return topic.all()


def ask_again(settings: Identified, name: str = "s") -> None:
    with ParkedTopic(settings, name) as topic:
        topic.write([(event.event_id, event.asked_again()) for event in topic.all()])


async def are_parked(settings: Identified, count: int) -> Sequence[ParkedEvent]:
    """Wait until so many are parked, and return them."""
    found: Sequence[ParkedEvent] = ()

    async def asked() -> bool:
        nonlocal found
        found = await asyncio.to_thread(parked, settings)
        return len(found) == count

    await until(asked, f"{count} are parked")
    return found
