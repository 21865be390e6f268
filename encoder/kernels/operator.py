"""The Triton kernels as operators of torch, with gradients: torch.compile traces them without a graph break."""

from __future__ import annotations

import torch
from torch import Tensor

from encoder.kernels.device import INTERPRETED, padded

SCHEMA = (
    "(Tensor features, Tensor rois, Tensor offsets, Tensor weights, Tensor? channel_bias, Tensor? point_bias, "
    "bool border, float? bound) -> (Tensor, Tensor)"
)
BACKWARD_SCHEMA = (
    "(Tensor d_mixed, Tensor d_positions, Tensor features, Tensor rois, Tensor offsets, Tensor weights, "
    "Tensor? channel_bias, Tensor? point_bias, bool border, float? bound) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def sizes(features: Tensor, offsets: Tensor, weights: Tensor) -> tuple[int, int, int]:
    """Points P, channels C and mixed points P' of features (B, H, W, C), offsets (B, N, P, 2), weights (B, N, ...)."""
    points, channels = offsets.shape[2], features.shape[3]
    return points, channels, (weights.shape[2] - channels**2) // points


def launch(points: int, channels: int, out_points: int) -> dict[str, int | bool]:
    """Block sizes and warps of both kernels.

    A warp for each 512 values of the larger matmul, 8 at most: 2 for the bootstrapped models (16 points, 64 channels,
    32 mixed points in blocks of the same size: 2,048 values make 4), 8 for v1 (36, 96, 36 in 64, 128, 64).
    """
    blocks = {"POINTS": padded(points), "CHANNELS": padded(channels), "OUT_POINTS": padded(out_points)}
    values = max(blocks["POINTS"], blocks["OUT_POINTS"]) * blocks["CHANNELS"]
    # Channels read at a time: 64 and 96 are multiples of 32; a matmul needs 16.
    chunk = min(32, blocks["CHANNELS"])
    warps = max(1, min(8, values // 512))
    # One stage: two or three rounds leave nothing to fetch ahead, and shared memory is what limits the programs.
    return blocks | {"CHUNK": chunk, "UPCAST": INTERPRETED, "num_warps": warps, "num_stages": 1}


@torch.library.custom_op("sparseformer::sample_and_mix", mutates_args=(), schema=SCHEMA)
def forward(features, rois, offsets, weights, channel_bias, point_bias, border, bound):
    """As `encoder.kernels.sample_and_mix`, of contiguous tensors and features (B, H, W, C)."""
    from encoder.kernels.triton_sampling import forward_kernel

    (points, channels, out_points), (batch, tokens) = sizes(features, offsets, weights), rois.shape[:2]
    mixed = weights.new_empty(batch, tokens, out_points, channels)
    positions = torch.empty_like(offsets)
    if batch * tokens:
        with torch.cuda.device_of(features):
            forward_kernel[(batch * tokens,)](
                *(features, rois, offsets, weights, channel_bias, point_bias, mixed, positions),
                *(features.shape[1], features.shape[2], tokens),
                P=points,
                C=channels,
                Q=out_points,
                BORDER=border,
                BIAS=channel_bias is not None,
                **launch(points, channels, out_points),
            )
    return mixed, positions


@forward.register_fake
def _(features, rois, offsets, weights, channel_bias, point_bias, border, bound):
    _, channels, out_points = sizes(features, offsets, weights)
    return weights.new_empty(*rois.shape[:2], out_points, channels), torch.empty_like(offsets)


@torch.library.custom_op("sparseformer::sample_and_mix_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def backward(d_mixed, d_positions, features, rois, offsets, weights, channel_bias, point_bias, border, bound):
    """Gradients of features (float32), RoIs, offsets, weights, and of the biases, zeros where there are none."""
    from encoder.kernels.triton_sampling import backward_kernel

    (points, channels, out_points), (batch, tokens) = sizes(features, offsets, weights), rois.shape[:2]
    d_features = torch.zeros_like(features, dtype=torch.float32)
    d_rois, d_offsets, d_weights = torch.empty_like(rois), torch.empty_like(offsets), torch.empty_like(weights)
    rows = 0 if channel_bias is None else batch * tokens
    d_channel_bias, d_point_bias = rois.new_empty(rows, channels), rois.new_empty(rows, out_points)
    if batch * tokens:
        with torch.cuda.device_of(features):
            backward_kernel[(batch * tokens,)](
                *(d_mixed, d_positions, features, rois, offsets, weights, channel_bias, point_bias),
                *(d_features, d_rois, d_offsets, d_weights, d_channel_bias, d_point_bias),
                *(features.shape[1], features.shape[2], tokens, 0.0 if bound is None else bound),
                P=points,
                C=channels,
                Q=out_points,
                BORDER=border,
                BIAS=channel_bias is not None,
                CLAMP=bound is not None,
                **launch(points, channels, out_points),
            )
    return d_features, d_rois, d_offsets, d_weights, d_channel_bias.sum(0), d_point_bias.sum(0)


@backward.register_fake
def _(d_mixed, d_positions, features, rois, offsets, weights, channel_bias, point_bias, border, bound):
    _, channels, out_points = sizes(features, offsets, weights)
    return (
        torch.empty_like(features, dtype=torch.float32),
        torch.empty_like(rois),
        torch.empty_like(offsets),
        torch.empty_like(weights),
        rois.new_empty(channels),
        rois.new_empty(out_points),
    )


def _setup(ctx, inputs, output):
    *tensors, ctx.border, ctx.bound = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, d_mixed: Tensor | None, d_positions: Tensor | None):
    features, rois, offsets, weights, channel_bias, point_bias = ctx.saved_tensors
    if d_mixed is None:
        _, channels, out_points = sizes(features, offsets, weights)
        d_mixed = weights.new_zeros(*rois.shape[:2], out_points, channels)
    if d_positions is None:
        d_positions = torch.zeros_like(offsets)
    inputs = (features, rois, offsets, weights, channel_bias, point_bias)
    found = backward(d_mixed.contiguous(), d_positions.contiguous(), *inputs, ctx.border, ctx.bound)
    gradients = [None if x is None else d.to(x.dtype) for x, d in zip(inputs, found, strict=True)]
    return *gradients, None, None


forward.register_autograd(_gradients, setup_context=_setup)
