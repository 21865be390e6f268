"""The Triton kernels of `encoder.kernels`: a program per token, which is sampled and mixed without leaving the chip.

A program normalizes its P offsets, locates them in the RoI, reads the feature map there some channels at a time and
multiplies what it read into the channel matmul at once, so that neither the sample (P, C) nor what is between the
two mixings is written. The backward program computes both again, and adds to the feature map's gradient atomically.
Geometry, interpolation, sums and activations are float32; a matmul's operands have the type of the mixing weights.

Imported only when a kernel runs: Triton is optional.
"""

from __future__ import annotations

import triton
import triton.language as tl

from encoder.kernels.triton_points import corner_at, locate, locate_backward, pixels, read, scatter


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def _dot(a, b, total, UPCAST: tl.constexpr):
    # The interpreter keeps bfloat16 as its bits and multiplies those; in float32 the products are the same values.
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _mix(
    features,
    weights,
    channel_bias,
    point_bias,
    top_left,
    top_right,
    bottom_left,
    bottom_right,
    top_share,
    bottom_share,
    left_share,
    right_share,
    P: tl.constexpr,
    C: tl.constexpr,
    Q: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_POINTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Read the corners and mix.

    Returns the channel matmul (POINTS, CHANNELS) before its activation and behind it, the point matrix
    (OUT_POINTS, POINTS), and the point matmul (OUT_POINTS, CHANNELS) before its activation.
    """
    point, out_point, out_channel = tl.arange(0, POINTS), tl.arange(0, OUT_POINTS), tl.arange(0, CHANNELS)
    by_channel = tl.zeros((POINTS, CHANNELS), dtype=tl.float32)
    for start in range(0, C, CHUNK):
        channel = start + tl.arange(0, CHUNK)
        sample = (top_share * left_share)[:, None] * read(features, top_left, channel, C)
        sample += (top_share * right_share)[:, None] * read(features, top_right, channel, C)
        sample += (bottom_share * left_share)[:, None] * read(features, bottom_left, channel, C)
        sample += (bottom_share * right_share)[:, None] * read(features, bottom_right, channel, C)
        inside = (channel < C)[:, None] & (out_channel < C)[None, :]
        matrix = tl.load(weights + channel[:, None] * C + out_channel[None, :], mask=inside, other=0.0)
        by_channel = _dot(sample.to(matrix.dtype), matrix, by_channel, UPCAST)
    hidden = by_channel
    if BIAS:
        by_channel += tl.load(channel_bias + out_channel, mask=out_channel < C, other=0.0).to(tl.float32)[None, :]
        hidden = _gelu(by_channel)
    inside = (out_point < Q)[:, None] & (point < P)[None, :]
    matrix = tl.load(weights + C * C + out_point[:, None] * P + point[None, :], mask=inside, other=0.0)
    hidden = hidden.to(matrix.dtype)
    by_point = _dot(matrix, hidden, tl.zeros((OUT_POINTS, CHANNELS), dtype=tl.float32), UPCAST)
    if BIAS:
        by_point += tl.load(point_bias + out_point, mask=out_point < Q, other=0.0).to(tl.float32)[:, None]
    return by_channel, hidden, matrix, by_point


@triton.jit
def forward_kernel(
    features,
    rois,
    offsets,
    weights,
    channel_bias,
    point_bias,
    mixed,
    positions,
    height,
    width,
    tokens,
    P: tl.constexpr,
    C: tl.constexpr,
    Q: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_POINTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """What `encoder.kernels.operator.forward` computes; all tensors contiguous, features (B, H, W, C).

    ``tokens``: of an image. P, C, Q: points, channels, mixed points; POINTS, CHANNELS, OUT_POINTS: powers of two that
    hold them; CHUNK: channels read at a time.
    """
    token = tl.program_id(0).to(tl.int64)
    features += token // tokens * height * width * C
    x1, y1 = tl.load(rois + 4 * token), tl.load(rois + 4 * token + 1)
    x2, y2 = tl.load(rois + 4 * token + 2), tl.load(rois + 4 * token + 3)
    x, _, _ = locate(offsets + 2 * P * token, x1, x2, P, POINTS)
    y, _, _ = locate(offsets + 2 * P * token + 1, y1, y2, P, POINTS)
    point = tl.arange(0, POINTS)
    tl.store(positions + 2 * P * token + 2 * point, x, mask=point < P)
    tl.store(positions + 2 * P * token + 2 * point + 1, y, mask=point < P)
    left, right, left_share, right_share, _ = pixels(x, width, P, POINTS, BORDER)
    top, bottom, top_share, bottom_share, _ = pixels(y, height, P, POINTS, BORDER)
    _, _, matrix, by_point = _mix(
        features,
        weights + token * (C * C + Q * P),
        channel_bias,
        point_bias,
        corner_at(top, left, width),
        corner_at(top, right, width),
        corner_at(bottom, left, width),
        corner_at(bottom, right, width),
        top_share,
        bottom_share,
        left_share,
        right_share,
        P,
        C,
        Q,
        POINTS,
        CHANNELS,
        OUT_POINTS,
        CHUNK,
        BIAS,
        UPCAST,
    )
    out_point, out_channel = tl.arange(0, OUT_POINTS), tl.arange(0, CHANNELS)
    inside = (out_point < Q)[:, None] & (out_channel < C)[None, :]
    at = mixed + token * (Q * C) + out_point[:, None] * C + out_channel[None, :]
    tl.store(at, _gelu(by_point).to(matrix.dtype), mask=inside)


@triton.jit
def backward_kernel(
    d_mixed,
    d_positions,
    features,
    rois,
    offsets,
    weights,
    channel_bias,
    point_bias,
    d_features,
    d_rois,
    d_offsets,
    d_weights,
    d_channel_bias,
    d_point_bias,
    height,
    width,
    tokens,
    bound,
    P: tl.constexpr,
    C: tl.constexpr,
    Q: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_POINTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    CLAMP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The gradients, as `forward_kernel`; d_features must hold zeros, the biases' gradients are one row per token.

    ``bound``: what the sample's gradient of a position is clamped to with CLAMP.
    """
    token = tl.program_id(0).to(tl.int64)
    features += token // tokens * height * width * C
    d_features += token // tokens * height * width * C
    weights += token * (C * C + Q * P)
    d_weights += token * (C * C + Q * P)
    x1, y1 = tl.load(rois + 4 * token), tl.load(rois + 4 * token + 1)
    x2, y2 = tl.load(rois + 4 * token + 2), tl.load(rois + 4 * token + 3)
    x, x_deviation, x_std = locate(offsets + 2 * P * token, x1, x2, P, POINTS)
    y, y_deviation, y_std = locate(offsets + 2 * P * token + 1, y1, y2, P, POINTS)
    left, right, left_share, right_share, x_slope = pixels(x, width, P, POINTS, BORDER)
    top, bottom, top_share, bottom_share, y_slope = pixels(y, height, P, POINTS, BORDER)
    top_left, top_right = corner_at(top, left, width), corner_at(top, right, width)
    bottom_left, bottom_right = corner_at(bottom, left, width), corner_at(bottom, right, width)
    by_channel, hidden, matrix, by_point = _mix(
        features,
        weights,
        channel_bias,
        point_bias,
        top_left,
        top_right,
        bottom_left,
        bottom_right,
        top_share,
        bottom_share,
        left_share,
        right_share,
        P,
        C,
        Q,
        POINTS,
        CHANNELS,
        OUT_POINTS,
        CHUNK,
        BIAS,
        UPCAST,
    )

    # Backward through the points' matmul ...
    point, out_point, out_channel = tl.arange(0, POINTS), tl.arange(0, OUT_POINTS), tl.arange(0, CHANNELS)
    inside = (out_point < Q)[:, None] & (out_channel < C)[None, :]
    at = d_mixed + token * (Q * C) + out_point[:, None] * C + out_channel[None, :]
    d_by_point = tl.load(at, mask=inside, other=0.0).to(tl.float32) * _gelu_slope(by_point)
    if BIAS:
        tl.store(d_point_bias + token * Q + out_point, tl.sum(d_by_point, axis=1), mask=out_point < Q)
    d_rounded = d_by_point.to(matrix.dtype)
    d_matrix = _dot(d_rounded, tl.trans(hidden), tl.zeros((OUT_POINTS, POINTS), dtype=tl.float32), UPCAST)
    inside = (out_point < Q)[:, None] & (point < P)[None, :]
    at = d_weights + C * C + out_point[:, None] * P + point[None, :]
    tl.store(at, d_matrix.to(matrix.dtype), mask=inside)

    # ... through the channels' matmul ...
    d_by_channel = _dot(tl.trans(matrix), d_rounded, tl.zeros((POINTS, CHANNELS), dtype=tl.float32), UPCAST)
    if BIAS:
        d_by_channel *= _gelu_slope(by_channel)
        tl.store(d_channel_bias + token * C + out_channel, tl.sum(d_by_channel, axis=0), mask=out_channel < C)
    d_rounded = d_by_channel.to(matrix.dtype)
    d_x = tl.zeros((POINTS,), dtype=tl.float32)
    d_y = tl.zeros((POINTS,), dtype=tl.float32)
    for start in range(0, C, CHUNK):
        channel = start + tl.arange(0, CHUNK)
        part_inside = (channel < C)[:, None] & (out_channel < C)[None, :]
        a, b = read(features, top_left, channel, C), read(features, top_right, channel, C)
        c, d = read(features, bottom_left, channel, C), read(features, bottom_right, channel, C)
        sample = top_share[:, None] * (left_share[:, None] * a + right_share[:, None] * b)
        sample += bottom_share[:, None] * (left_share[:, None] * c + right_share[:, None] * d)
        part = tl.load(weights + channel[:, None] * C + out_channel[None, :], mask=part_inside, other=0.0)
        zeros = tl.zeros((CHUNK, CHANNELS), dtype=tl.float32)
        d_part = _dot(tl.trans(sample.to(part.dtype)), d_rounded, zeros, UPCAST)
        tl.store(d_weights + channel[:, None] * C + out_channel[None, :], d_part.to(part.dtype), mask=part_inside)
        d_sample = _dot(d_rounded, tl.trans(part), tl.zeros((POINTS, CHUNK), dtype=tl.float32), UPCAST)
        # ... into the feature map and the positions.
        d_x += tl.sum(d_sample * (top_share[:, None] * (b - a) + bottom_share[:, None] * (d - c)), axis=1)
        d_y += tl.sum(d_sample * (left_share[:, None] * (c - a) + right_share[:, None] * (d - b)), axis=1)
        scatter(d_features, top_left, top_share * left_share, d_sample, channel, C)
        scatter(d_features, top_right, top_share * right_share, d_sample, channel, C)
        scatter(d_features, bottom_left, bottom_share * left_share, d_sample, channel, C)
        scatter(d_features, bottom_right, bottom_share * right_share, d_sample, channel, C)

    d_x, d_y = d_x * x_slope, d_y * y_slope
    if CLAMP:
        # Written so that a gradient that is no number stays one.
        d_x = tl.where(d_x > bound, bound, tl.where(d_x < -bound, -bound, d_x))
        d_y = tl.where(d_y > bound, bound, tl.where(d_y < -bound, -bound, d_y))
    d_x += tl.load(d_positions + 2 * P * token + 2 * point, mask=point < P, other=0.0)
    d_y += tl.load(d_positions + 2 * P * token + 2 * point + 1, mask=point < P, other=0.0)
    d_x, d_x1, d_x2 = locate_backward(d_x, x_deviation, x_std, x1, x2, P)
    d_y, d_y1, d_y2 = locate_backward(d_y, y_deviation, y_std, y1, y2, P)
    tl.store(d_offsets + 2 * P * token + 2 * point, d_x, mask=point < P)
    tl.store(d_offsets + 2 * P * token + 2 * point + 1, d_y, mask=point < P)
    tl.store(d_rois + 4 * token, d_x1)
    tl.store(d_rois + 4 * token + 1, d_y1)
    tl.store(d_rois + 4 * token + 2, d_x2)
    tl.store(d_rois + 4 * token + 3, d_y2)
