"""Which partition a key belongs to: `murmur2(key) mod n`, the default of the Java client and of aiokafka.

Everything that is keyed by agent ID relies on this one function: producers choose partitions with it, shards check with
it that a record arrived where it belongs. Pure Python, so that it is the same wherever the product runs; a cache makes
the keys of busy agents cheap.
"""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return the 32-bit MurmurHash2 of *data*, unsigned.

    Source: `org.apache.kafka.common.utils.Utils.murmur2`, seed 0x9747b28c.
    """
    length = len(data)
    words = length >> 2
    h = _SEED ^ length
    for k in unpack_from(f"<{words}I", data):
        k = (k * _M) & _MASK
        k ^= k >> 24
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    if tail := data[words << 2 :]:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=65_536)
def partition_for(key: bytes, partitions: int) -> int:
    """Return the number of the partition that *key* belongs to, of *partitions*.

    Raises:
        ValueError: *partitions* is not positive.
    """
    if partitions < 1:
        raise ValueError(f"number of partitions must be positive, got {partitions}")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
