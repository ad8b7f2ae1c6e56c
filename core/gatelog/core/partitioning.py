"""Which partition of its topic a stream is in: Kafka's own murmur2, as the relay's producer and Java's use it."""

from functools import lru_cache
from struct import iter_unpack
from typing import Final

_MASK: Final = 0xFFFFFFFF
_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_STREAMS_MAX: Final = 65_536  # that are remembered: a history reads the same ones again and again


def murmur2(data: bytes) -> int:
    """Return the unsigned 32-bit hash."""
    whole = len(data) & ~3
    h = _SEED ^ len(data)
    for (word,) in iter_unpack("<I", data[:whole]):
        k = word * _M & _MASK
        h = h * _M & _MASK ^ (k ^ k >> 24) * _M & _MASK
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(_STREAMS_MAX)
def partition_of(stream: str, partitions: int) -> int:
    """Return the partition, of so many, that holds the events of a stream."""
    return (murmur2(stream.encode()) & 0x7FFFFFFF) % partitions
