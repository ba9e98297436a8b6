"""What was accepted is remembered with its owner and input until its shard knows it, and in bounds."""

from streams.gateway.accepted import Accepted


def test_an_accepted_invocation_is_unread_until_its_shard_knows_it():
    accepted = Accepted()
    accepted.add("a/b/1", "acme", b"x")
    assert accepted.is_unread("a/b/1")
    accepted.known("a/b/1")
    accepted.known("a/b/2")
    assert not accepted.is_unread("a/b/1")
    assert not accepted.is_unread("a/b/2")


def test_owner_and_input_stay_known_and_the_first_ones_count():
    accepted = Accepted()
    accepted.add("a/b/1", "acme", b"x")
    accepted.known("a/b/1")
    accepted.add("a/b/1", "other", b"y")
    promise = accepted.get("a/b/1")
    assert promise is not None
    assert (promise.tenant, promise.digest) == ("acme", b"x")


def test_the_oldest_is_forgotten_first():
    accepted = Accepted(2)
    for identity in ("a/b/1", "a/b/2", "a/b/1", "a/b/3"):
        accepted.add(identity, "", b"")
    assert [accepted.is_unread(f"a/b/{n}") for n in (1, 2, 3)] == [True, False, True]
    assert len(accepted) == 2
