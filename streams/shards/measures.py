"""What the shards of a process measure together: how long invocations and steps take, and how large transactions are.

On the hot path, so each call is a look-up and a few additions. Names come from an app's declarations; what anyone may
write into a record (an agent that does not exist) is counted as `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container

from streams.agents.run import Request
from streams.observe import registry as m
from streams.observe.distribution import Distributions
from streams.records.invocations import Invocation, Result
from streams.records.journal import Completion


class ShardMeasures:
    """Distributions, and one count.

    Args:
        agents: Names that are told apart; None for every name, up to the bound of a distribution.

    Attributes:
        set_aside: Records that went to dead-letters.
        fallbacks: Steps that a fallback answered, by kind, name and cause.
    """

    def __init__(self, agents: Container[str] | None = None) -> None:
        self._agents = agents
        self._invocations = Distributions(m.INVOCATION_SECONDS)
        self._waits = Distributions(m.INVOCATION_WAIT)
        self._tokens = Distributions(m.INVOCATION_TOKENS)
        self._steps = Distributions(m.STEP_SECONDS)
        self._transactions = Distributions(m.TRANSACTION_SECONDS)
        self._written = Distributions(m.TRANSACTION_RECORDS)
        self._batches = Distributions(m.BATCH_RECORDS)
        self.set_aside = 0
        self.fallbacks: Counter[tuple[str, str, str]] = Counter()

    @property
    def distributions(self) -> tuple[Distributions, ...]:
        """All of them, for a scrape."""
        return (
            self._invocations, self._waits, self._tokens, self._steps, self._transactions, self._written, self._batches
        )  # fmt: skip

    def start(self, invocation: Invocation, now: float) -> None:
        """Count the start of a handler, at *now* in seconds since the epoch."""
        due_ms = invocation.not_before_ms or invocation.submitted_at_ms
        waited_s = now - due_ms / 1000
        # Below zero only where the clocks of two machines differ.
        self._waits[(self._name(invocation.agent),)].add(waited_s if waited_s > 0 else 0.0)

    def end(self, result: Result) -> None:
        """Count the end of an invocation."""
        agent = self._name(result.agent)
        outcome = "degraded" if result.degraded and result.status == "succeeded" else result.status
        took_s = (result.finished_at_ms - result.submitted_at_ms) / 1000
        self._invocations[agent, outcome].add(took_s if took_s > 0 else 0.0)
        if tokens := result.input_tokens + result.output_tokens:
            self._tokens[(agent,)].add(tokens)

    def step(self, request: Request, completion: Completion, now: float) -> None:
        """Count a step that gets its outcome at *now*."""
        kind, name = request.kind, request.name
        if kind != "tool" and kind != "llm":
            # An agent instance's name has its key in it; the names of signals may be made up as handlers go.
            name = name.partition("/")[0] if kind != "signal" else ""
        took_s = now - request.made_at_s
        spread = self._steps[kind, name, "degraded" if completion.degraded else completion.status]
        spread.counts[bisect_left(spread.bounds, took_s)] += 1  # `add`, without its call: there are many steps
        spread.total += took_s
        if completion.degraded and kind != "child":
            self.fallbacks[kind, name, completion.cause] += 1

    def transaction(self, seconds: float, records: int) -> None:
        """Count a committed transaction."""
        self._transactions[()].add(seconds)
        self._written[()].add(records)

    def batch(self, records: int) -> None:
        """Count what one step took up."""
        self._batches[()].add(records)

    def _name(self, agent: str) -> str:
        return agent if self._agents is None or agent in self._agents else m.OTHER
