from streams.records.load import MOST_BYTES, OTHERS, Load, Queue, read_note


def test_a_note_says_what_it_was_made_of():
    load = Load(1_000, 3, 2, 7, 1, 99, {"dispute": Queue(2, 500)})
    assert read_note(load.note()) == load
    assert load.open == 5


def test_a_note_has_room_for_the_longest_queues_and_sums_up_the_others():
    queues = {f"agent-{n:04}": Queue(n + 1, 10_000 - n) for n in range(1_000)}
    load = Load(1, queued=sum(queue.depth for queue in queues.values()), queues=queues)
    assert len(load.note()) <= MOST_BYTES
    found = read_note(load.note())
    assert found is not None
    assert found.queues["agent-0999"] == Queue(1_000, 9_001)
    assert sum(queue.depth for queue in found.queues.values()) == load.queued
    assert found.queues[OTHERS].oldest_ms == 10_000 - (1_000 - len(found.queues))
    assert len(found.queues) > 10


def test_names_of_any_length_fit():
    load = Load(1, queues={"x" * 5_000: Queue(1, 3)})
    found = read_note(load.note())
    assert found is not None
    assert found.queues == {OTHERS: Queue(1, 3)}


def test_what_is_no_note_says_nothing():
    for note in ("", "reset by hand", "{}", "[1]", "7", '{"queues": {"a": 1}}', '{"queues": {"a": [1, 2]}, "at": "x"}'):
        assert read_note(note) is None
