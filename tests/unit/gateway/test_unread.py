"""What was accepted is remembered until its shard knows it, and in bounds."""

from streams.gateway.unread import Unread


def test_an_accepted_invocation_is_remembered_until_its_shard_knows_it():
    unread = Unread()
    unread.add("a/b/1")
    assert "a/b/1" in unread
    unread.known("a/b/1")
    unread.known("a/b/1")
    assert "a/b/1" not in unread


def test_the_oldest_is_forgotten_first():
    unread = Unread(2)
    for identity in ("a/b/1", "a/b/2", "a/b/1", "a/b/3"):
        unread.add(identity)
    assert [f"a/b/{n}" in unread for n in (1, 2, 3)] == [True, False, True]
    assert len(unread) == 2
