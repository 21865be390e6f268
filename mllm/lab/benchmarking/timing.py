"""Durations: clocks, rounds in which every contender runs once, quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], Any]
SecondsOf = Callable[[Run], float]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Quartiles by linear interpolation between order statistics, as numpy and spreadsheets have them.

        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError("values: a sample of none has no median")
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


def wall_seconds(run: Run, device: torch.device) -> float:
    """Seconds until all that ``run`` sent to the device is done; on CUDA by the GPU's own clock."""
    if device.type == "cuda":
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begun.record()
        run()
        ended.record()
        torch.cuda.synchronize(device)
        return begun.elapsed_time(ended) / 1e3
    start = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def cpu_seconds(run: Run) -> float:
    """Seconds that this process, all of its threads together, was computing: a busy machine hardly changes them."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interleave(runs: Mapping[str, Run], rounds: int, warm_up: int, seconds_of: SecondsOf) -> dict[str, list[float]]:
    """Run all in turn, again and again, so that whatever slows the machine down meets all of them alike.

    Args:
        runs: what to run, by name.
        rounds: that count; each name gets one duration from each.
        warm_up: rounds before those, whose durations are thrown away.
        seconds_of: a clock.

    Returns:
        the durations in seconds, by name, in the order of the rounds.
    """
    durations: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            seconds = seconds_of(run)
            if number >= warm_up:
                durations[name].append(seconds)
    return durations
