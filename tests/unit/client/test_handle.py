"""What waiting for a result does when nobody answers for a while."""

from __future__ import annotations

import asyncio

import pytest

from streams.client import handle as module
from streams.client.handle import Handle
from streams.client.inbox import Slot
from streams.errors import BrokerUnavailable, ResultTimeout, StreamsError, UnknownInvocation
from streams.records import encode
from streams.records.invocations import Result
from streams.records.signals import Answer, StatusQuery

RESULT = Result("agent", "key", "1", "succeeded", b"42")


class Shard:
    """Raises what it is told to, one error for each question, then answers."""

    def __init__(self, *errors: StreamsError, answer: Answer) -> None:
        self.errors = list(errors)
        self.answer = answer

    async def ask(self, query: StatusQuery) -> Answer:
        if self.errors:
            raise self.errors.pop(0)
        return self.answer


async def tell(record: object, kind: str) -> None: ...


def handle_of(shard: Shard, *, known: bool) -> Handle[int]:
    return Handle(RESULT.id, Slot(), ask=shard.ask, tell=tell, client="c", adapter=None, known=known)


FINISHED = Answer("c", "r", "ok", result=encode(RESULT))
UNKNOWN = Answer("c", "r", "unknown")
OPEN = Answer("c", "r", "ok", b"{}")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RECHECK_S", 0.001)


@pytest.mark.parametrize("known", [True, False])
async def test_a_shard_or_broker_that_is_away_does_not_end_the_wait(known: bool) -> None:
    shard = Shard(ResultTimeout("no answer within 10 s"), BrokerUnavailable("it restarts"), answer=FINISHED)
    result = await handle_of(shard, known=known).result(timeout=5)
    assert result.value == 42
    assert not shard.errors


async def test_an_id_that_no_shard_knows_is_said_so() -> None:
    with pytest.raises(UnknownInvocation):
        await handle_of(Shard(answer=UNKNOWN), known=False).result(timeout=5)


async def test_the_callers_own_timeout_is_named() -> None:
    with pytest.raises(ResultTimeout, match=r"no result after 0\.05 s"):
        await handle_of(Shard(answer=OPEN), known=True).result(timeout=0.05)


async def test_a_result_that_comes_is_not_held_up_by_a_question_that_is_not_answered() -> None:
    handle = handle_of(Shard(answer=OPEN), known=True)

    async def ask(query: StatusQuery) -> Answer:
        handle._slot.put(RESULT)
        await asyncio.Event().wait()
        raise AssertionError

    handle._ask = ask  # a shard that never answers
    assert (await handle.result(timeout=5)).value == 42
