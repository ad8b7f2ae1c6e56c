"""From Kafka records to what is written of them: rows of the index, records to keep aside, next offsets."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from confluent_kafka import Message

from gatelog.core import histories, logs
from gatelog.core.errors import UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.core.shards import Owner
from gatelog.core.telling import told
from gatelog.indexer.rows import Row, json_of, row_of, unreadable_row
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import ForeignRecordError, NamesakeRecordError, Record, parse_record

_log = logs.logger("indexer")

TURN_RECORDS: Final = 32  # after which other tasks get on: the batch before is on its way to Postgres

Place: TypeAlias = tuple[str, int]  # topic, partition


@dataclass(slots=True)
class Batch:
    """Records that are written in one transaction."""

    rows: list[Row] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)  # of the rows
    unreadable: dict[tuple[Place, int], Row] = field(default_factory=dict)  # by place and offset: kept once
    upto: dict[Place, int] = field(default_factory=dict)  # next offset
    epochs: dict[Place, int | None] = field(default_factory=dict)  # of the leader that wrote the record before it

    def keep(self, message: Message, reason: str) -> None:
        """Set a record aside, as it is, and say so."""
        self.unreadable[place_of(message)] = unreadable_row(message, reason)
        _log.error(
            "record.unreadable",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            reason=reason,
        )

    def leave_out(self, places: Collection[int]) -> None:
        """Drop these rows."""
        self.rows = [row for place, row in enumerate(self.rows) if place not in places]
        self.messages = [message for place, message in enumerate(self.messages) if place not in places]

    def set_aside(self, places: Collection[int], reason: str) -> None:
        """Keep the records of these rows instead of the rows."""
        for place in places:
            self.keep(self.messages[place], reason)
        self.leave_out(places)


class BatchReader:
    """Makes batches of one store's records."""

    def __init__(self, settings: Identified, codec: Codec, *, with_json: bool, owns: Owner | None = None) -> None:
        """Decode with ``codec``; ``with_json`` adds the payload as JSON; ``owns``: take this shard's records only."""
        self._source = settings.source
        self._namesakes = Namesakes(settings)
        self._owns = owns
        self._codec = codec
        self._with_json = with_json

    async def read(self, messages: Sequence[Message], wanted: Mapping[Place, int]) -> Batch:
        """Return what is to be written of the messages of ``wanted`` partitions, from these offsets on.

        Other messages are passed over: they were on their way when their partition was revoked, or given anew.

        A record of another source is logged and passed over. One that claims to be ours and cannot be read is kept.

        Raises:
            ForeignStoreError: a topic is another store's of the same name.
            KafkaUnavailableError: whose it is cannot be told.
        """
        batch = Batch()
        for begin in range(0, len(messages), TURN_RECORDS):
            await asyncio.sleep(0)
            records = self._records(batch, messages[begin : begin + TURN_RECORDS], wanted)
            if self._with_json:
                await self._codec.warm({record.schema_id for _, record in records})
            for message, record in records:
                batch.rows.append(row_of(record, self._json(batch, message, record)))
                batch.messages.append(message)
        await self._namesakes.judge_met()
        return batch

    def _records(
        self, batch: Batch, messages: Sequence[Message], wanted: Mapping[Place, int]
    ) -> list[tuple[Message, Record]]:
        records = []
        owns = self._owns
        for message in messages:
            place, offset = place_of(message)
            if offset < wanted.get(place, offset + 1):
                continue
            batch.upto[place] = offset + 1
            batch.epochs[place] = histories.epoch_of(message)
            if owns is not None and not owns.owns(message.key()):
                continue
            try:
                records.append((message, self._parsed(message)))
            except ForeignRecordError as error:
                topic, partition = place
                if isinstance(error, NamesakeRecordError):
                    self._namesakes.met.add(topic)
                _log.warning("record.foreign", topic=topic, partition=partition, offset=offset, reason=told(error))
            except UndecodableRecordError as error:
                batch.keep(message, str(error))
        return records

    def _parsed(self, message: Message) -> Record:
        record = parse_record(self._source, message.headers(), message.value())
        if self._owns is not None and not self._owns.owns(record.stream):
            raise UndecodableRecordError(f"its key is not its stream {record.stream!r}")
        return record

    def _json(self, batch: Batch, message: Message, record: Record) -> str | None:
        if not self._with_json:
            return None
        try:
            return json_of(self._codec, record.schema_id, record.raw)
        except UndecodableRecordError as error:
            batch.keep(message, str(error))  # its envelope and bytes are indexed all the same
            return None


def place_of(message: Message) -> tuple[Place, int]:
    """Return where a record is: its partition, and its offset there."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return (topic, partition), offset
