"""A store of either kind, and short ways to use it."""

from dataclasses import dataclass

from gatelog.core.domain import ANY, ExpectedVersion
from gatelog.producer import Producer
from gatelog.reader import Reader
from support.models import Noted


@dataclass
class Store:
    producer: Producer
    reader: Reader

    async def append(self, stream: str, *texts: str, expected: ExpectedVersion = ANY) -> int:
        events = [Noted(text=text) for text in texts]
        return (await self.producer.append(stream, events, expected_version=expected)).version

    async def texts(self, stream: str) -> list[str]:
        return [event.data.text async for event in self.reader.stream(stream) if isinstance(event.data, Noted)]
