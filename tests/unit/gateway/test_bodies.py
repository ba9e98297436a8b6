"""Bodies are bounded while they arrive and checked field by field."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from streams.errors import PayloadTooLarge
from streams.gateway.bodies import ENVELOPE_BYTES, parse_invocation, parse_wait, read_body
from streams.gateway.problems import Problem


def request(*chunks: bytes, pause_s: float = 0.0, **headers: str) -> Request:
    left = list(chunks)
    fields = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    raw = [(name.encode(), value.encode()) for name, value in fields.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


async def test_a_body_is_read_to_its_end():
    assert await read_body(request(b'{"a"', b": 1}"), 100, 1.0) == b'{"a": 1}'


async def test_an_announced_body_that_is_too_large_is_not_read():
    with pytest.raises(PayloadTooLarge, match=r"request body of 9\.00 MB exceeds .* \(max_payload_bytes\)"):
        await read_body(request(content_length="9000000"), 100, 1.0)


async def test_a_body_that_grows_too_large_is_given_up():
    chunks = [b"x" * ENVELOPE_BYTES, b"x" * 101, b"never read"]
    with pytest.raises(PayloadTooLarge):
        await read_body(request(*chunks), 100, 1.0)


async def test_a_body_that_takes_too_long_is_given_up():
    with pytest.raises(Problem, match=r"did not arrive within 0\.01 s") as caught:
        await read_body(request(b"{}", pause_s=5), 100, 0.01)
    assert caught.value.status == 408


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_what_a_page_could_post_without_asking_is_refused(content_type):
    with pytest.raises(Problem, match="send application/json") as caught:
        await read_body(request(b"{}", content_type=content_type), 100, 1.0)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("data", "status", "field"),
    [
        (b"{", 400, ""),
        (b'{"agent": "a", "input": NaN}', 400, ""),
        (b"[" * 10_000, 400, ""),
        (b"[]", 422, ""),
        (b"{}", 422, "agent"),
        (b'{"agent": "a"}', 422, "input"),
        (b'{"agent": "a", "input": 1, "priority": "urgent"}', 422, "priority"),
        (b'{"agent": "a", "input": 1, "colour": "red"}', 422, "colour"),
        (b'{"agent": "a", "input": 1, "idempotency_key": ""}', 422, "idempotency_key"),
    ],
)
def test_a_malformed_submission_is_refused_with_its_field(data, status, field):
    with pytest.raises(Problem) as caught:
        parse_invocation(data, None)
    assert (caught.value.status, caught.value.field) == (status, field)


def test_the_idempotency_key_comes_from_the_header_or_the_body():
    plain, keyed = b'{"agent": "a", "input": 1}', b'{"agent": "a", "input": 1, "idempotency_key": "k"}'
    assert parse_invocation(plain, "k").idempotency_key == "k"
    assert parse_invocation(keyed, None).idempotency_key == "k"
    assert parse_invocation(keyed, "k").idempotency_key == "k"
    with pytest.raises(Problem, match="'k' and header Idempotency-Key 'other' differ"):
        parse_invocation(keyed, "other")
    with pytest.raises(Problem, match="257 characters is not between 1 and 256"):
        parse_invocation(plain, "k" * 257)


@pytest.mark.parametrize(("text", "seconds"), [(None, 0.0), ("0", 0.0), ("2.5", 2.5), ("60", 60.0)])
def test_wait_is_a_number_of_seconds(text, seconds):
    assert parse_wait(text, 60.0) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "61", "nan", "inf"])
def test_a_wait_out_of_bounds_is_refused(text):
    with pytest.raises(Problem, match="between 0 and 60"):
        parse_wait(text, 60.0)
