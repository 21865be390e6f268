"""Embeddings of RoIs, which tell the language model where each token sampled the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def fourier_features(rois: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines of RoI coordinates at several frequencies.

    Args:
        rois: (..., 4), x1, y1, x2, y2 in image units.
        frequencies: F, how many, from π to 128π in equal ratios (those of the encoder's own position injection).

    Returns:
        (..., 8F) in at least float32, whatever the RoIs' dtype; no gradient flows into the RoIs.
    """
    dtype = torch.promote_types(rois.dtype, torch.float32)
    steps = torch.linspace(0, math.log(128), frequencies, dtype=dtype, device=rois.device)
    angles = rois.detach().to(dtype)[..., None] * (math.pi * steps.exp())
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class RoIEmbedding(nn.Linear):
    """(B, M, 4) RoIs -> (B, M, E), added to the projected tokens.

    Behind the projector: in front of it, the tokens' content, which is not normalized, drowns the RoIs for a long
    time (docs/log.md has figures). The weights start at zero, so training starts from the projector without the option
    (their gradient is not zero: the sines are not), and it can be switched on for a projector trained without.
    """

    def __init__(self, width: int, frequencies: int = 32):
        super().__init__(8 * frequencies, width)
        self.frequencies = frequencies

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, rois: Tensor) -> Tensor:
        return super().forward(fourier_features(rois, self.frequencies).to(self.weight.dtype))
