"""Which partition of its topic a stream is in: Kafka's own murmur2, as Java's producers use it.

Whoever needs a partition asks here, the relay too: it is judged by the number of partitions that a topic is known to
have, not by what a client has heard of meanwhile.
"""

import ctypes
from struct import iter_unpack
from typing import Any, Final

from confluent_kafka import cimpl

_MASK: Final = 0xFFFFFFFF
_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995


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


def _librdkafka() -> Any:  # noqa: ANN401 - a foreign function
    """Return librdkafka's own, which takes a tenth of the time; None where it is not exported."""
    try:
        found = ctypes.PyDLL(cimpl.__file__).rd_kafka_msg_partitioner_murmur2
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int32, *[ctypes.c_void_p] * 2)
    found.restype = ctypes.c_int32
    return found


_NATIVE: Final = _librdkafka()


def partition_of(stream: str, partitions: int) -> int:
    """Return the partition, of so many, that holds the events of a stream."""
    key = stream.encode()
    if _NATIVE is None:
        return (murmur2(key) & 0x7FFFFFFF) % partitions
    partition: int = _NATIVE(None, key, len(key), partitions, None, None)
    return partition
