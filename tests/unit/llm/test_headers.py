from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.llm.headers import NO_HEADERS, Observation, parse_duration, read_headers

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WALL = NOW.timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("0s", 0), ("8.64s", 8.64), ("1d", 86400)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [None, "", "s", "soon", "1", "1s later", "-1s", "1.2.3s"])
def test_what_is_no_duration_is_absent(text):
    assert parse_duration(text) is None


def test_openai():
    seen = read_headers(
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "29000",
            "x-ratelimit-reset-tokens": "2s",
            "retry-after": "3",
            "retry-after-ms": "2500",
        },
        WALL,
    )
    assert seen.observations == (
        Observation("requests", 500, 499, 0.12),
        Observation("tokens", 30000, 29000, 2.0),
    )
    assert seen.retry_after_s == 2.5


def test_anthropic_remaining_tokens_may_be_half_a_thousand_more_than_stated():
    seen = read_headers(
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": (NOW + timedelta(seconds=1)).isoformat().replace("+00:00", "Z"),
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "7000",
            "anthropic-ratelimit-output-tokens-reset": (NOW - timedelta(seconds=9)).isoformat(),
        },
        WALL,
    )
    assert seen.observations == (
        Observation("requests", 50, 49, 1.0),
        Observation("output_tokens", 8000, 7500, 0.0),
    )


def test_a_retry_after_date():
    assert read_headers({"retry-after": "Fri, 20 Nov 2026 12:00:07 GMT"}, WALL).retry_after_s == 7
    assert read_headers({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, WALL).retry_after_s == 0


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
                "anthropic-ratelimit-tokens-reset",
                "anthropic-ratelimit-tokens-limit",
                "retry-after",
                "retry-after-ms",
            ]
        ),
        st.one_of(st.text(max_size=9), st.sampled_from(["nan", "inf", "-1", "1e400", "2026-11-20", "0"])),
    )
)
def test_garbage_never_fails_a_call(headers):
    seen = read_headers(headers, WALL)
    for observation in seen.observations:
        assert observation.limit is None or observation.limit > 0
        assert observation.remaining is None or observation.remaining >= 0
    assert seen.retry_after_s is None or seen.retry_after_s >= 0


def test_no_headers_say_nothing():
    assert read_headers({}, WALL) == NO_HEADERS
