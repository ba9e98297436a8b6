"""The log is asked once for many who want to know, for a bounded time, and not again at once."""

import asyncio

import pytest

from streams.errors import BrokerUnavailable
from streams.observe.log_check import LogCheck


class Log:
    """A log that answers, fails, or says nothing; with the clock of the check."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.failure: Exception | None = None
        self.silent = False

    async def ask(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.silent:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure

    def check(self) -> LogCheck:
        return LogCheck(self.ask, "kafka:9092", timeout_s=0.01, fresh_s=1.0, clock=lambda: self.now)


@pytest.fixture
def log() -> Log:
    return Log()


async def test_a_log_that_answers_is_no_problem(log: Log) -> None:
    assert await log.check().problem() == ""


async def test_what_the_log_says_is_the_problem(log: Log) -> None:
    log.failure = BrokerUnavailable("kafka:9092 refuses connections")
    assert await log.check().problem() == "kafka:9092 refuses connections"


async def test_silence_is_a_problem_after_the_timeout(log: Log) -> None:
    log.silent = True
    assert await log.check().problem() == "Kafka at kafka:9092 has not answered for 0.01 s"


async def test_many_who_ask_at_once_are_one_question(log: Log) -> None:
    check = log.check()
    assert await asyncio.gather(*(check.problem() for _ in range(20))) == [""] * 20
    assert log.asked == 1


async def test_an_answer_holds_for_a_second(log: Log) -> None:
    check = log.check()
    await check.problem()
    log.failure = BrokerUnavailable("away")
    log.now = 0.9
    assert await check.problem() == ""
    log.now = 1.0
    assert await check.problem() == "away"
