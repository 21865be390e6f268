"""From contenders to figures: what fits into memory, rounds, ratios."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from data.errors import InputError
from mllm.lab.benchmarking.contender import Contender, Cost, Place, weights_of
from mllm.lab.benchmarking.machine import free_memory, matrix_product
from mllm.lab.benchmarking.timing import Run, SecondsOf, Spread, cpu_seconds, interleave, wall_seconds

logger = logging.getLogger(__name__)

PRODUCT = "matrix product"


@dataclass(frozen=True)
class Plan:
    """How often, with how many images, by which clock."""

    batch_sizes: tuple[int, ...] = (8,)
    rounds: int = 10
    warm_up: int = 2
    clock: str = "wall"

    def seconds_of(self, device: torch.device) -> SecondsOf:
        return cpu_seconds if self.clock == "cpu" else partial(wall_seconds, device=device)


@dataclass(frozen=True)
class Row:
    """One contender at one batch size.

    Attributes:
        macs: multiply-accumulates of an image.
        memory: bytes at the fullest moment, the weights included.
        seconds: of each round.
        peak: multiply-accumulates a second of the machine's matrix product, in the fastest of the same rounds.
        reference, cosine: as `Contender` has them.
    """

    name: str
    sparse: bool
    group: str
    batch: int
    tokens: int | None
    macs: float
    memory: int
    seconds: list[float]
    peak: float
    reference: str | None = None
    cosine: float | None = None

    @property
    def ms_per_image(self) -> Spread:
        return Spread.of([1e3 * seconds / self.batch for seconds in self.seconds])

    @property
    def images_per_second(self) -> Spread:
        return Spread.of([self.batch / seconds for seconds in self.seconds])

    @property
    def share_of_peak(self) -> float:
        """Of the machine's matrix product, in [0, 1]."""
        return self.macs * self.images_per_second.median / self.peak


@dataclass(frozen=True)
class Comparison:
    """A row against another of the same batch size: a sparse one against a dense one, int8 against float."""

    row: Row
    against: Row

    @property
    def speed(self) -> Spread:
        """How many times faster, round by round: what slowed one of them down slowed both."""
        pairs = zip(self.against.seconds, self.row.seconds, strict=True)
        return Spread.of([other / own for other, own in pairs])

    @property
    def macs(self) -> float:
        """How many times fewer multiply-accumulates."""
        return self.against.macs / self.row.macs

    @property
    def efficiency(self) -> float | None:
        """The share of saved arithmetic that becomes saved time; None of int8 against float, which saves none."""
        return None if self.row.reference is not None else self.speed.median / self.macs


@dataclass
class Measurements:
    """All rows, and in words what was left out."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def skip(self, line: str) -> None:
        logger.warning("skipped: %s", line)
        self.skipped.append(line)

    def comparisons(self) -> list[Comparison]:
        return [
            Comparison(row, other)
            for row in self.rows
            for other in self.rows
            if (row.group, row.batch) == (other.group, other.batch) and _are_compared(row, other)
        ]


def _are_compared(row: Row, other: Row) -> bool:
    if row.reference is not None:
        return other.name == row.reference
    return row.sparse and not other.sparse


def measure(contenders: Sequence[Contender], plan: Plan, place: Place) -> Measurements:
    """Time contenders side by side, at each batch size in turn; what does not fit into memory is skipped.

    Raises:
        InputError: nothing fits; the compiler does not work.
    """
    found = Measurements()
    free = free_memory(place.device)
    costs, skeletons = _fitting(contenders, plan, place, free, found)
    weights = weights_of(skeletons.values())
    modules: dict[str, nn.Module] = {}
    for contender in contenders:
        if contender.name in skeletons:
            logger.info("building %s", contender.name)
            modules[contender.name] = contender.build(place)
    for batch in plan.batch_sizes:
        runs: dict[str, Run] = {}
        for contender in contenders:
            name = contender.name
            if name not in modules:
                continue
            needed = weights + costs[name, batch].activations
            if needed > free:
                found.skip(f"{name}, batch {batch}: {_too_large(needed, free)}")
            else:
                runs[name] = contender.step(modules[name], batch, place)
        if runs:
            logger.info("batch %d: %s", batch, ", ".join(runs))
            found.rows += _rows([c for c in contenders if c.name in runs], runs, costs, modules, batch, plan, place)
    if not found.rows:
        raise InputError(f"nothing fits into the free memory of {free / 2**30:.1f} GiB: fewer or smaller models")
    return found


def _fitting(
    contenders: Iterable[Contender], plan: Plan, place: Place, free: int, found: Measurements
) -> tuple[dict[tuple[str, int], Cost], dict[str, nn.Module]]:
    """What each step costs, and the contenders, on the meta device, that fit into memory beside each other."""
    costs: dict[tuple[str, int], Cost] = {}
    skeletons: dict[str, nn.Module] = {}
    for contender in contenders:
        skeleton = contender.build(place.on_meta())
        for batch in plan.batch_sizes:
            costs[contender.name, batch] = contender.cost(skeleton, batch, place.on_meta())
        needed = weights_of([*skeletons.values(), skeleton])
        needed += min(costs[contender.name, batch].activations for batch in plan.batch_sizes)
        if needed > free:
            found.skip(f"{contender.name}: {_too_large(needed, free)}")
        else:
            skeletons[contender.name] = skeleton
    return costs, skeletons


def _too_large(needed: int, free: int) -> str:
    return f"needs {needed / 2**30:.1f} GiB beside the others, {free / 2**30:.1f} are free"


def _rows(
    contenders: Sequence[Contender],
    runs: dict[str, Run],
    costs: dict[tuple[str, int], Cost],
    modules: dict[str, nn.Module],
    batch: int,
    plan: Plan,
    place: Place,
) -> list[Row]:
    """Time the runs of one batch size."""
    memory = {name: _memory(runs[name], modules[name], costs[name, batch], place) for name in runs}
    product, macs = matrix_product(place)
    seconds = interleave({PRODUCT: product, **runs}, plan.rounds, plan.warm_up, plan.seconds_of(place.device))
    peak = macs / min(seconds[PRODUCT])
    return [
        Row(
            name=contender.name,
            sparse=contender.sparse,
            group=contender.group,
            batch=batch,
            tokens=contender.tokens,
            macs=costs[contender.name, batch].macs / batch,
            memory=memory[contender.name],
            seconds=seconds[contender.name],
            peak=peak,
            reference=contender.reference,
            cosine=None if contender.cosine is None else contender.cosine(modules[contender.name]),
        )
        for contender in contenders
    ]


def _memory(run: Run, module: nn.Module, cost: Cost, place: Place) -> int:
    """Weights and the most that is alive beside them: measured on CUDA, elsewhere counted. Compiles, too."""
    weights = weights_of([module])
    if place.device.type != "cuda":
        _first(run)
        return weights + cost.activations
    torch.cuda.synchronize(place.device)
    before = torch.cuda.memory_allocated(place.device)
    torch.cuda.reset_peak_memory_stats(place.device)
    _first(run)
    torch.cuda.synchronize(place.device)
    return weights + torch.cuda.max_memory_allocated(place.device) - before


def _first(run: Run) -> None:
    """Run once; a compiler that does not work shows here.

    Raises:
        InputError: it does not.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        run()
    except TorchDynamoException as problem:
        line = str(problem).strip().split("\n", 1)[0]
        raise InputError(f"--compile: torch.compile does not work here: {line}") from problem
