"""What tokens cost: the price table, a file with a default that ships, and which price a pool's calls have.

A pool whose model is in no table and that sets no price of its own costs nothing; where a budget of money depends on
it, that is refused at the start.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streams.agents.signature import explain
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.app import App
    from streams.llm.settings import LlmSettings, PoolSettings

SHIPPED = Path(__file__).with_name("prices.toml")
_VERSION = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")


class Price(BaseModel):
    """Of a million tokens, in the currency of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return what a call with so many tokens costs."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


FREE = Price(input=0.0, output=0.0)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field(min_length=1)
    checked: str = ""
    models: dict[str, Price]


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by the model's name as the provider knows it."""

    models: Mapping[str, Price]
    currency: str = "USD"

    def of(self, model: str) -> Price | None:
        """Return the price of a model, or of the one whose dated version it is; None where neither is in the table."""
        return self.models.get(model) or self.models.get(_VERSION.sub("", model))


def load_prices(path: Path | None = None) -> PriceTable:
    """Return the price table in a file; the one that ships if None.

    Raises:
        ConfigurationError: The file cannot be read, is not TOML, or an entry is wrong; names it.
    """
    where = f"prices_file {str(path or SHIPPED)!r}"
    try:
        content: dict[str, Any] = tomllib.loads((path or SHIPPED).read_text(encoding="utf-8"))
        file = _File.model_validate(content)
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {explain(error)}; {SHIPPED.name} of this package shows the form") from None
    except ValueError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}") from None
    return PriceTable(file.models, file.currency)


def price_of(pool: PoolSettings, table: PriceTable) -> Price | None:
    """Return what a pool's calls cost: its own price, else the table's; None where there is none."""
    if pool.input_price is not None or pool.output_price is not None:
        return Price(input=pool.input_price or 0.0, output=pool.output_price or 0.0)
    return table.of(pool.model)


def reserved_prices(settings: LlmSettings, table: PriceTable) -> dict[str, Price]:
    """Return what a call may cost at most, by pool: the dearest among the pool and those that answer in its place.

    A pool is left out where the price of one of them is not known.
    """
    prices = {name: price_of(pool, table) for name, pool in settings.pools.items()}
    found = {}
    for name, pool in settings.pools.items():
        known = [price for each in (name, *pool.fallback_pools) if (price := prices.get(each)) is not None]
        if len(known) == 1 + len(pool.fallback_pools):
            found[name] = Price(input=max(p.input for p in known), output=max(p.output for p in known))
    return found


def prices_for(app: App, settings: LlmSettings) -> dict[str, Price]:
    """Return what the shards of an app reserve for a call, by pool.

    Raises:
        ConfigurationError: The price table is wrong, or lacks a price that a budget needs.
    """
    table = load_prices(settings.prices_file)
    check_cost_budgets(app, settings, table)
    return reserved_prices(settings, table)


def check_cost_budgets(app: App, settings: LlmSettings, table: PriceTable) -> None:
    """Check that every budget of money can be kept: that the app's models have prices.

    Raises:
        ConfigurationError: One has none; says where to put it.
    """
    named = [
        f"agent {agent.name!r}" for versions in app.agents.values() for agent in versions.values() if agent.budget.cost
    ]
    named += [f"tenant {name!r}" for name, budget in settings.tenant_budgets.items() if budget.cost]
    if not named:
        return
    prices = reserved_prices(settings, table)
    for model in app.models.values():
        if model.pool in prices:
            continue
        pool = settings.pools.get(model.pool)
        if pool is None:
            lacks = f"llm.pools has no {model.pool!r} for model {model.name!r} here, so nobody knows what it costs"
        else:
            lacks = f"model {pool.model!r} of pool {model.pool!r} (or of a fallback pool of it) has no price"
        raise ConfigurationError(
            f"{named[0]} has a budget of money, but {lacks}; set input_price and output_price of the pool (0 for "
            "free), or add the model to llm.prices_file"
        )
