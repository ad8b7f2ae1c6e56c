"""An offset that is of another history than Kafka's is found again by its position, if what it stood behind is there.

Brokers that lost the end of a partition give other records the same offsets later. `gatelog republish` writes again
what was lost, in the order of positions. So where the last event that was handled is there again, all before it is,
and what comes next stands behind it.
"""

import asyncio

from gatelog.core import histories
from gatelog.core.asking import End
from gatelog.core.errors import HistoryGoneError
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions.marks import Mark, Marks
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe
from gatelog.reader.subscriptions.topics import Topics


async def found_again(settings: Settings, topics: Topics, marks: Marks) -> dict[Place, Mark]:
    """Return those of ``marks`` that had to be found again, where they are now.

    Raises:
        HistoryGoneError: the last event that was handled is not in Kafka any more, or is not known.
        KafkaUnavailableError: no answer in time.
    """
    seen = {place: End(mark.offset, mark.epoch) for place, mark in marks.items()}
    now = await topics.stands(marks)
    lost = await asyncio.to_thread(histories.differences, settings.kafka_properties, seen, now)
    return await asyncio.to_thread(_find, settings, {place: marks[place] for place in lost}) if lost else {}


def _find(settings: Settings, marks: Marks) -> dict[Place, Mark]:
    found = {}
    with Probe(settings) as probe:
        for place, mark in marks.items():
            before = (mark.position or 0) - 1
            at = probe.after_position([place], before) if before >= 0 else {}
            for offset, record in probe.first(at).values():
                if record.position == mark.position:
                    found[place] = Mark(offset + 1, mark.position)
            if place not in found:
                known = "is not known" if mark.position is None else f"was at position {mark.position:,}"
                why = f"what stood before it is not there: the last event that was handled {known}"
                raise HistoryGoneError(*place, mark.offset, why)
    return found
