"""Interleaved timing: what the benchmarks that time have in common."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns the CPU seconds of every contender in each round; all take turns, the first time unmeasured.

    The order changes from round to round: whose memory the allocator finds warm depends on who ran before.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        for name in order:
            started = time.process_time()
            contenders[name]()
            seconds[name].append(time.process_time() - started)
        order = random.Random(len(seconds[order[0]])).sample(order, len(order))
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Returns the median over the rounds of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
