"""Where the marks of a reader are in Kafka now. An offset of another history is found again by its position.

Topics that were deleted are filled again by `gatelog republish`, and so is what brokers have lost: in the order of
positions, at other offsets. The next record names the one before it in its partition, and so tells whether anything
stood between it and the last event that was handled.
"""

import asyncio

from gatelog.core import histories
from gatelog.core.asking import End
from gatelog.core.errors import HistoryGoneError
from gatelog.core.identity import Identified
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET, Mark, Marks
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe
from gatelog.reader.subscriptions.topics import Topics


def missing_before(place: Place, offset: int | None, read: int, upto: int) -> HistoryGoneError:
    """Return the error for a record whose predecessor is at position ``upto``, where only ``read`` was come to."""
    return HistoryGoneError(*place, offset, f"positions after {read:,} and up to {upto:,} are missing before it")


async def located(settings: Identified, topics: Topics, marks: Marks) -> dict[Place, Mark]:
    """Return where ``marks`` are now, with the ids of their topics; ``UNKNOWN_OFFSET`` where only the index can tell.

    Raises:
        HistoryGoneError: an offset is of another history, and its position is not known.
        KafkaUnavailableError: no answer in time.
    """
    seen = {place: End(mark.offset, mark.epoch, mark.topic) for place, mark in marks.items()}
    now = await topics.stands(marks)
    lost = await asyncio.to_thread(histories.differences, settings.kafka_properties, seen, now)
    lost |= {place: "not known" for place, mark in marks.items() if mark.offset == UNKNOWN_OFFSET}
    for place, why in lost.items():
        if marks[place].position is None:
            raise HistoryGoneError(
                *place, marks[place].offset, f"{why}; the last event that was handled is not known"
            )
    again = await asyncio.to_thread(_find, settings, {place: marks[place].position or 0 for place in lost})
    return {
        place: mark._replace(topic=now[place].topic)
        if place not in lost
        else mark._replace(offset=again.get(place, UNKNOWN_OFFSET), epoch=None, topic=now[place].topic)
        for place, mark in marks.items()
    }


def _find(settings: Identified, positions: dict[Place, int]) -> dict[Place, int]:
    """Return where to go on behind ``positions``, where nothing is missing in between."""
    if not positions:
        return {}
    with Probe(settings) as probe:
        return {place: at for place, handled in positions.items() for at in _behind(probe, place, handled)}


def _behind(probe: Probe, place: Place, handled: int) -> list[int]:
    """Return the offset behind a position, if the next record says that it is, or there is none yet."""
    at = probe.after_position([place], handled)
    if place not in at:
        return []  # retention may have removed the next one
    following = probe.first(at).get(place)
    if following is None or handled == 0 or 0 < following.previous <= handled:
        return [at[place]]
    if following.previous:
        return []
    last = probe.first(probe.after_position([place], handled - 1)).get(place)  # it does not say: look for that itself
    return [at[place]] if last is not None and last.record.position == handled else []
