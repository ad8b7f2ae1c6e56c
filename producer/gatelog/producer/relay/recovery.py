"""What Kafka holds is compared with what it was seen to hold: at every check, and after a start.

After a start, what comes after the last check decides whether the pending tick was committed. Blocks: call it off the
event loop; ``look`` after the publisher has fenced and settled what came before.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from confluent_kafka import Message

from gatelog.core import histories, logs, tail
from gatelog.core.errors import LogMismatchError, UndecodableRecordError
from gatelog.core.tail import Ends, RecordPlace
from gatelog.schemas.envelope import parse_record

LOST_RECORDS_MAX: Final = 1_000_000  # more than an election of a broker that was behind can have cost

_log = logs.logger("relay")


@dataclass(frozen=True, slots=True)
class Found:
    """What Kafka holds past the last check, and the ends up to which it was read."""

    ends: Ends  # with the positions of the last records before them, among those that were given
    reach: int  # no position above it can come of so many records
    missing: Sequence[int]  # positions that were published since
    beyond: Mapping[int, Sequence[tuple[str, RecordPlace]]]  # the others: event ids, and where


def certain(left: asyncpg.Record) -> int:
    """Return up to which position the last relay has certainly published, by the row that it left.

    It may have seen its pending tick in Kafka, and not have stored it as done: what is read begins behind it then.

    Raises:
        LogMismatchError: what it has seen is neither.
    """
    before, after = left["position"], left["position"] + left["pending_events"]
    known: int = max(before, left["checked_position"])
    if known not in {before, after}:
        raise LogMismatchError(
            f"Postgres has published up to position {before:,}, or {after:,} with its pending tick, but has seen "
            f"position {known:,} in Kafka. A part of it was restored from another state. Nothing was changed."
        )
    return known


def compared(properties: dict[str, str], topics: Mapping[str, int], seen: Ends) -> Ends:
    """Return the ends of now, behind which is all that was before those ``seen``.

    Raises:
        LogMismatchError: a partition has lost its end, whether it has grown again since or not.
        KafkaUnavailableError: no answer in time.
    """
    ends = tail.stands_of(properties, topics)
    if lost := histories.differences(properties, histories.flat(seen), histories.flat(ends)):
        raise LogMismatchError(
            f"{'. '.join(lost.values())}. The topic was truncated, deleted or restored from an older copy, brokers "
            "have lost its end (an unclean election), or this is another Kafka cluster. Nothing was changed. "
            "`gatelog republish` writes again what is missing."
        )
    return ends


def look(
    properties: dict[str, str],
    source: str,
    topics: Mapping[str, int],
    checked: Ends,
    checked_position: int,
    position: int,
    given: int,
    passed_over: Collection[RecordPlace] = (),
) -> Found:
    """Read the records of this store past ``checked``, but those ``passed_over``; ``position`` was published.

    ``given``: the end of the pending tick, whose records may be there.

    Raises:
        LogMismatchError: Kafka lost what was before ``checked``.
        KafkaUnavailableError: no answer in time.
    """
    ends = compared(properties, topics, checked)
    known, upto = tail.offsets_of(checked), tail.offsets_of(ends)
    starts = {name: (known.get(name, []) + [0] * count)[:count] for name, count in topics.items()}
    held: set[int] = set()
    last = {place: end.position for place, end in histories.flat(checked).items()}
    beyond: dict[int, list[tuple[str, RecordPlace]]] = defaultdict(list)
    for messages in tail.messages(properties, starts, upto):
        for message in messages:
            for claimed, event_id in _claims(message, source):
                place = tail.place_of(message)
                if claimed <= position:
                    held.add(claimed)
                elif place not in passed_over:
                    beyond[claimed].append((event_id, place))
                if claimed <= given:
                    last[place[:2]] = max(claimed, last.get(place[:2], 0))
    read = sum(map(sum, upto.values())) - sum(map(sum, starts.values()))
    missing = [each for each in range(checked_position + 1, position + 1) if each not in held]
    return Found(tail.with_positions(ends, last), checked_position + read + LOST_RECORDS_MAX, missing, beyond)


def published(found: Found, position: int, pending: Sequence[str]) -> int:
    """Return up to which position Kafka holds what the relay has given.

    That is ``position``, or the end of the tick that was pending there, if its very events (by their ids) are in
    Kafka: what somebody else has written at its positions is not the tick.

    Raises:
        LogMismatchError: positions are missing, or go on past what was given.
    """
    if found.missing:
        raise LogMismatchError(
            f"Postgres has published up to position {position:,}; Kafka lacks {len(found.missing):,} of these "
            f"positions, the first {found.missing[0]:,}, and was not seen to hold them. Is this the Kafka cluster, "
            "and the database, of this store? Nothing was changed."
        )
    ids = [{event_id for event_id, _ in found.beyond.get(position + nth, ())} for nth in range(1, len(pending) + 1)]
    present = [event_id in those for event_id, those in zip(pending, ids, strict=True)]
    if any(present) and not all(present):
        raise LogMismatchError(
            f"Kafka holds {sum(present):,} of the {len(pending):,} events of the pending tick at position "
            f"{position + 1:,}: a part of a transaction was lost. Nothing was changed."
        )
    top = position + len(pending) * any(present)
    _refuse_more(found, top, position + len(pending))
    return top


def _refuse_more(found: Found, top: int, given: int) -> None:
    """Past what was given, Kafka holds events that Postgres has lost, or somebody else's records.

    By their positions alone nobody can tell, unless they are such that the log cannot have come to them.
    """
    near = []
    for position, those in found.beyond.items():
        if given < position <= found.reach:
            near.append(position)
        elif position > top:
            _log.warning("record.not_ours", position=position, places=[place for _, place in those])
    if near:
        topic, partition, offset = found.beyond[min(near)][0][1]
        raise LogMismatchError(
            f"Postgres has published up to position {top:,}; Kafka holds positions up to {max(near):,}, the first at "
            f"topic {topic!r} partition {partition} offset {offset:,}. Postgres was restored from an older state, or "
            "they belong to different stores. Or somebody else has written these records: `gatelog index unreadable` "
            "lists them then, and a relay passes over what was dismissed. Nothing was changed."
        )


def _claims(message: Message, source: str) -> list[tuple[int, str]]:
    """What others wrote, copies of ours included, is not for the relay to judge: readers report it."""
    try:
        record = parse_record(source, message.headers(), message.value())
    except UndecodableRecordError:
        return []
    return [(record.position, str(record.id))]
