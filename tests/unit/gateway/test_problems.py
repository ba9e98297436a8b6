"""Errors become problem documents, and tell callers no more than is theirs."""

import pytest

from streams.errors import (
    Backpressure,
    BrokerUnavailable,
    PayloadTooLarge,
    ResultTimeout,
    StoreError,
    UnknownInvocation,
    UnknownName,
)
from streams.gateway.documents import location
from streams.gateway.problems import problem_of


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (PayloadTooLarge("input", 2_000_000, 1_000_000, "max_payload_bytes"), 413, None),
        (UnknownName("no agent"), 422, None),
        (UnknownInvocation("nobody knows"), 404, None),
        (Backpressure("invocations", 3.2), 429, "4"),
        (Backpressure("invocations", 0.1), 429, "1"),
        (BrokerUnavailable("away"), 503, "1"),
        (ResultTimeout("shard 1 did not answer"), 503, "1"),
        (StoreError("something else"), 500, None),
    ],
)
def test_errors_become_problem_documents(error, status, retry_after):
    problem = problem_of(error)
    assert (problem.status, problem.headers.get("Retry-After")) == (status, retry_after)


def test_what_is_not_the_callers_business_is_not_told():
    assert "secret" not in str(problem_of(StoreError("dsn with secret")))


def test_a_location_is_quoted_but_for_its_slashes():
    assert location("a/b c/d?e#f/g") == "/v1/invocations/a/b%20c/d%3Fe%23f/g"
