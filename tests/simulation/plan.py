"""What happens in one world: its size, its load and its faults, all drawn from one integer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.simulation.programs import LEVELS, Author
from tests.simulation.sharing import Sharing, draw_sharing

FAULTS = (
    "kill",
    "kill",
    "fuse",
    "trap",
    "trap",
    "freeze",
    "outage",
    "stop",
    "compact",
    "copy result",
    "copy request",
    "copy signal",
    "misroute",
    "garbage",
    "trim",
)

STORE_FAULTS = ("kill", "trap", "kill sink", "freeze sink", "store away", "compact", "fail over")


@dataclass(frozen=True, slots=True)
class Submission:
    """One invocation as a client asks for it.

    Attributes:
        at_s: When it is submitted, in virtual seconds.
        signals: (name, value, signal ID) that somebody sends to it.
        signals_after: Index of the submission whose result must be there before they are sent; -1 for none.
        cancel_at_s: When it is cancelled; 0 for never.
    """

    agent: str
    key: str
    idempotency_key: str
    program: list[Any]
    at_s: float
    deadline_s: float = 36_000.0
    delay_s: float = 0.0
    signals: tuple[tuple[str, int, str], ...] = ()
    signals_after: int = -1
    cancel_at_s: float = 0.0
    tag: str = ""

    @property
    def id(self) -> str:
        """The invocation ID."""
        return f"{self.agent}/{self.key}/{self.idempotency_key}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong."""

    at_s: float
    kind: str
    host: int
    amount: float


@dataclass(frozen=True, slots=True)
class Storage:
    """How a world's state leaves the memory of its shards, and the log.

    Attributes:
        sinks: Processes that write back.
        cache_bytes: What state may take in memory.
        tombstone_after_s: Age from which state may leave the log.
    """

    sinks: int
    cache_bytes: int
    tombstone_after_s: float
    sweep_interval_s: float
    batch_rows: int


@dataclass(slots=True)
class Plan:
    """See the module.

    Attributes:
        storage: None for a world without a store.
        orders: (time, action, target) of operators.
        look_ahead: Calls of a partition that a tool worker opens, beyond what its tools may run at a time.
        parked: Offsets of the overflow lane that it remembers.
        newest: For each shard host, whether it starts with the newest deploy.
        sharing: What clients do to shared records.
    """

    partitions: int
    shards: int
    tools: int
    max_hot: int
    chunk_bytes: int
    max_mailbox: int
    max_working: int
    bite: int
    flaky: float
    slow_every: int
    newest: list[bool]
    static: list[bool]
    submissions: list[Submission] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    look_ahead: int = 1_000
    parked: int = 1_000
    orders: list[tuple[float, str, str]] = field(default_factory=list)
    faults_end_s: float = 0.0
    sharing: list[Sharing] = field(default_factory=list)
    storage: Storage | None = None


def draw_plan(seed: int) -> Plan:
    """Return what happens in the world of *seed*."""
    draw = Random(f"plan {seed}")
    shards = draw.choice((1, 1, 2, 3))
    plan = Plan(
        partitions=draw.choice((1, 1, 2, 3)),
        shards=shards,
        tools=draw.choice((1, 1, 2)),
        max_hot=draw.choice((1, 2, 5_000)),
        chunk_bytes=draw.choice((200, 1_000, 8_192)),
        max_mailbox=draw.choice((2, 1_000, 1_000)),
        max_working=draw.choice((1, 2, 1_000)),
        bite=draw.choice((1, 3, 200)),
        flaky=draw.choice((0.0, 0.05, 0.2)),
        slow_every=draw.choice((0, 5, 20, 100)),
        newest=[draw.random() < 0.7 for _ in range(shards)],
        static=[draw.random() < 0.5 for _ in range(shards + 2)],
    )
    lanes = Random(f"lanes {seed}")
    plan.look_ahead, plan.parked = lanes.choice((1, 1, 1_000)), lanes.choice((1, 2, 1_000))
    span_s = draw.choice((0.5, 2.0, 6.0))
    _submit(plan, draw, span_s)
    _break(plan, draw, span_s + draw.choice((0.5, 3.0)))
    draw_sharing(plan, seed, span_s)
    _store(plan, Random(f"storage {seed}"))
    return plan


def _submit(plan: Plan, draw: Random, span_s: float) -> None:
    keys = ("a", "b", "c")[: draw.randint(1, 3)]
    for number in range(draw.choice((1, 2, 4, 8))):
        agent, key = draw.choice((*LEVELS[:2], LEVELS[0], "delta")), draw.choice(keys)
        after = draw.randint(-1, len(plan.submissions) - 1) if draw.random() < 0.3 else -1
        if after >= 0:
            # Alone on its instance: nobody that it waits for may wait for it.
            agent, key = LEVELS[0], f"w{number}"
        author = Author(draw, keys)
        level = LEVELS.index(agent) if agent in LEVELS else len(LEVELS)
        program = author.program(level, (f"{agent}/{key}",), top=True)
        if agent == "delta":
            program = [op for op in program if op[0] in ("peek", "sleep", "slow", "chat", "rng", "signal")]
            author.signals = [op[1] for op in program if op[0] == "signal" and op[3] is None for _ in range(op[2])]
        if after >= 0:
            author.signals.insert(0, "approved")
            program.insert(0, ["signal", "approved", 1, None])
        signals = tuple((name, value, f"{number}-{value}") for value, name in enumerate(author.signals))
        submission = Submission(
            agent, key, f"k{number}", program, draw.random() * span_s,
            deadline_s=draw.choice((36_000.0,) * 8 + (0.5, 5.0)),
            delay_s=draw.choice((0.0,) * 7 + (0.5, 3.0)),
            signals=signals,
            signals_after=after,
            cancel_at_s=draw.random() * span_s * 2 if draw.random() < 0.08 else 0.0,
        )  # fmt: skip
        plan.submissions.append(submission)
        if draw.random() < 0.15:
            again = draw.random() * span_s * 2
            tag = draw.choice(("", "", "another input"))
            plan.submissions.append(
                Submission(agent, key, f"k{number}", program, again, signals=signals, tag=tag)
            )  # fmt: skip
        if draw.random() < 0.08:
            action = draw.choice(("restart", "restart", "fail", "resume"))
            plan.orders.append((draw.random() * span_s * 2, action, submission.id))
    if draw.random() < 0.1:
        at, agent = draw.random() * span_s, draw.choice(LEVELS)
        plan.orders += [(at, "pause", agent), (at + draw.random() * 3, "unpause", agent)]


def _break(plan: Plan, draw: Random, span_s: float) -> None:
    hosts = plan.shards + plan.tools + 2
    for _ in range(draw.choice((0, 2, 4, 8))):
        kind = draw.choice(FAULTS)
        amount = draw.random()
        host = draw.randrange(plan.shards if draw.random() < 0.5 else hosts)
        plan.faults.append(Fault(draw.random() * span_s, kind, host, amount))
    plan.faults.sort(key=lambda fault: fault.at_s)
    plan.faults_end_s = span_s


def _store(plan: Plan, draw: Random) -> None:
    """Let most worlds have a store and little memory; spread the load, so that state is used after it has left."""
    if draw.random() < 0.3:
        return
    plan.storage = Storage(
        sinks=draw.choice((1, 1, 2)),
        cache_bytes=draw.choice((1, 1, 3_000)),
        tombstone_after_s=draw.choice((0.0, 0.2, 1.0)),
        sweep_interval_s=draw.choice((0.1, 0.5, 2.0)),
        batch_rows=draw.choice((1, 5, 1_000)),
    )
    stretch = draw.choice((1.0, 3.0))
    end_s = plan.faults_end_s * stretch
    plan.submissions = [replace(one, at_s=one.at_s * stretch) for one in plan.submissions]
    plan.orders = [(at_s * stretch, action, target) for at_s, action, target in plan.orders]
    plan.faults = [replace(fault, at_s=fault.at_s * stretch) for fault in plan.faults]
    for _ in range(draw.choice((0, 1, 3, 6))):
        kind = draw.choice(STORE_FAULTS)
        plan.faults.append(Fault(draw.random() * end_s, kind, draw.randrange(plan.shards), draw.random()))
    plan.faults.sort(key=lambda fault: fault.at_s)
    plan.faults_end_s = end_s
