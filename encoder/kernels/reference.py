"""Sampling and adaptive mixing in PyTorch: what the kernels are tested against, and what runs wherever they do not."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from encoder import geometry


def sample_and_mix(
    features: Tensor,
    rois: Tensor,
    offsets: Tensor,
    weights: Tensor,
    channel_bias: Tensor | None,
    point_bias: Tensor | None,
    padding: str,
    gradient_bound: float | None,
) -> tuple[Tensor, Tensor]:
    """As `encoder.kernels.sample_and_mix`, on any device and in any type."""
    channels, points = features.shape[1], offsets.shape[2]
    positions = geometry.sampling_points(rois, geometry.normalize_offsets(offsets))
    read_at = positions if gradient_bound is None else geometry.clamp_gradient(positions, gradient_bound)
    read_at = read_at.nan_to_num()  # on a CPU the gradient of a point that is NaN is written outside of the features
    sample = F.grid_sample(
        features.to(rois.dtype), read_at * 2 - 1, mode="bilinear", padding_mode=padding, align_corners=False
    ).permute(0, 2, 3, 1)
    by_channel, by_point = weights.flatten(0, 1).split([channels**2, weights.shape[-1] - channels**2], dim=-1)
    mixed = sample.flatten(0, 1).to(weights.dtype) @ by_channel.view(-1, channels, channels)
    if channel_bias is not None:
        mixed = F.gelu(mixed + channel_bias.to(mixed.dtype))
    mixed = by_point.unflatten(-1, (-1, points)) @ mixed
    if point_bias is not None:
        mixed = mixed + point_bias.to(mixed.dtype)[:, None]
    return F.gelu(mixed).unflatten(0, weights.shape[:2]), positions
