"""Which pools of model keys there are, what each allows, and where the keys come from; found wrong at the start.

Keys come from an environment variable or a file, never from the settings themselves: settings are printed, and reach
logs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from streams.errors import ConfigurationError
from streams.llm.key_buckets import Follow
from streams.llm.limits import KeyLimits, Limit
from streams.llm.usage_sums import Window

if TYPE_CHECKING:
    from streams.app import App

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_ADDRESS = re.compile(r"https?://[^\s/]+")
_NOT_IN_VARIABLES = re.compile(r"[^A-Z0-9]+")


class PoolSettings(BaseModel):
    """One pool: the keys of one provider that serve one model.

    Attributes:
        provider: Whose protocol is spoken. `openai` is any server with a chat-completions endpoint; `function` is a
            Python function, which needs no key.
        function: With that, which: `module:name`, of a `ChatRequest`, returning text or a `ChatResponse`.
        base_url: Where it is, such as `http://localhost:8000/v1`; the provider's own address if None.
        model: Name of the model as the provider knows it.
        keys_env: Environment variable with API keys, separated by commas. By default `<POOL>_API_KEYS`, then
            `OPENAI_API_KEY` or `ANTHROPIC_API_KEY`. For a server that wants no key: `none`.
        keys_file: File with one key a line, instead.
        requests_per_minute: Of each key, as are all limits; None where the provider has none.
        tokens_per_minute: Input and output together.
        concurrency: Calls open at once.
        burst_s: Seconds' worth of the limits that can be used at once after a pause. A little less than the provider's
            minute, because requests travel for a varying time.
        start_full: Start with full buckets; safe only where nothing used the keys in the minute before.
        follow_headers: Whether the provider's rate-limit headers correct the buckets: only downwards, both ways, off.
        max_output_tokens: Reserved for the answer of a request that sets no bound.
        timeout_s: For one call, streamed or not.
        abandoned_call_s: For how long a call may go on at the provider, and count there as open, after it was given up
            or its process died; `timeout_s` if None. Lower it where the provider ends calls whose connection is gone.
        effect: What may be sent again. `idempotent`: whatever may have reached the provider without its answer having
            come here; at worst it is paid for twice, and counted (`sent_again`). `at-most-once`: only what the provider
            has turned away for its key (429, 401, 403), which is proof that nothing was done. Every other failure, and
            the death of the process, is answered as failed with cause `interrupted`, and the model's fallback applies;
            no fallback pool is asked then, because what may have been done there would be done again. Each call is
            claimed first, which costs a transaction. A request keeps to it in every pool where its own pool says so,
            and in a fallback pool that says so.
        max_hold_s: Seconds that a request is held in an outage before the model's fallback applies.
        on_outage: `hold` waits for the deadline instead.
        fallback_pools: Pools that are asked, in order, while this one cannot answer.
        connections: Most connections of one process, so also the most calls at once where `concurrency` is None.
        input_price: Of a million input tokens, in the currency of the price table; the table's if None.
        output_price: Of a million output tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Literal["openai", "anthropic", "function"] = "openai"
    function: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    base_url: str | None = None
    model: str = Field(min_length=1)
    keys_env: str | None = Field(default=None, min_length=1)
    keys_file: Path | None = None
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    input_tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    output_tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    concurrency: int | None = Field(default=None, ge=1)
    burst_s: float = Field(default=58.0, gt=0, le=3600)
    start_full: bool = False
    follow_headers: Follow = "down"
    max_output_tokens: int = Field(default=1_024, ge=1)
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    abandoned_call_s: float | None = Field(default=None, ge=0, le=3600)
    effect: Literal["idempotent", "at-most-once"] = "idempotent"
    max_hold_s: float = Field(default=30.0, ge=0)
    on_outage: Literal["fallback", "hold"] = "fallback"
    fallback_pools: tuple[str, ...] = ()
    connections: int = Field(default=500, ge=1, le=10_000)
    input_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    output_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @field_validator("base_url")
    @classmethod
    def _whole_address(cls, url: str | None) -> str | None:
        if url is not None and not _ADDRESS.match(url):
            raise ValueError("it must begin with http:// or https:// and a host, as http://localhost:8000/v1 does")
        return url

    @model_validator(mode="after")
    def _function_with_its_provider(self) -> PoolSettings:
        if (self.provider == "function") != (self.function is not None):
            raise ValueError("provider 'function' and function='module:name' go together; give both or neither")
        return self

    @property
    def abandoned_s(self) -> float:
        """Seconds from the start of a call after which it has ended at the provider, whatever became of its caller."""
        return self.timeout_s if self.abandoned_call_s is None else self.abandoned_call_s

    def key_limits(self) -> KeyLimits:
        """Return the limits of one key."""
        return KeyLimits(
            requests=self._limit(self.requests_per_minute),
            tokens=self._limit(self.tokens_per_minute),
            input_tokens=self._limit(self.input_tokens_per_minute),
            output_tokens=self._limit(self.output_tokens_per_minute),
            concurrency=self.concurrency,
        )

    def _limit(self, per_minute: float | None) -> Limit | None:
        return None if per_minute is None else Limit(per_minute, burst=max(1.0, per_minute * self.burst_s / 60))


class TenantBudget(BaseModel):
    """What a tenant may use in one window of the usage.

    Attributes:
        tokens: Input and output together.
        cost: In the currency of the price table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class LlmSettings(BaseModel):
    """Settings of the role `llm`.

    Attributes:
        pools: By name; a model is served by the pool of its name, unless it names another one.
        max_held: Requests of one partition that are held or sent; beyond it the partition is not read, and lag grows.
        prices_file: Price table of models that replaces the one that ships (`streams/llm/prices.toml`).
        tenant_weights: Share of a tenant against the others; 1 unless named here.
        tenant_budgets: What a tenant may use in a window; `*` is for each one that is not named.
        usage_window: For which usage is summed and tenants' budgets count: hour, day or month of UTC.
        usage_flush_s: Time between two writes of what was used.
        usage_tenants: Tenants that metrics tell apart.
        breaker_report_s: Time between two digests of what the endpoints did, for the fleet's breakers.
        status_report_s: Time between two reports of what each pool holds and has left, for `streams llm status`.
        tokens_flush_s: Time for which pieces of streamed answers are gathered into one record.
        allotment_s: Seconds for which a process goes by its part of a pool that several share. When one dies, its part
            is free after this time; when the first partition's owner dies, the others stop after it until there is a
            new one.
        allotment_report_s: Time between two reports of what each process has to do, by which the parts are renewed.
        drain_s: Time that calls under way have to end when a partition is given away; then they are sent again there.
        claims_kept_s: Time for which it is known which requests of at-most-once pools were sent; longer than any
            request may wait for its answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: dict[str, PoolSettings] = Field(default_factory=dict)
    max_held: int = Field(default=2_500, ge=1, le=1_000_000)
    prices_file: Path | None = None
    tenant_weights: dict[str, Weight] = Field(default_factory=dict)
    tenant_budgets: dict[str, TenantBudget] = Field(default_factory=dict)
    usage_window: Window = "day"
    usage_flush_s: float = Field(default=1.0, gt=0, le=60)
    usage_tenants: int = Field(default=50, ge=0, le=10_000)
    breaker_report_s: float = Field(default=0.5, gt=0, le=60)
    status_report_s: float = Field(default=1.0, gt=0, le=60)
    tokens_flush_s: float = Field(default=0.05, gt=0, le=10)
    allotment_s: float = Field(default=5.0, ge=1, le=600)
    allotment_report_s: float = Field(default=1.0, gt=0, le=60)
    drain_s: float = Field(default=5.0, ge=0, le=600)
    claims_kept_s: float = Field(default=86_400.0, ge=3_600)


def load_keys(name: str, pool: PoolSettings, environ: Mapping[str, str] = os.environ) -> tuple[SecretStr, ...]:
    """Return the API keys of a pool.

    Raises:
        ConfigurationError: There are none, or the file cannot be read.
    """
    if pool.keys_file is not None:
        try:
            lines = pool.keys_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigurationError(
                f"keys_file {str(pool.keys_file)!r} of model pool {name!r} cannot be read: {error.strerror}"
            ) from None
        where, found = f"keys_file {str(pool.keys_file)!r} has none", [line.strip() for line in lines]
    else:
        variables = [pool.keys_env] if pool.keys_env else _default_variables(name, pool)
        text = next((environ[variable] for variable in variables if environ.get(variable)), "")
        where, found = f"{' or '.join(variables)} is not set", [key.strip() for key in text.split(",")]
    keys = tuple(SecretStr(key) for key in dict.fromkeys(found) if key and not key.startswith("#"))
    if not keys:
        raise ConfigurationError(
            f"model pool {name!r} has no API key: {where}; set the variable (or llm.pools.{name}.keys_file), and say "
            "'none' for a server that wants no key"
        )
    return keys


def check_pools(
    app: App,
    settings: LlmSettings,
    *,
    environ: Mapping[str, str] = os.environ,
    provided: Collection[str] = (),
) -> None:
    """Check that every model has a pool, every pool keys, and every fallback a pool; at the start, not at a call.

    Args:
        provided: Pools whose provider is handed in, which need no key.

    Raises:
        ConfigurationError: With the names and what to set.
    """
    known = ", ".join(sorted(settings.pools)) or "none"
    for model in app.models.values():
        if model.pool not in settings.pools:
            raise ConfigurationError(
                f"model {model.name!r} wants pool {model.pool!r}, but llm.pools has {known}; add "
                f"[llm.pools.{model.pool}] to streams.toml, or declare the model with pool="
            )
    for name, pool in settings.pools.items():
        for other in pool.fallback_pools:
            if other not in settings.pools or other == name:
                raise ConfigurationError(
                    f"fallback_pools of model pool {name!r} names {other!r}, not another pool; there are {known}"
                )
        if name not in provided and pool.function is None:
            load_keys(name, pool, environ)


def _default_variables(name: str, pool: PoolSettings) -> list[str]:
    own = _NOT_IN_VARIABLES.sub("_", name.upper())
    return [f"{own}_API_KEYS", f"{pool.provider.upper()}_API_KEY"]
