"""From benchmark cases to figures: the machine, what fits into its memory, interleaved repeats, ratios."""

from __future__ import annotations

import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from data.errors import InputError
from mllm.lab.benchmarking.case import Case, Cost, Run, dtype_name, weights_of

logger = logging.getLogger(__name__)

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
SPARE = 0.9  # of the free memory: what is not counted (the allocator's gaps, the kernels' own buffers) needs some
SecondsOf = Callable[[Run], float]

# ---------------------------------------------------------------------------------------------------------- machine


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Tells what a reader needs to know to compare figures with his own."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "open_clip_torch")},
    }


def _cpu_model() -> str:
    """Linux tells it in /proc/cpuinfo only."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Returns the bytes that can be had."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(SPARE * free)


def matmul(device: torch.device, dtype: torch.dtype) -> Run:
    """Makes a square matmul, large enough to run at the machine's full speed."""
    side = MATMUL_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: left @ right


# ----------------------------------------------------------------------------------------------------------- timing


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Interpolates quartiles linearly between order statistics, as numpy and spreadsheets do.

        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError("values: a sample of none has no median")
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


def wall_seconds(run: Run, device: torch.device) -> float:
    """Times a run until all that it sent to the device is done; on CUDA by the GPU's own clock."""
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
    return time.perf_counter() - start


def cpu_seconds(run: Run) -> float:
    """Counts how long this process, all threads together, was computing: a busy machine hardly changes that."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interleave(runs: Mapping[Any, Run], repeats: int, warm_up: int, seconds_of: SecondsOf) -> dict[Any, list[float]]:
    """Runs all in turn, again and again, so that whatever slows the machine down meets all of them alike.

    Args:
        runs: what to run, by name.
        repeats: that count; each name gets one duration from each.
        warm_up: repeats before those, whose durations are thrown away.
        seconds_of: a clock.

    Returns:
        the durations in seconds, by name, in the order of the repeats.
    """
    durations: dict[Any, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + repeats):
        for name, run in runs.items():
            seconds = seconds_of(run)
            if number >= warm_up:
                durations[name].append(seconds)
    return durations


# -------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Plan:
    """How often, with how many images, by which clock."""

    batch_sizes: tuple[int, ...] = (8,)
    repeats: int = 10
    warm_up: int = 2
    clock: str = "wall"

    def seconds_of(self, device: torch.device) -> SecondsOf:
        return cpu_seconds if self.clock == "cpu" else partial(wall_seconds, device=device)


@dataclass(frozen=True)
class Row:
    """One case at one batch size.

    Attributes:
        name, ours, group, dtype, tokens, reference, cosine: as `Case` has them.
        macs: multiply-accumulates of an image.
        memory: bytes at the fullest moment, the weights included.
        seconds: of each repeat.
        matmul: multiply-accumulates a second of the machine's matmul in this type, in the fastest of the same repeats.
    """

    name: str
    ours: bool
    group: str
    dtype: str
    batch_size: int
    tokens: int | None
    macs: float
    memory: int
    seconds: list[float]
    matmul: float
    reference: str | None = None
    cosine: float | None = None

    def figures(self) -> dict[str, Any]:
        """Tells everything as JSON takes it; int8 may make more of the matmul than all, which is float32's."""
        speed = Spread.of([self.batch_size / seconds for seconds in self.seconds])
        return asdict(self) | {
            "ms_per_image": asdict(Spread.of([1e3 * seconds / self.batch_size for seconds in self.seconds])),
            "images_per_second": asdict(speed),
            "fraction_of_matmul": self.macs * speed.median / self.matmul,
        }

    def is_compared_with(self, other: Row) -> bool:
        if (self.group, self.dtype, self.batch_size) != (other.group, other.dtype, other.batch_size):
            return False
        return other.name == self.reference if self.reference else self.ours and not other.ours

    def compare(self, other: Row) -> dict[str, Any]:
        """Tells how many times faster this is, repeat by repeat: what slowed one of them down slowed both.

        ``efficiency`` is the fraction of saved arithmetic that becomes saved time; int8 saves none.
        """
        speed = Spread.of([theirs / own for theirs, own in zip(other.seconds, self.seconds, strict=True)])
        fewer = other.macs / self.macs
        return {
            "case": self.name,
            "against": other.name,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "speed_ratio": asdict(speed),
            "mac_ratio": fewer,
            "efficiency": None if self.reference else speed.median / fewer,
        }


@dataclass
class Measurements:
    """All rows, and in words what was left out."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def skip(self, case: str, needed: int, free: int) -> None:
        line = f"{case}: needs {needed / 2**30:.1f} GiB beside the others, {free / 2**30:.1f} are free"
        logger.warning("skipped: %s", line)
        self.skipped.append(line)

    def as_dict(self) -> dict[str, Any]:
        """Returns rows, comparisons and what was skipped, as JSON takes them."""
        pairs = [(row, other) for row in self.rows for other in self.rows if row.is_compared_with(other)]
        return {
            "rows": [row.figures() for row in self.rows],
            "comparisons": [row.compare(other) for row, other in pairs],
            "skipped": self.skipped,
        }


def measure(cases: Sequence[Case], plan: Plan, device: torch.device) -> Measurements:
    """Times cases side by side, at each batch size in turn; what does not fit into memory is skipped.

    Raises:
        InputError: nothing fits; the compiler does not work.
    """
    found = Measurements()
    free = free_memory(device)
    costs: dict[tuple[Case, int], Cost] = {}
    skeletons: dict[Case, nn.Module] = {}  # on the meta device, of what fits into memory beside each other
    for case in cases:
        place = case.at(device).on_meta()
        skeleton = case.build(place)
        costs |= {(case, batch): case.cost(skeleton, batch, place) for batch in plan.batch_sizes}
        needed = weights_of([*skeletons.values(), skeleton])
        needed += min(costs[case, batch].activations for batch in plan.batch_sizes)
        if needed > free:
            found.skip(str(case), needed, free)
        else:
            skeletons[case] = skeleton
    weights = weights_of(skeletons.values())
    modules: dict[Case, nn.Module] = {}
    for case in skeletons:
        logger.info("building %s", case)
        modules[case] = case.build(case.at(device))
    for batch in plan.batch_sizes:
        runs: dict[Case, Run] = {}
        for case, module in modules.items():
            needed = weights + costs[case, batch].activations
            if needed > free:
                found.skip(f"{case}, batch {batch}", needed, free)
            else:
                runs[case] = case.step(module, batch, case.at(device))
        if runs:
            logger.info("batch %d: %s", batch, "; ".join(map(str, runs)))
            found.rows += _rows(runs, costs, modules, batch, plan, device)
    if not found.rows:
        raise InputError(f"nothing fits into the free memory of {free / 2**30:.1f} GiB: fewer or smaller models")
    return found


def _rows(
    runs: dict[Case, Run],
    costs: dict[tuple[Case, int], Cost],
    modules: dict[Case, nn.Module],
    batch: int,
    plan: Plan,
    device: torch.device,
) -> list[Row]:
    """Times the runs of one batch size beside a matmul of each type."""
    memory = {case: _memory(run, modules[case], costs[case, batch], device) for case, run in runs.items()}
    matmuls = {case.dtype: matmul(device, case.dtype) for case in runs}
    seconds = interleave({**matmuls, **runs}, plan.repeats, plan.warm_up, plan.seconds_of(device))
    return [
        Row(
            name=case.name,
            ours=case.ours,
            group=case.group,
            dtype=dtype_name(case.dtype),
            batch_size=batch,
            tokens=case.tokens,
            macs=costs[case, batch].macs / batch,
            memory=memory[case],
            seconds=seconds[case],
            matmul=MATMUL_SIDE[device.type] ** 3 / min(seconds[case.dtype]),
            reference=case.reference,
            cosine=None if case.cosine is None else case.cosine(modules[case]),
        )
        for case in runs
    ]


def _memory(run: Run, module: nn.Module, cost: Cost, device: torch.device) -> int:
    """Weights and the most that is alive beside them: measured on CUDA, elsewhere counted. Compiles, too."""
    weights = weights_of([module])
    if device.type != "cuda":
        _first(run)
        return weights + cost.activations
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _first(run)
    torch.cuda.synchronize(device)
    return weights + torch.cuda.max_memory_allocated(device) - before


def _first(run: Run) -> None:
    """Runs once; a compiler that does not work shows here.

    Raises:
        InputError: it does not.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        run()
    except TorchDynamoException as problem:
        line = str(problem).strip().split("\n", 1)[0]
        raise InputError(f"--compile: torch.compile does not work here: {line}") from problem
