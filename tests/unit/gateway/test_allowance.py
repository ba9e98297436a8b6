"""A tenant's limit: told in headers, refused with the time until there is room."""

import pytest

from streams.gateway.allowance import MAX_TENANTS, Allowances
from streams.gateway.problems import Problem
from streams.gateway.settings import TenantLimit


def test_what_is_left_is_told_and_refills():
    allowances = Allowances({"acme": TenantLimit(per_minute=60, burst=3)})
    told = [allowances.take("acme", 100.0)["RateLimit"] for _ in range(3)]
    assert told == ['"tenant";r=2;t=1', '"tenant";r=1;t=2', '"tenant";r=0;t=3']
    assert allowances.take("acme", 101.0)["RateLimit"] == '"tenant";r=0;t=3'


def test_beyond_it_the_answer_says_when_to_come_back():
    allowances = Allowances({"acme": TenantLimit(per_minute=6, burst=1)})
    assert allowances.take("acme", 0.0)["RateLimit-Policy"] == '"tenant";q=6;w=60'
    with pytest.raises(Problem, match="tenant 'acme' has used up its 6 submissions a minute") as refused:
        allowances.take("acme", 1.0)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "9")
    assert refused.value.headers["RateLimit"] == '"tenant";r=0;t=9'
    assert allowances.take("acme", 10.0)


def test_one_tenants_limit_is_nobody_elses():
    allowances = Allowances({"*": TenantLimit(per_minute=60, burst=1), "big": TenantLimit(per_minute=600)})
    assert allowances.take("a", 0.0)
    assert allowances.take("b", 0.0)
    assert allowances.take("big", 0.0)["RateLimit"].startswith('"tenant";r=59')
    with pytest.raises(Problem):
        allowances.take("a", 0.0)


def test_without_a_limit_nothing_is_told():
    assert Allowances({"acme": TenantLimit(per_minute=1)}).take("other", 0.0) == {}


def test_buckets_are_bounded():
    allowances = Allowances({"*": TenantLimit(per_minute=1)})
    for number in range(MAX_TENANTS + 5):
        allowances.take(str(number), 0.0)
    assert len(allowances._buckets) == MAX_TENANTS
