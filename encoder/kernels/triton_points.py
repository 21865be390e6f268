"""A token's points, for the Triton kernels: their positions, what the feature map holds there, and the gradients."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def locate(offsets, low, high, P: tl.constexpr, POINTS: tl.constexpr):
    """One coordinate of a token's points: position, the offsets' deviation from their mean, and their deviation's size.

    ``offsets`` points to the first point's coordinate; the RoI reaches from ``low`` to ``high``.
    """
    point = tl.arange(0, POINTS)
    raw = tl.load(offsets + 2 * point, mask=point < P, other=0.0)
    deviation = tl.where(point < P, raw - tl.sum(raw, axis=0) / P, 0.0)
    std = tl.sqrt_rn(tl.sum(deviation * deviation, axis=0) / (P - 1))
    return (low + high) / 2 + deviation / (3.0 * (std + 1e-5)) * (high - low), deviation, std


@triton.jit
def locate_backward(d_position, deviation, std, low, high, P: tl.constexpr):
    """The gradient of `locate`'s positions -> those of the raw offsets (POINTS,), of ``low`` and of ``high``."""
    scale = 3.0 * (std + 1e-5)
    d_normalized = d_position * (high - low) / scale
    # As in torch, the standard deviation of offsets that are all alike passes nothing on.
    spread = tl.sum(d_normalized * deviation, axis=0) / ((std + 1e-5) * (P - 1) * tl.where(std == 0.0, 1.0, std))
    d_raw = d_normalized - tl.sum(d_normalized, axis=0) / P - tl.where(std == 0.0, 0.0, spread) * deviation
    d_center = tl.sum(d_position, axis=0)
    d_size = tl.sum(d_position * deviation, axis=0) / scale
    return d_raw, d_center / 2 - d_size, d_center / 2 + d_size


@triton.jit
def pixels(position, length, P: tl.constexpr, POINTS: tl.constexpr, BORDER: tl.constexpr):
    """Image coordinate -> the pixels around it (-1: not read), their weights, and how many pixels a unit is.

    Comparisons come before the conversion to an integer: no position, infinite or no number, is read outside the map.
    """
    valid = tl.arange(0, POINTS) < P
    pixel = position * length - 0.5
    slope = tl.where(valid, 1.0, 0.0) * length
    if BORDER:
        slope = tl.where((pixel > 0.0) & (pixel < length - 1.0), slope, 0.0)
        pixel = tl.minimum(tl.maximum(pixel, 0.0), length - 1.0)
    low = tl.floor(pixel)
    low_in = valid & (low >= 0.0) & (low <= length - 1.0)
    high_in = valid & (low >= -1.0) & (low <= length - 2.0)
    below = tl.where(low_in, low, -1.0).to(tl.int32)
    above = tl.where(high_in, low + 1.0, -1.0).to(tl.int32)
    return below, above, tl.where(low_in, low + 1.0 - pixel, 0.0), tl.where(high_in, pixel - low, 0.0), slope


@triton.jit
def corner_at(row, column, width):
    """Which pixel of the map a row and a column meet in; -1 where one of them is not read."""
    return tl.where((row >= 0) & (column >= 0), row * width + column, -1)


@triton.jit
def read(features, corner, channel, C: tl.constexpr):
    """(POINTS, CHUNK) float32, some channels of one corner of each point; 0 where it is not read."""
    mask = (corner >= 0)[:, None] & (channel < C)[None, :]
    return tl.load(features + corner[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def scatter(d_features, corner, fraction, d_sample, channel, C: tl.constexpr):
    """Add to the map's gradient what the points' samples (POINTS, CHUNK) pass on to one corner of each."""
    mask = (corner >= 0)[:, None] & (channel < C)[None, :]
    tl.atomic_add(
        d_features + corner[:, None] * C + channel[None, :], fraction[:, None] * d_sample, mask=mask, sem="relaxed"
    )
