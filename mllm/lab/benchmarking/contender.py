"""What is timed: how to build it, what one step of it is, what that costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from encoder.macs import FusedAttention
from encoder.packing import PackedLinear, pack
from mllm.costs.memory import PeakBytes, tensors_of
from mllm.lab.benchmarking.timing import Run

META = torch.device("meta")


@dataclass(frozen=True)
class Place:
    """Where and in which type a contender computes."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    def autocast(self) -> AbstractContextManager:
        """For training: weights stay float32, products run in the place's type; on meta all is float32."""
        if self.dtype == torch.float32 or self.device == META:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def on_meta(self) -> Place:
        """The same without contents, to count what a step costs."""
        return Place(META, self.dtype)


@dataclass(frozen=True)
class Cost:
    """Of one step: multiply-accumulates, and the most bytes alive at a time beside the weights."""

    macs: int
    activations: int


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: in the table.
        sparse: ours; each is compared with the dense ones of its group.
        group: what is compared with each other: the same embedding size and the same kind of step.
        tokens: of one image, None for towers that have no such (a CNN).
        build: the module, with random weights.
        step: module, batch size, place -> what is run and timed.
        cost: of one step on the meta device: module there, batch size, place there.
        reference: the contender that it is compared with instead of its group's dense ones: the same in another type.
        cosine: of what it computes to what its reference computes, the least of some images; None without one.
    """

    name: str
    sparse: bool
    group: str
    tokens: int | None
    build: Callable[[Place], nn.Module]
    step: Callable[[nn.Module, int, Place], Run]
    cost: Callable[[nn.Module, int, Place], Cost]
    reference: str | None = None
    cosine: Callable[[nn.Module], float] | None = None


def counted(step: Callable[[nn.Module, int, Place], Run]) -> Callable[[nn.Module, int, Place], Cost]:
    """The cost of a step, counted while it runs on the meta device, its way back included."""

    def cost(module: nn.Module, batch: int, place: Place) -> Cost:
        run = step(module, batch, place)
        with FusedAttention(), PeakBytes(tensors_of(module)) as peak, FlopCounterMode(display=False) as counter:
            run()
        return Cost(counter.get_total_flops() // 2, peak.peak)

    return cost


def random_images(batch: int, size: int | tuple[int, int], place: Place, dtype: torch.dtype | None = None) -> Tensor:
    """(B, 3, H, W) noise."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, device=place.device, dtype=dtype or place.dtype)


def compiled(contender: Contender) -> Contender:
    """The same with torch.compile."""

    def step(module: nn.Module, batch: int, place: Place) -> Run:
        return contender.step(module, batch, replace(place, compiled=True))

    return replace(contender, name=f"{contender.name}, compiled", step=step)


def packed(contender: Contender) -> Contender:
    """The same with its weights packed for the shapes of its steps, on a CPU in float32."""

    def build(place: Place) -> nn.Module:
        module = contender.build(place)
        # Packing replaces layers, also those of a language model that another contender has too; the weights stay one.
        module = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors_of(module)})
        if place.device == META:  # what is packed needs room too
            layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
            size = sum(layer.weight.numel() for layer in layers)
            module.register_buffer("packed", torch.empty(size, device=META))
        return module

    def step(module: nn.Module, batch: int, place: Place) -> Run:
        run = contender.step(module, batch, place)
        if place.device != META:
            pack(module, run)
        return run

    return replace(contender, name=f"{contender.name}, packed", build=build, step=step)


def callable_of(module: nn.Module, place: Place, frozen: bool = False) -> Callable[..., Any]:
    """The module, compiled where that was asked for.

    Args:
        frozen: its weights stay as they are. On a CPU they then are constants, laid out for its products; on a GPU the
            whole is one CUDA graph, which leaves out what each kernel's launch costs.
    """
    if not place.compiled:
        return module
    if not frozen:
        return torch.compile(module)
    if place.device.type == "cuda":
        return torch.compile(module, mode="reduce-overhead", dynamic=False)
    return torch.compile(module, options={"freezing": True}, dynamic=False)


def weights_of(modules: Iterable[nn.Module]) -> int:
    """Bytes of parameters, buffers and packed weights; what modules share counts once."""
    modules = list(modules)
    tensors = {id(tensor): tensor for module in modules for tensor in tensors_of(module)}
    layers = {layer for module in modules for layer in module.modules() if isinstance(layer, PackedLinear)}
    return sum(tensor.nbytes for tensor in tensors.values()) + sum(layer.weight.nbytes for layer in layers)
