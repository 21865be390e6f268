"""Where a SparseFormer's time goes: each part's fraction of the time beside its fraction of the arithmetic.

Time far above arithmetic is what the memory, or the call itself, costs. Fractions hold on a busy machine too, roughly;
milliseconds would not.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from encoder import SparseFormerConfig, SparseFormerVisionModel
from encoder.macs import FusedAttention
from encoder.units import Unit
from mllm.lab.benchmarking.case import META, dtype_name, random_images
from mllm.lab.benchmarking.encoders import Sparse

REST = "rest"
MARK = "part: "
LEAST = 0.005  # of the time: an operation of less is not listed


def profiled_parts(model: SparseFormerVisionModel) -> dict[nn.Module, str]:
    """Names the parts that are told apart, by their modules; what one of them holds may be another part."""
    parts: dict[nn.Module, str] = {model.stem: "early convolution"}
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


def macs_of_parts(config: SparseFormerConfig, batch: int) -> Counter[str]:
    """Counts the multiply-accumulates of a forward pass, by part."""
    with META:
        module = Sparse(config).eval().requires_grad_(False)
    with torch.no_grad(), FusedAttention(), FlopCounterMode(display=False) as counter:
        module(random_images(batch, config.image_size, META))
    counts = {name: sum(by_operator.values()) // 2 for name, by_operator in counter.get_flop_counts().items()}
    parts = profiled_parts(module.model)
    names = {name: parts[part] for name, part in module.named_modules(prefix="Sparse") if part in parts}
    macs = Counter({REST: counts["Sparse"]})
    for name, part in names.items():
        around = name.rpartition(".")[0]
        while around and around not in names:
            around = around.rpartition(".")[0]
        macs[part] += counts.get(name, 0)
        macs[names.get(around, REST)] -= counts.get(name, 0)
    return macs


def time_of_operations(module: Sparse, batch: int, repeats: int, warm_up: int) -> Counter[tuple[str, str]]:
    """Times ``repeats`` forward passes on the CPU, in seconds by part and operation; "python" runs between these."""
    images = random_images(batch, module.model.config.image_size, module.model.device, module.model.dtype)
    ranges: list[record_function] = []

    def enter(name: str) -> None:
        ranges.append(record_function(MARK + name))
        ranges[-1].__enter__()

    def leave() -> None:
        ranges.pop().__exit__(None, None, None)

    with torch.no_grad(), ExitStack() as hooks:
        for _ in range(warm_up):
            module(images)
        for part, name in profiled_parts(module.model).items():
            hooks.callback(part.register_forward_pre_hook(lambda *_, name=name: enter(name)).remove)
            hooks.callback(part.register_forward_hook(lambda *_: leave()).remove)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(repeats):
                enter(REST)
                module(images)
                leave()
    seconds: Counter[tuple[str, str]] = Counter()
    for event in profiler.events() or []:
        around = event
        while around is not None and not around.name.startswith(MARK):
            around = around.cpu_parent
        if around is not None:
            operation = "python" if event is around else event.name
            seconds[around.name.removeprefix(MARK), operation] += event.self_cpu_time_total / 1e6
    return seconds


def fractions(
    name: str, config: SparseFormerConfig, batch: int, dtype: torch.dtype, repeats: int, warm_up: int
) -> dict[str, Any]:
    """Tells what fractions of arithmetic and time the parts, and the operations in them, take; largest time first."""
    module = Sparse(config).to(dtype).eval().requires_grad_(False)
    macs = macs_of_parts(config, batch)
    seconds = time_of_operations(module, batch, repeats, warm_up)
    total, all_macs = sum(seconds.values()), sum(macs.values())
    by_part: Counter[str] = Counter()
    for (part, _), value in seconds.items():
        by_part[part] += value
    return {
        "model": name,
        "batch_size": batch,
        "dtype": dtype_name(dtype),
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
