"""From the sink's positions to what may be evicted, and to what may leave the log."""

from streams.records.journal import FlushMarks
from streams.shards.flushed import MARKS, Flushed, FlushHistory
from streams.shards.room import Room


def test_a_write_is_flushed_once_the_sink_has_passed_its_transaction():
    flushed = Flushed()
    flushed.wrote(10, 3, 100)
    flushed.wrote(20, 7, 50)
    assert flushed.advance(9) == 0
    assert flushed.advance(10) == 3
    assert flushed.dirty_bytes == 50
    assert flushed.advance(21) == 7
    assert flushed.dirty_bytes == 0


def test_a_sink_that_has_gone_back_has_flushed_nothing_until_it_is_where_it_was():
    flushed = Flushed()
    flushed.wrote(10, 3, 100)
    assert flushed.advance(15) == 3
    assert flushed.advance(5) == 0
    assert flushed.advance(None) == 0
    assert flushed.advance(15) == 3


def test_very_many_transactions_are_taken_together_and_never_too_early():
    flushed = Flushed()
    for number in range(1, 3 * MARKS):
        flushed.wrote(number, number, 1)
    assert len(flushed._marks) <= MARKS
    reached = flushed.advance(MARKS)
    assert MARKS - 8 <= reached <= MARKS
    assert flushed.advance(3 * MARKS) == 3 * MARKS - 1
    assert flushed.dirty_bytes == 0


def test_what_was_flushed_lately_may_not_leave_the_log():
    history = FlushHistory(FlushMarks((), ()), after_s=100.0)
    assert history.note(50, 0) is not None
    assert history.note(80, 1_000) is None
    assert history.note(90, 20_000) == FlushMarks((0, 20_000), (50, 90))
    assert history.reached(99_999) == 0
    assert history.reached(100_000) == 50
    assert history.reached(120_000) == 90


def test_the_next_owner_knows_since_when():
    marks = FlushHistory(FlushMarks((), ()), after_s=100.0).note(50, 0)
    assert marks is not None
    assert FlushHistory(marks, after_s=100.0).reached(100_000) == 50


def test_a_sink_that_has_gone_back_makes_nothing_certain():
    history = FlushHistory(FlushMarks((0, 50_000), (50, 90)), after_s=100.0)
    assert history.note(10, 60_000) == FlushMarks((60_000,), (10,))
    assert history.reached(150_000) == 0


def test_moments_are_few():
    history = FlushHistory(FlushMarks((), ()), after_s=100.0)
    kept = [history.note(second, second * 1_000) for second in range(1_000)]
    assert max(len(marks.offsets) for marks in kept if marks) <= 18


def test_those_above_their_share_make_room_for_the_others():
    room = Room(100)
    room.join(0)
    room.join(1)
    assert room.count(0, 90) == 0
    assert room.count(1, 20) == 0
    assert room.count(0, 90) == 10
    assert room.count(1, 45) == 0
    room.leave(0)
    assert room.count(1, 45) == 0
    assert room.share_bytes == 100
