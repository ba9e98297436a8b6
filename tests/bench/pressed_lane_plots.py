"""Pictures of a lane under a spike: what arrives, how old it gets, and what producers are told."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.pressed_lane import PARTITIONS, Run

LEVELS = {"open": 0, "slow": 1, "closed": 2}


def plot(run: Run, title: str, path: Path) -> None:
    """Write a PNG: arrival and admission, lag in seconds, level, retry-after."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot_: Any = pyplot
    until_s = max(times[-1] for times in run.answered if times)
    published = sorted(at_s for times in run.published for at_s in times)
    answered = sorted(at_s for times in run.answered for at_s in times)
    step_s = max(1.0, until_s / 300)
    marks = [n * step_s for n in range(int(until_s / step_s) + 2)]
    figure, (rates, ages, waits, levels) = pyplot_.subplots(4, 1, figsize=(11, 11), sharex=True)
    for name, times in (("wanted", run.wanted), ("admitted", published), ("answered", answered)):
        rates.plot(marks[1:], _per_s(times, marks), label=name, linewidth=1.2)
    rates.set_ylabel("invocations/s")
    rates.legend()
    ages.plot(marks, [_oldest_s(run, at_s) for at_s in marks], label="oldest not answered (true)")
    ages.plot(
        *zip(*run.lags, strict=True) if run.lags else ((), ()), label="lag of the unread (measured)", linewidth=0.8
    )
    ages.axhline(run.policy.close_s, linestyle=":", color="grey", label="closes at this much work")
    ages.set_ylabel("seconds")
    ages.legend()
    times = [at_s for at_s, _ in run.signals]
    waits.step(times, [signal.retry_after_s for _, signal in run.signals], where="post")
    waits.set_ylabel("retry-after, s")
    levels.step(times, [LEVELS[signal.level] for _, signal in run.signals], where="post")
    levels.set_yticks(list(LEVELS.values()), list(LEVELS))
    levels.set_ylabel("level")
    levels.set_xlabel("seconds")
    rates.set_title(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot_.close(figure)


def _per_s(times: list[float], marks: list[float]) -> list[float]:
    counts = [bisect_right(times, mark) for mark in marks]
    return [(after - before) / (marks[1] - marks[0]) for before, after in pairwise(counts)]


def _oldest_s(run: Run, at_s: float) -> float:
    """Age of what was published first and not answered; invocations of an agent are answered nearly in order."""
    ages = [0.0]
    for number in range(PARTITIONS):
        done = bisect_right(run.answered[number], at_s)
        if done < bisect_right(run.published[number], at_s):
            ages.append(at_s - run.published[number][done])
    return max(ages)
