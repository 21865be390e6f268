"""Level the variances of the encoder's features before they are projected.

A tower's tokens share a large mean, and a few directions hold nearly all of their variance: in a small CLIP the four
largest of 128 hold 63%. What lies in the others, shapes for instance, reaches a projector's first layer as a
whisper, and a language model then takes long to use it, above all to find a token by it (docs/log.md has figures).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """(..., D) -> (..., D), without the mean, each principal direction divided by a power of its standard deviation.

    It does not train: `fit` sets it once, and before that it changes nothing.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("matrix", torch.empty(width, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.mean)
        nn.init.eye_(self.matrix)

    @torch.no_grad()
    def fit(self, features: Tensor, strength: float = 0.6) -> None:
        """Measure mean and covariance.

        Args:
            features: (M, D) tokens of a few hundred images, M well above D.
            strength: the power. At 1 all directions count the same; less leaves small ones, noise among them, smaller.

        Raises:
            ValueError: fewer tokens than directions, or tokens that are all alike.
        """
        if len(features) <= features.shape[1]:
            raise ValueError(f"whitening: {len(features)} tokens for {features.shape[1]} directions; show more images")
        features = features.double()
        mean = features.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov((features - mean).T))
        largest = variances[-1]
        if largest <= 0:
            raise ValueError("whitening: all tokens are alike; show other images")
        # the last directions are noise, which would otherwise be blown up
        matrix = directions * variances.clamp(min=1e-3 * largest) ** (-strength / 2) @ directions.T
        scale = ((features - mean) @ matrix).std()
        self.mean.copy_(mean)
        self.matrix.copy_(matrix / scale)

    def forward(self, features: Tensor) -> Tensor:
        # in float32: the mean is far larger than what is left without it
        return ((features.float() - self.mean.float()) @ self.matrix.float()).to(features.dtype)
