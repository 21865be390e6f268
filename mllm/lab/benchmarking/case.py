"""A benchmark case: how to build it, what one step of it is, what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from encoder.macs import FusedAttention
from mllm.costs.memory import PeakBytes, tensors_of

META = torch.device("meta")
Run = Callable[[], Any]


@dataclass(frozen=True)
class Place:
    """Where and in which type a case computes, and whether compiled."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    def autocast(self) -> AbstractContextManager:
        """Has matmuls run in the place's type while weights stay float32; on the meta device all is float32."""
        if self.dtype == torch.float32 or self.device == META:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def on_meta(self) -> Place:
        """Returns the same place without contents, to count what a step costs."""
        return Place(META, self.dtype)


@dataclass(frozen=True)
class Cost:
    """What one step takes: multiply-accumulates, and the most bytes alive at a time beside the weights."""

    macs: int
    activations: int


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: in the table.
        ours: whether it is this project's, or done as only this project's can; it then is compared with the others of
            its group and type.
        group: what is compared with each other: the same embedding size and the same kind of step.
        tokens: of one image, None for towers that have no such (a CNN).
        build: the module, with random weights.
        step: module, batch size, place -> what is run and timed.
        cost: of one step on the meta device: module there, batch size, place there.
        reference: the case that it is compared with instead of its group's others: the same with float layers.
        cosine: of what it computes to what its reference computes, the least of some images; None without one.
        dtype, compiled: how it computes.
        setting: what tells it from others of its name, behind which it stands; these are one line of a plot.
        image_size: the side of its images in pixels, if that is what is varied.
    """

    name: str
    ours: bool
    group: str
    tokens: int | None
    build: Callable[[Place], nn.Module]
    step: Callable[[nn.Module, int, Place], Run]
    cost: Callable[[nn.Module, int, Place], Cost]
    reference: str | None = None
    cosine: Callable[[nn.Module], float] | None = None
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    setting: str = ""
    image_size: int | None = None

    @property
    def full_name(self) -> str:
        return self.name + self.setting

    def at(self, device: torch.device) -> Place:
        return Place(device, self.dtype, self.compiled)

    def __str__(self) -> str:
        return f"{self.full_name}, {dtype_name(self.dtype)}"


def dtype_name(dtype: torch.dtype) -> str:
    """Returns a type's name as options and reports have it, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def variants(cases: Iterable[Case], dtypes: Sequence[torch.dtype], compiled: bool) -> list[Case]:
    """Lists each case in each type, and with ``compiled`` all once more; one with a reference stays as it is."""
    found = [
        replace(case, dtype=dtype) for case in cases for dtype in (dtypes if case.reference is None else [case.dtype])
    ]
    plain = [case for case in found if case.reference is None and compiled]
    return found + [replace(case, name=f"{case.name}, compiled", compiled=True) for case in plain]


def counted(step: Callable[[nn.Module, int, Place], Run]) -> Callable[[nn.Module, int, Place], Cost]:
    """Makes the cost of a step: counted while it runs on the meta device, its backward pass included."""

    def cost(module: nn.Module, batch: int, place: Place) -> Cost:
        run = step(module, batch, place)
        with FusedAttention(), PeakBytes(tensors_of(module)) as peak, FlopCounterMode(display=False) as counter:
            run()
        return Cost(counter.get_total_flops() // 2, peak.peak)

    return cost


def random_images(
    batch: int, size: int | Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws noise (B, 3, H, W); ``size`` is the side, or height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, device=device, dtype=dtype)


def callable_of(module: nn.Module, place: Place, frozen: bool = False) -> Callable[..., Any]:
    """Returns the module, compiled where that was asked for.

    Args:
        frozen: its weights stay as they are. On a CPU they then are constants, laid out for its matmuls; on a GPU the
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
    """Counts the bytes of parameters and buffers; what modules share counts once."""
    tensors = {id(tensor): tensor for module in modules for tensor in tensors_of(module)}
    return sum(tensor.nbytes for tensor in tensors.values())
