"""Would this model call pass the invocation's budget? Asked before it is sent; what is under way counts in full.

A call reserves its estimated input and the bound on its output, so that calls at the same time cannot pass the budget
together; what it really used takes the reservation's place when its result is applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streams.agents.budget import Budget
from streams.agents.run import Request, Run
from streams.llm.model import ChatSpec
from streams.llm.prices import FREE, Price


def over_budget(run: Run, budget: Budget, request: Request, prices: Mapping[str, Price]) -> str | None:
    """Say why a model call must not be made; None when it may.

    Args:
        prices: What a call may cost at most, by pool.
    """
    if budget.tokens is None and budget.cost is None:
        return None
    under_way = list(_under_way(run, request))
    if budget.tokens is not None:
        spent, reserved = run.input_tokens + run.output_tokens, sum(map(_tokens, under_way))
        wanted = _tokens(request)
        if spent + reserved + wanted > budget.tokens:
            return (
                f"model {request.name!r} may use {wanted} more tokens ({_parts(request)}), but {spent} are spent and "
                f"{reserved} reserved of the budget of {budget.tokens}; raise the budget or lower max_output_tokens"
            )
    if budget.cost is not None:
        reserved_cost = sum(_cost(each, prices) for each in under_way)
        wanted_cost = _cost(request, prices)
        if run.cost + reserved_cost + wanted_cost > budget.cost:
            return (
                f"model {request.name!r} may cost {wanted_cost:.6g} more ({_parts(request)}), but {run.cost:.6g} is "
                f"spent and {reserved_cost:.6g} reserved of the budget of {budget.cost:g}; raise the budget or lower "
                "max_output_tokens"
            )
    return None


def _under_way(run: Run, request: Request) -> Iterator[Request]:
    """Yield the model calls that were asked for before this one and have no result yet."""
    for each in run.pending.values():
        if each.kind == "llm" and each.step < request.step and not each.abandoned:
            yield each


def _tokens(request: Request) -> int:
    spec: ChatSpec[Any] = request.spec
    return spec.input_tokens(request.payload) + spec.max_output_tokens


def _cost(request: Request, prices: Mapping[str, Price]) -> float:
    spec: ChatSpec[Any] = request.spec
    price = prices.get(spec.model.pool, FREE)
    return price.cost(spec.input_tokens(request.payload), spec.max_output_tokens)


def _parts(request: Request) -> str:
    spec: ChatSpec[Any] = request.spec
    return f"input of about {spec.input_tokens(request.payload)}, output up to {spec.max_output_tokens}"
