"""Where the Triton kernels run, and what keeps them from it."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

INSTALLED = importlib.util.find_spec("triton") is not None
# Triton's interpreter runs the kernels on a CPU; the variable counts only if it is set before triton is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# float32 values that a program's larger matmul may hold: 64 points by 256 channels. More spill from the registers.
LARGEST_MATMUL = 16384


def padded(size: int) -> int:
    """The block that holds ``size`` rows or columns of a matmul: a power of two, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def unsupported_reason(rois: Tensor, points: int, channels: int, out_points: int) -> str | None:
    """Why the kernels cannot run on these RoIs' device, type and sizes; None if they can."""
    if not INSTALLED:
        return "Triton is not installed"
    if rois.device.type != "cuda" and not INTERPRETED:
        return f"the model is on {rois.device.type}, and the kernels need a GPU"
    if rois.dtype != torch.float32:
        return f"the geometry runs in {str(rois.dtype).removeprefix('torch.')}, and the kernels' in float32"
    if max(padded(points), padded(out_points)) * padded(channels) > LARGEST_MATMUL:
        return f"{points} points of {channels} channels are more than a program's registers hold"
    return None
