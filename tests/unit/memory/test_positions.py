import pytest

from streams.broker.port import Partition
from streams.memory.positions import start_positions

P = Partition("ns.state-deltas", 3)


@pytest.mark.parametrize(("committed", "at"), [({}, 10), ({P: 10}, 10), ({P: 15}, 15), ({P: 20}, 20)])
def test_reading_begins_at_the_committed_position_else_at_the_beginning(committed, at):
    assert start_positions(committed, {P: 10}, {P: 20}) == ({P: at}, [])


@pytest.mark.parametrize(
    ("committed", "words"),
    [(9, "committed position 9 of ns.state-deltas[3] is outside the log (10 to 20): records before"),
     (21, "outside the log (10 to 20): the topic was made anew; reading on from 10")],
)  # fmt: skip
def test_a_position_outside_the_log_is_told(committed, words):
    positions, (gap,) = start_positions({P: committed}, {P: 10}, {P: 20})
    assert positions == {P: 10}
    assert words in str(gap)
