from pathlib import Path

import pytest
from pydantic import ValidationError

from streams.app import App
from streams.errors import ConfigurationError
from streams.llm.limits import Limit
from streams.llm.settings import LlmSettings, PoolSettings, check_pools, load_keys

POOL = PoolSettings(model="gpt")


def keys(pool: PoolSettings, environ: dict[str, str], name: str = "fast-1") -> list[str]:
    return [key.get_secret_value() for key in load_keys(name, pool, environ)]


def test_keys_come_from_the_pools_variable_then_from_the_providers():
    environ = {"OPENAI_API_KEY": "shared", "ANTHROPIC_API_KEY": "other"}
    assert keys(POOL, environ) == ["shared"]
    assert keys(PoolSettings(provider="anthropic", model="m"), environ) == ["other"]
    assert keys(POOL, {**environ, "FAST_1_API_KEYS": "a, b,,a"}) == ["a", "b"]
    assert keys(PoolSettings(model="m", keys_env="MINE"), {**environ, "MINE": "x"}) == ["x"]


def test_keys_come_from_a_file(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text("# our keys\na\n\n b \n")
    assert keys(PoolSettings(model="m", keys_file=path), {"OPENAI_API_KEY": "no"}) == ["a", "b"]
    with pytest.raises(ConfigurationError, match=r"keys_file .* of model pool 'fast-1' cannot be read: No such file"):
        keys(PoolSettings(model="m", keys_file=tmp_path / "none"), {})


def test_a_pool_without_keys_is_refused_with_what_to_set():
    with pytest.raises(ConfigurationError, match="FAST_1_API_KEYS or OPENAI_API_KEY is not set; set the variable"):
        keys(POOL, {})
    with pytest.raises(ConfigurationError, match="MINE is not set"):
        keys(PoolSettings(model="m", keys_env="MINE"), {"OPENAI_API_KEY": "shared"})


def test_keys_do_not_show_when_they_are_printed():
    assert "secret" not in repr(load_keys("fast", POOL, {"OPENAI_API_KEY": "secret"}))


def app_with(pool: str) -> App:
    app = App("app")
    app.model("fast", pool=pool, fallback="sorry")
    return app


def test_a_model_of_an_unknown_pool_is_refused_at_the_start():
    with pytest.raises(ConfigurationError, match=r"model 'fast' wants pool 'fst', but llm.pools has fast; add"):
        check_pools(app_with("fst"), LlmSettings(pools={"fast": POOL}), environ={"OPENAI_API_KEY": "k"})


@pytest.mark.parametrize("other", ["fast", "nowhere"])
def test_a_fallback_pool_must_be_another_pool(other: str):
    settings = LlmSettings(pools={"fast": PoolSettings(model="m", fallback_pools=(other,))})
    with pytest.raises(ConfigurationError, match=f"fallback_pools of model pool 'fast' names '{other}'"):
        check_pools(app_with("fast"), settings, environ={"OPENAI_API_KEY": "k"})


def test_a_pool_whose_provider_is_handed_in_needs_no_key():
    settings = LlmSettings(pools={"fast": POOL})
    check_pools(app_with("fast"), settings, environ={}, provided={"fast"})
    with pytest.raises(ConfigurationError, match="has no API key"):
        check_pools(app_with("fast"), settings, environ={})


@pytest.mark.parametrize(
    "field", ["requests_per_minute", "tokens_per_minute", "input_tokens_per_minute", "output_tokens_per_minute",
              "concurrency", "timeout_s", "burst_s"]
)  # fmt: skip
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_of_zero_or_below_are_refused(field: str, value: float):
    with pytest.raises(ValidationError, match=field):
        PoolSettings.model_validate({"model": "m", field: value})


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http:///v1", "", "ftp://host"])
def test_an_address_that_cannot_be_called_is_refused_at_the_start(url: str):
    with pytest.raises(ValidationError, match="must begin with http:// or https:// and a host"):
        PoolSettings(model="m", base_url=url)
    assert PoolSettings(model="m", base_url="http://[::1]:8000/v1").base_url


def test_weights_of_zero_are_refused():
    with pytest.raises(ValidationError, match="tenant_weights"):
        LlmSettings(tenant_weights={"acme": 0})


def test_limits_of_a_key_leave_room_for_the_time_that_requests_travel():
    limits = PoolSettings(model="m", requests_per_minute=600, tokens_per_minute=1, concurrency=10).key_limits()
    assert limits.requests == Limit(600, burst=580)
    assert limits.tokens == Limit(1, burst=1)  # never less than one
    assert limits.input_tokens is None
    assert limits.concurrency == 10


def test_a_function_takes_the_place_of_a_provider_and_needs_no_key():
    pool = PoolSettings(model="m", provider="function", function="tests.unit.llm.answering:answer")
    check_pools(app_with("fast"), LlmSettings(pools={"fast": pool}), environ={})


@pytest.mark.parametrize(
    "fields", [{"provider": "function"}, {"function": "a.b:c"}, {"provider": "function", "function": "a.b"}]
)
def test_a_function_and_its_provider_go_together(fields):
    with pytest.raises(ValidationError, match="function"):
        PoolSettings(model="m", **fields)
