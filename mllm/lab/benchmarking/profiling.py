"""Where a SparseFormer's time goes: each part's share of the time beside its share of the arithmetic.

A share of time far above the share of arithmetic is what the memory, or the call itself, costs. Shares hold on a busy
machine too, roughly; milliseconds would not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from encoder import SparseFormerConfig, SparseFormerVisionModel
from encoder.macs import FusedAttention
from encoder.units import Unit
from mllm.lab.benchmarking.contender import META, Place, random_images
from mllm.lab.benchmarking.encoders import Sparse
from mllm.lab.benchmarking.report import Section, Sheet, machine_line

REST = "rest"
MARK = "part: "
LEAST = 0.005  # of the time: an operation of less is not listed


def parts_of(model: SparseFormerVisionModel) -> dict[nn.Module, str]:
    """The modules whose calls are told apart, with their parts' names; what one of them holds may be another part."""
    parts: dict[nn.Module, str] = {model.early_convolution: "early convolution"}
    cortex = set(model.cortex)
    for layer in model.layers:
        if not isinstance(layer, Unit):
            parts[layer] = "transition"
            continue
        where = "cortex" if layer in cortex else "focusing"
        for operation in layer.ops:
            parts[getattr(layer, operation)] = f"{where}: {operation}"
        if "sample" in layer.ops:
            mixing = layer.sample.mixing
            parts |= {mixing.reduce: f"{where}: mixing weights", mixing.expand: f"{where}: mixing weights"}
            parts[mixing.out] = f"{where}: after mixing"
    return parts | {module: "head" for module in model.head.values()}


@contextmanager
def watched(parts: Mapping[nn.Module, str], enter: Callable[[str], Any], leave: Callable[[], Any]) -> Iterator[None]:
    """Call ``enter`` with a part's name before, and ``leave`` behind, each call of one of its modules."""
    handles = []
    for module, name in parts.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
        handles.append(module.register_forward_hook(lambda *_: leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def macs_of_parts(config: SparseFormerConfig, batch: int) -> Counter[str]:
    """Multiply-accumulates of a forward pass, by part."""
    with META:
        module = Sparse(config).eval().requires_grad_(False)
    macs: Counter[str] = Counter()
    inside, seen = [REST], 0

    with torch.no_grad(), FusedAttention(), FlopCounterMode(display=False) as counter:

        def book() -> None:
            nonlocal seen
            total = counter.get_total_flops() // 2
            macs[inside[-1]] += total - seen
            seen = total

        def enter(name: str) -> None:
            book()
            inside.append(name)

        def leave() -> None:
            book()
            inside.pop()

        with watched(parts_of(module.model), enter, leave):
            module(random_images(batch, config.image_size, Place(META)))  # type: ignore[arg-type]
        book()
    return macs


def time_of_operations(module: Sparse, batch: int, place: Place, rounds: int, warm_up: int) -> Counter[tuple[str, str]]:
    """Seconds on the CPU of ``rounds`` forward passes, by part and operation; "python" is what runs between these."""
    images = random_images(batch, module.model.config.image_size, place)
    ranges: list[record_function] = []

    def enter(name: str) -> None:
        ranges.append(record_function(MARK + name))
        ranges[-1].__enter__()

    def leave() -> None:
        ranges.pop().__exit__(None, None, None)

    with torch.no_grad():
        for _ in range(warm_up):
            module(images)
        with watched(parts_of(module.model), enter, leave), profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(rounds):
                enter(REST)
                module(images)
                leave()
    seconds: Counter[tuple[str, str]] = Counter()
    for event in profiler.events() or []:
        part = event
        while part is not None and not part.name.startswith(MARK):
            part = part.cpu_parent
        if part is not None:
            operation = "python" if event is part else event.name
            seconds[part.name.removeprefix(MARK), operation] += event.self_cpu_time_total / 1e6
    return seconds


def shares(name: str, config: SparseFormerConfig, batch: int, place: Place, rounds: int, warm_up: int) -> dict:
    """Shares of arithmetic and time, in [0, 1], of the parts and of the operations in them, largest time first."""
    module = Sparse(config).to(place.dtype).eval().requires_grad_(False)
    macs = macs_of_parts(config, batch)
    seconds = time_of_operations(module, batch, place, rounds, warm_up)
    total, all_macs = sum(seconds.values()), sum(macs.values())
    by_part: Counter[str] = Counter()
    for (part, _), value in seconds.items():
        by_part[part] += value
    return {
        "model": name,
        "batch_size": batch,
        "parts": [
            {"part": part, "arithmetic": macs[part] / all_macs, "time": value / total}
            for part, value in by_part.most_common()
        ],
        "operations": [
            {"part": part, "operation": operation, "time": value / total}
            for (part, operation), value in seconds.most_common()
            if value / total >= LEAST
        ],
    }


def section(report: dict[str, Any]) -> Section:
    """A profile as it is read; "cost" is the share of time over that of arithmetic."""
    settings = report["settings"]
    parts: list[tuple[str, ...]] = [
        (
            each["part"],
            f"{each['time']:.1%}",
            f"{each['arithmetic']:.1%}",
            f"{each['time'] / each['arithmetic']:.2f}" if each["arithmetic"] else "-",
        )
        for each in report["parts"]
    ]
    operations: list[tuple[str, ...]] = [
        (each["part"], each["operation"], f"{each['time']:.1%}") for each in report["operations"]
    ]
    about = (
        f"{machine_line(report['machine'])} {report['model']}, batch {report['batch_size']}, {settings['dtype']}, "
        f"{settings['rounds']} rounds under torch.profiler: shares of the CPU's time and of the multiply-accumulates."
    )
    sheets = [
        Sheet(1, ("part", "time", "arithmetic", "cost"), parts),
        Sheet(2, ("part", "operation", "time"), operations),
    ]
    return Section("mllm bench encoder --profile", about, sheets, [])
