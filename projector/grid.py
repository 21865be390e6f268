"""Projectors that merge neighboring patches of a dense tower, then project them with LLaVA's MLP.

They need a square grid of patches and nothing else. A class token in front of the patches is left out by the model's
``vision_feature_select_strategy="default"``. The tokens of a SparseFormer lie on no grid, since each moves its RoI, so
they are unsupported; a `projector.resampler` makes fewer of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor

from projector.mlp import MlpProjector
from projector.registry import register_projector


class GridProjector(MlpProjector):
    """Merges squares of ratio x ratio patches: (B, s², D) -> (B, (s / ratio)², E).

    Args:
        ratio: side of the squares, a divisor of the grid's side s.
    """

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool, ratio: int, merged_features: int):
        if ratio < 1:
            raise ValueError(f"ratio={ratio}: at least 1 is needed")
        super().__init__(merged_features, out_features, roi_embedding)
        self.in_features = in_features
        self.ratio = ratio

    def side(self, count: int) -> int:
        """Side of the grid of ``count`` patches; ValueError if they are no square, or not divisible."""
        side = math.isqrt(count)
        if side * side != count:
            before = math.isqrt(count - 1) ** 2 == count - 1
            hint = '; is the first the class token? vision_feature_select_strategy="default" leaves it out'
            raise ValueError(f"{count} tokens are no square grid of patches{hint if before else ''}")
        if side % self.ratio:
            divisors = [str(n) for n in range(2, side + 1) if side % n == 0]
            raise ValueError(
                f"a grid of {side} x {side} patches cannot be divided by ratio={self.ratio}; by {', '.join(divisors)}"
            )
        return side

    def num_tokens(self, count: int) -> int:
        return (self.side(count) // self.ratio) ** 2

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        if rois is not None:
            raise ValueError(
                f"{type(self).__name__} merges patches of a grid, and a SparseFormer's tokens lie on none: "
                "take resampler for fewer tokens, or a projector that keeps them all"
            )
        side = self.side(features.shape[1]) // self.ratio
        squares = features.unflatten(1, (side, self.ratio, side, self.ratio))
        return super().project(self.merge(squares).flatten(1, 2), None)

    @abstractmethod
    def merge(self, squares: Tensor) -> Tensor:
        """(B, rows, ratio, columns, ratio, D) -> (B, rows, columns, D')."""


@register_projector("pixel_shuffle")
class PixelShuffle(GridProjector):
    """Puts the patches of a square side by side: D' = ratio² D (InternVL 1.5, arXiv 2404.16821)."""

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False, *, ratio: int = 2):
        super().__init__(in_features, out_features, roi_embedding, ratio, in_features * ratio * ratio)

    def merge(self, squares: Tensor) -> Tensor:
        return squares.transpose(2, 3).flatten(3)


@register_projector("average_pool")
class AveragePool(GridProjector):
    """Takes the mean of a square's patches: D' = D (DeCo, arXiv 2405.20985)."""

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False, *, ratio: int = 2):
        super().__init__(in_features, out_features, roi_embedding, ratio, in_features)

    def merge(self, squares: Tensor) -> Tensor:
        return squares.mean(dim=(2, 4))
