import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from streams.broker.partitioning import murmur2, partition_for


@given(st.binary(max_size=200))
def test_murmur2_is_that_of_aiokafka(data: bytes) -> None:
    assert murmur2(data) == reference(data)


@given(st.binary(max_size=50), st.integers(1, 100))
def test_partitions_are_those_that_aiokafka_chooses(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert partition_for(key, partitions) == DefaultPartitioner()(key, numbers, numbers)


@pytest.mark.parametrize(
    # From org.apache.kafka.common.utils.UtilsTest.testMurmur2, as unsigned numbers.
    ("data", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected & 0xFFFFFFFF


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        partition_for(b"key", 0)
