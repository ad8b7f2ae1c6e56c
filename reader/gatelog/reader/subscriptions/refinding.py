"""Where the marks of a reader are in Kafka now. An offset of another history is found again by its position.

Topics that were deleted are filled again by `gatelog republish`, and so is what brokers have lost: in the order of
positions, at other offsets. Where the last event that was handled is there again, all before it is. And a record that
names the one before it, in its partition, tells whether anything stood between it and that event.
"""

import asyncio

from gatelog.core import histories
from gatelog.core.asking import End
from gatelog.core.errors import HistoryGoneError
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET, Mark, Marks
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe
from gatelog.reader.subscriptions.topics import Topics


async def located(settings: Settings, topics: Topics, marks: Marks) -> dict[Place, Mark]:
    """Return where ``marks`` are now, with the ids of their topics; ``UNKNOWN_OFFSET`` where Kafka cannot tell.

    Raises:
        HistoryGoneError: an offset is of another history, and its position is not known.
        KafkaUnavailableError: no answer in time.
    """
    seen = {place: End(mark.offset, mark.epoch, mark.topic) for place, mark in marks.items()}
    now = await topics.stands(marks)
    lost = await asyncio.to_thread(histories.differences, settings.kafka_properties, seen, now)
    for place, why in lost.items():
        if marks[place].position is None:
            raise HistoryGoneError(
                *place, marks[place].offset, f"{why}; the last event that was handled is not known"
            )
    again = await asyncio.to_thread(_find, settings, {place: marks[place].position or 0 for place in lost})
    return {
        place: mark._replace(topic=now[place].topic)
        if place not in lost
        else Mark(again.get(place, UNKNOWN_OFFSET), mark.position, None, now[place].topic)
        for place, mark in marks.items()
    }


def _find(settings: Settings, positions: dict[Place, int]) -> dict[Place, int]:
    """Return where to go on behind ``positions``, where nothing is missing in between."""
    found: dict[Place, int] = {}
    if not positions:
        return found
    with Probe(settings) as probe:
        for place, handled in positions.items():
            at = probe.after_position([place], max(handled - 1, 0))
            first = probe.first(at)
            if place in first:
                offset, record, previous = first[place]
                if record.position == handled:
                    found[place] = offset + 1
                elif handled == 0 or 0 < previous <= handled:
                    found[place] = offset
            elif place in at:  # its end: what comes names the record before it
                found[place] = at[place]
    return found
