import random

import pytest
from pydantic import ValidationError

from streams.demo.provider.config import Limits, MockConfig


def test_a_median_alone_is_a_fixed_latency():
    assert {MockConfig(latency_p50_s=0.3).latency_s(random.Random(i)) for i in range(9)} == {0.3}


def test_latency_has_the_median_and_the_99th_percentile_it_was_told():
    chance = random.Random(1)
    config = MockConfig(latency_p50_s=0.5, latency_p99_s=4.0)
    drawn = sorted(config.latency_s(chance) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(0.5, rel=0.05)
    assert drawn[19_800] == pytest.approx(4.0, rel=0.1)


def test_percentiles_must_be_in_order():
    with pytest.raises(ValidationError, match=r"latency_p99_s of 0\.1 needs a latency_p50_s above 0"):
        MockConfig(latency_p50_s=0.2, latency_p99_s=0.1)


def test_a_limit_of_zero_is_refused():
    with pytest.raises(ValidationError, match="requests_per_minute"):
        Limits(requests_per_minute=0)
