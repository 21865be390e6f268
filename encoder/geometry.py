"""Geometry of regions of interest (RoIs): pure functions, at least in float32.

A RoI is (x1, y1, x2, y2) in image units: (0, 0) is the top left corner of the image, (1, 1) the bottom right one.
Sources: SparseFormer (Gao et al., ICLR 2024), Bootstrapping SparseFormers (Gao et al., CVPR 2024, arXiv 2312.01987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


def geometry_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that geometry runs in: float32, or float64 where the model runs in float64."""
    return torch.promote_types(dtype, torch.float32)


def initial_rois(num_tokens: int) -> Tensor:
    """RoIs that tokens start from: a square grid of boxes of side 0.5, the remaining ones cover the whole image.

    With r = floor(sqrt(num_tokens)), the first r² corners lie at (i, j) / (r - 1) * 0.5, x varying slowest.

    Returns:
        (num_tokens, 4) float32.

    Raises:
        ValueError: if ``num_tokens`` is less than 1.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens={num_tokens}: at least one latent token is needed")
    side = math.isqrt(num_tokens)
    rois = torch.tensor(WHOLE_IMAGE).repeat(num_tokens, 1)
    if side > 1:
        steps = torch.linspace(0.0, 0.5, side)
        corners = torch.cartesian_prod(steps, steps)
        rois[: side * side] = torch.cat([corners, corners + 0.5], dim=-1)
    return rois


def nested_rois(num_tokens: int) -> Tensor:
    """RoIs to start from in an order of which every beginning covers the image evenly, so that a few are a model too.

    First the whole image, then boxes of side 0.5 on a square grid, each as far as possible from all before it: the
    corners, the center, the middles of the sides, and so on.

    Returns:
        (num_tokens, 4) float32.

    Raises:
        ValueError: if ``num_tokens`` is less than 1.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens={num_tokens}: at least one latent token is needed")
    side = max(2, math.isqrt(max(0, num_tokens - 2)) + 1)
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    order, distance = [], torch.full((side * side,), 8 * side * side)
    farthest = 0
    for _ in range(num_tokens - 1):
        order.append(farthest)
        distance = distance.minimum((cells - cells[farthest]).square().sum(dim=-1))
        farthest = int(distance.argmax())
    corners = cells[order] / (2 * (side - 1))
    return torch.cat([torch.tensor([WHOLE_IMAGE]), torch.cat([corners, corners + 0.5], dim=-1)])


def rois_within(box: Sequence[float], num_tokens: int) -> Tensor:
    """`nested_rois` of a part of the image: (num_tokens, 4), the first of which is the part itself.

    Args:
        box: x1, y1, x2, y2 in image units.
    """
    corner, opposite = torch.tensor(box, dtype=torch.float32).view(2, 2)
    rois: Tensor = corner + nested_rois(num_tokens).view(-1, 2, 2) * (opposite - corner)
    return rois.flatten(1)


def grid_offsets(num_points: int) -> Tensor:
    """The learned offset vector's start: a grid over (-0.5, 0.5), cell centers, x varying fastest.

    ``num_points`` need not be a square: the grid has ceil(sqrt(num_points)) columns and its last row may be short.

    Returns:
        (num_points, 2) float32, each row (x, y).
    """
    columns = math.isqrt(num_points - 1) + 1
    rows = -(-num_points // columns)
    index = torch.arange(num_points)
    x = (index % columns + 0.5) / columns - 0.5
    y = (index // columns + 0.5) / rows - 0.5
    return torch.stack([x, y], dim=-1)


def normalize_offsets(offsets: Tensor) -> Tensor:
    """Standardise the offsets over a token's points, x and y apart, so that three deviations span half a RoI.

    ``(o - mean) / (3 * (std + 1e-5))``, std unbiased.

    Args:
        offsets: (..., P, 2).

    Returns:
        (..., P, 2), in units of the RoI's size.
    """
    std, mean = torch.std_mean(offsets, dim=-2, keepdim=True)
    return (offsets - mean) / (3.0 * (std + 1e-5))


def sampling_points(rois: Tensor, offsets: Tensor) -> Tensor:
    """Positions of the sampling points: RoI center + offset * RoI size.

    Args:
        rois: (..., 4).
        offsets: (..., P, 2), as `normalize_offsets` returns them.

    Returns:
        (..., P, 2) in image units.
    """
    top_left, bottom_right = rois[..., None, :2], rois[..., None, 2:]
    return (top_left + bottom_right) / 2 + offsets * (bottom_right - top_left)


def adjust_rois(rois: Tensor, delta: Tensor) -> Tensor:
    """Move RoIs by a fraction of their size and resize them: center += d_xy * size, size *= exp(d_wh).

    Args:
        rois: (..., 4).
        delta: (..., 4), d_x, d_y, d_w, d_h.

    Returns:
        (..., 4).
    """
    top_left, bottom_right = rois[..., :2], rois[..., 2:]
    size = (bottom_right - top_left).abs()
    center = (top_left + bottom_right) / 2 + delta[..., :2] * size
    half = size * delta[..., 2:].exp() / 2
    return torch.cat([center - half, center + half], dim=-1)


def roi_features(rois: Tensor, dim: int, max_frequency: float = 128.0) -> Tensor:
    """Sinusoidal features of RoIs: for each number, ``dim / 4`` angles RoI * π * f with f from 1 to ``max_frequency``.

    A number's features are the sines of its even-indexed angles, then the cosines of the odd-indexed ones; the four
    coordinates' features follow each other in the order x1, y1, x2, y2.

    Args:
        rois: (..., 4).
        dim: width of the result, a multiple of 8.

    Returns:
        (..., dim), in the RoIs' type.
    """
    if dim % 8:
        raise ValueError(f"dim={dim}: RoI features need a multiple of 8")
    exponents = torch.linspace(0.0, math.log(max_frequency), dim // 4, device=rois.device, dtype=rois.dtype)
    angles = rois[..., None] * math.pi * exponents.exp()
    return torch.cat([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


class _ClampGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return positions.view_as(positions)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-ctx.bound, ctx.bound), None


def clamp_gradient(positions: Tensor, bound: float) -> Tensor:
    """The same positions, whose gradient is clamped to ±``bound`` in the backward pass."""
    clamped: Tensor = _ClampGradient.apply(positions, bound)
    return clamped
