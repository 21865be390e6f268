"""From benchmark cases to figures: the machine, what fits into its memory, interleaved repeats, ratios."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
    """Times a run until all that it sent to the device is done."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
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


def row(
    case: Case, batch: int, macs: float, memory: int, seconds: list[float], matmul: float, cosine: float | None = None
) -> dict[str, Any]:
    """Tells what a case takes at one batch size, as JSON has it.

    Args:
        macs: multiply-accumulates of an image.
        memory: bytes at the fullest moment, the weights included.
        seconds: of each repeat.
        matmul: multiply-accumulates a second of the machine's matmul in the case's type, in the fastest of the same
            repeats; int8 may make more than all of it, since that is float32's.
    """
    speed = Spread.of([batch / each for each in seconds])
    return {
        "name": case.full_name,
        "line": case.name,
        **{name: getattr(case, name) for name in ("ours", "group", "tokens", "image_size", "reference")},
        "dtype": dtype_name(case.dtype),
        "batch_size": batch,
        "macs": macs,
        "memory": memory,
        "ms_per_image": asdict(Spread.of([1e3 * each / batch for each in seconds])),
        "images_per_second": asdict(speed),
        "matmul": matmul,
        "fraction_of_matmul": macs * speed.median / matmul,
        "cosine": cosine,
        "seconds": seconds,
    }


def comparisons(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares each row of ours with the others' of its group, type and batch size, int8 with float32."""

    def alike(row: dict[str, Any], other: dict[str, Any]) -> bool:
        if any(row[name] != other[name] for name in ("group", "dtype", "batch_size")):
            return False
        return other["name"] == row["reference"] if row["reference"] else row["ours"] and not other["ours"]

    return [_compare(row, other) for row in rows for other in rows if alike(row, other)]


def _compare(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Tells how many times faster a row is, repeat by repeat: what slowed one of them down slowed both.

    ``efficiency`` is the fraction of saved arithmetic that becomes saved time; int8 saves none.
    """
    speed = Spread.of([theirs / own for theirs, own in zip(other["seconds"], row["seconds"], strict=True)])
    fewer = other["macs"] / row["macs"]
    return {
        "case": row["name"],
        "against": other["name"],
        "dtype": row["dtype"],
        "batch_size": row["batch_size"],
        "speed_ratio": asdict(speed),
        "mac_ratio": fewer,
        "efficiency": None if row["reference"] else speed.median / fewer,
    }


def measure(cases: Sequence[Case], plan: Plan, device: torch.device) -> tuple[list[dict[str, Any]], list[str]]:
    """Times cases side by side, at each batch size in turn, beside a matmul of each type.

    Returns:
        a `row` for each, and in words what does not fit into memory.

    Raises:
        InputError: nothing fits; the compiler does not work.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    free = free_memory(device)

    def fits(what: str, needed: int) -> bool:
        if needed > free:
            skipped.append(f"{what}: needs {needed / 2**30:.1f} GiB beside the others, {free / 2**30:.1f} are free")
            logger.warning("skipped: %s", skipped[-1])
        return needed <= free

    costs: dict[tuple[Case, int], Cost] = {}
    skeletons: dict[Case, nn.Module] = {}  # on the meta device, of what fits into memory beside each other
    for case in cases:
        place = case.at(device).on_meta()
        skeleton = case.build(place)
        costs |= {(case, batch): case.cost(skeleton, batch, place) for batch in plan.batch_sizes}
        least = min(costs[case, batch].activations for batch in plan.batch_sizes)
        if fits(str(case), weights_of([*skeletons.values(), skeleton]) + least):
            skeletons[case] = skeleton
    weights = weights_of(skeletons.values())
    modules: dict[Case, nn.Module] = {}
    for case in skeletons:
        logger.info("building %s", case)
        modules[case] = case.build(case.at(device))
    for batch in plan.batch_sizes:
        runs: dict[Case, Run] = {
            case: case.step(module, batch, case.at(device))
            for case, module in modules.items()
            if fits(f"{case}, batch {batch}", weights + costs[case, batch].activations)
        }
        logger.info("batch %d: %s", batch, "; ".join(map(str, runs)))
        memory = {case: _memory(run, modules[case], costs[case, batch], device) for case, run in runs.items()}
        matmuls = {case.dtype: matmul(device, case.dtype) for case in runs}
        seconds = interleave({**matmuls, **runs}, plan.repeats, plan.warm_up, plan.seconds_of(device))
        for case in runs:
            peak = MATMUL_SIDE[device.type] ** 3 / min(seconds[case.dtype])
            cosine = None if case.cosine is None else case.cosine(modules[case])
            rows.append(row(case, batch, costs[case, batch].macs / batch, memory[case], seconds[case], peak, cosine))
    if not rows:
        raise InputError(f"nothing fits into the free memory of {free / 2**30:.1f} GiB: fewer or smaller models")
    return rows, skipped


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
