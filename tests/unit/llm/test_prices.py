"""What calls cost: the table that ships, one's own, dated versions, and budgets that need a price."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.agents.budget import Budget
from streams.agents.context import Context
from streams.app import App
from streams.errors import ConfigurationError
from streams.llm.prices import Price, PriceTable, check_cost_budgets, load_prices, price_of, reserved_prices
from streams.llm.settings import LlmSettings, PoolSettings, TenantBudget

TABLE = PriceTable({"m": Price(input=1.0, output=2.0), "dear": Price(input=0.5, output=9.0)})


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def test_the_table_that_ships_can_be_read_and_says_what_a_call_costs():
    table = load_prices()
    assert len(table.models) >= 10
    price = table.of("gpt-4o-mini")
    assert price is not None
    assert price.cost(1_000_000, 500_000) == pytest.approx(0.15 + 0.30)
    assert all(each.output >= each.input > 0 for each in table.models.values())


@pytest.mark.parametrize(
    "name", ["gpt-4o-2024-11-20", "gpt-4o-latest", "claude-sonnet-4-5-20250929", "claude-3-5-haiku-latest"]
)
def test_a_dated_version_costs_what_the_model_costs(name):
    table = load_prices()
    price = table.of(name)
    assert price is not None
    assert price in table.models.values()


@pytest.mark.parametrize("name", ["gpt-4o-mini-turbo", "gpt", "my-model", ""])
def test_a_model_that_is_not_in_the_table_has_no_price(name):
    assert load_prices().of(name) is None


def test_ones_own_table_takes_the_place_of_the_one_that_ships(tmp_path):
    table = load_prices(write(tmp_path, 'currency = "EUR"\n[models]\n"mine" = { input = 1, output = 2.5 }\n'))
    assert table.of("mine") == Price(input=1.0, output=2.5)
    assert table.of("gpt-4o") is None
    assert table.currency == "EUR"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('currency = "EUR"\n[models]\n"mine" = { input = -1, output = 2 }\n', "models.mine.input"),
        ('currency = "EUR"\n[models]\n"mine" = { input = 1 }\n', "models.mine.output"),
        ("[models]\n", "currency"),
        ("[models\n", "is not TOML"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_the_entry(tmp_path, text, said):
    with pytest.raises(ConfigurationError, match="prices_file") as caught:
        load_prices(write(tmp_path, text))
    assert said in str(caught.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_prices(tmp_path / "none.toml")


def test_a_pools_own_price_comes_before_the_tables():
    assert price_of(PoolSettings(model="m"), TABLE) == Price(input=1.0, output=2.0)
    assert price_of(PoolSettings(model="m", input_price=7.0), TABLE) == Price(input=7.0, output=0.0)
    assert price_of(PoolSettings(model="x"), TABLE) is None


def test_what_is_reserved_is_the_dearest_of_those_that_may_answer():
    pools = {
        "fast": PoolSettings(model="m", fallback_pools=("slow",)),
        "slow": PoolSettings(model="dear"),
        "odd": PoolSettings(model="m", fallback_pools=("local",)),
        "local": PoolSettings(model="x"),
    }
    reserved = reserved_prices(LlmSettings(pools=pools), TABLE)
    assert reserved == {"fast": Price(input=1.0, output=9.0), "slow": Price(input=0.5, output=9.0)}


def declared(budget: Budget) -> App:
    app = App("shop")
    app.model("fast", fallback="sorry")

    @app.agent(key=str, budget=budget)
    async def greet(ctx: Context[None], who: str) -> str:
        return who

    return app


def test_a_budget_of_money_needs_a_price_at_the_start():
    app = declared(Budget(cost=1.0))
    with pytest.raises(ConfigurationError, match="agent 'greet' has a budget of money, but model 'x' of pool 'fast'"):
        check_cost_budgets(app, LlmSettings(pools={"fast": PoolSettings(model="x")}), TABLE)
    with pytest.raises(ConfigurationError, match="has no 'fast' for model 'fast' here"):
        check_cost_budgets(app, LlmSettings(), TABLE)
    check_cost_budgets(app, LlmSettings(pools={"fast": PoolSettings(model="x", input_price=0.0)}), TABLE)
    check_cost_budgets(declared(Budget(tokens=5)), LlmSettings(), TABLE)


def test_a_tenants_budget_of_money_needs_one_too():
    settings = LlmSettings(pools={"fast": PoolSettings(model="x")}, tenant_budgets={"*": TenantBudget(cost=1.0)})
    with pytest.raises(ConfigurationError, match=r"tenant '\*' has a budget of money"):
        check_cost_budgets(declared(Budget()), settings, TABLE)
