"""What dispatchers that share a model pool tell each other: what each has to do, and what each may use."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LlmDemand:
    """What one dispatcher has to do for a model pool; from each to the pool's scheduler and to the others.

    Attributes:
        holder: The dispatcher; another one after each start of its process.
        number: Counts its demands; an allotment that answers one is valid from when that one was sent.
        applied: Number of the latest allotments that it goes by.
        waiting: Tokens of the requests that it holds, by tenant.
        served: Tokens of the requests that it sent since its last demand, by tenant.
        running: Calls open on each key, those included that may be going on at the provider alone.
        need: Share of a key's limits that the largest request at the head of its queue takes at once.
        leaving: It sends nothing any more.
    """

    pool: str
    holder: str
    number: int
    applied: int
    waiting: dict[str, int] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    running: tuple[int, ...] = ()
    need: float = 0.0
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class LlmAllotments:
    """What every dispatcher may use of a model pool's limits; from the pool's scheduler to all dispatchers.

    A part of a key is three numbers: share of what refills, share of what can be taken at once, calls open at once (-1
    for all). *parts* and *in_use* have, for each of *holders*, the parts of all keys, one after the other.

    Attributes:
        number: Grows with each record of the pool, over all its schedulers.
        lease_s: Seconds for which an allotment is valid from when the demand that it answers was sent.
        call_s: Seconds for which calls may go on after that.
        keys: How many keys the pool has.
        holders: The dispatchers, those that are gone included while something of theirs may be in use.
        answers: For each of them, the demand that is answered; 0 for one that is not heard of.
        parts: What they may use.
        in_use: What they may still be using.
        machine: The boot of the machine on whose clock *at_s* was read; another process there can tell its age.
        at_s: Seconds of that machine's monotonic clock.
    """

    pool: str
    number: int
    lease_s: float
    call_s: float
    keys: int
    holders: tuple[str, ...]
    answers: tuple[int, ...]
    parts: tuple[float, ...]
    in_use: tuple[float, ...]
    machine: str
    at_s: float
