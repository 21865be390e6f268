"""Sampling and adaptive mixing, the encoder's memory-bound part, in PyTorch or as one Triton kernel.

In one sampling step, B·N tokens with P points, C channels and P' mixed points (bootstrapped: 16, 64, 32), the
PyTorch path writes and reads again the positions, the sample in float32 and in the matmuls' type, the channel matmul,
the point matmul and its activation; the kernel writes the activation alone. In bfloat16, and in kB per token:

===========================  ==========  ========
what                         PyTorch     kernel
===========================  ==========  ========
corners of the feature map   16          16
sample (P, C)                4 + 4 + 2   0
by channels (P, C)           2 + 2 + 2   0
by points (P', C)            4 + 4       0
activation                   4           4
mixing weights               9           9
===========================  ==========  ========

The mixing weights C² + P'P stay a tensor of their own, written by one matmul and read once. A program that
generated them would have to read the generator's last matrix, 128 × 4,608 values or 1.2 MB, once per block of tokens:
with the 16 tokens whose accumulators (16 × 16 × 64 in float32, 64 kB) fill a quarter of a multiprocessor's registers
that is 74 kB per token, four times the 18 kB that writing and reading the weights cost. Blocks of 64 tokens would break
even, and their accumulators alone (256 kB) are the whole register file.
"""

from __future__ import annotations

from torch import Tensor

from encoder.kernels import reference
from encoder.kernels.device import unsupported_reason


def uses_triton(kernel: str, rois: Tensor, points: int, channels: int, out_points: int) -> bool:
    """Whether the Triton kernels are to run.

    Args:
        kernel: "torch"; "triton"; or "auto", Triton on a GPU if it is installed and holds these sizes.
        rois: (B, N, 4), for their device and type.
        points, channels, out_points: P, C, P'.

    Raises:
        RuntimeError: "triton" where it cannot run, and why.
    """
    if kernel == "torch" or (kernel == "auto" and rois.device.type != "cuda"):
        return False
    reason = unsupported_reason(rois, points, channels, out_points)
    if kernel == "triton" and reason is not None:
        raise RuntimeError(f"sampling_kernel='triton': {reason}; set it to 'auto' or 'torch'")
    return reason is None


def sample_and_mix(
    features: Tensor,
    rois: Tensor,
    offsets: Tensor,
    weights: Tensor,
    channel_bias: Tensor | None = None,
    point_bias: Tensor | None = None,
    *,
    padding: str = "border",
    gradient_bound: float | None = None,
    kernel: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Read each token's points in its RoI, mix what was read by the token's weights: channels, then points, then GELU.

    Args:
        features: (B, C, H, W).
        rois: (B, N, 4) in image units; their type is that of the geometry, and offsets have it too.
        offsets: (B, N, P, 2), not yet normalized.
        weights: (B, N, C·C + P'·P), the two matrices (C, C) and (P', P) of each token; their type is the matmuls'.
        channel_bias: (C,) and point_bias: (P',), or neither. With them, a GELU comes between the matmuls too.
        padding: "border" or "zeros", what points outside the image read.
        gradient_bound: what the sample's gradient of a position is clamped to; None: not clamped.
        kernel: "auto", "torch" or "triton", as `uses_triton` has it.

    Returns:
        (B, N, P', C) in the weights' type, and the positions (B, N, P, 2) in image units.

    Raises:
        RuntimeError: as `uses_triton`.
    """
    points, channels = offsets.shape[2], features.shape[1]
    if not uses_triton(kernel, rois, points, channels, (weights.shape[2] - channels**2) // points):
        return reference.sample_and_mix(
            features, rois, offsets, weights, channel_bias, point_bias, padding, gradient_bound
        )
    from encoder.kernels.operator import forward

    rows = features.permute(0, 2, 3, 1).contiguous()
    tensors = (rows, rois.contiguous(), offsets.contiguous(), weights.contiguous(), channel_bias, point_bias)
    mixed, positions = forward(*tensors, padding == "border", gradient_bound)
    return mixed, positions
