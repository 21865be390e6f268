"""Projectors that keep every token: LLaVA's (arXiv 2304.08485, 2310.03744), and one that sees the tokens' RoIs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projector.registry import Projector, fourier_features, register_projector


@register_projector("linear")
class LinearProjector(Projector):
    """Linear(D -> E)."""

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False):
        super().__init__(in_features, out_features, roi_embedding)
        self.linear = nn.Linear(in_features, out_features)

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        embeddings: Tensor = self.linear(features)
        return embeddings


@register_projector("mlp2x_gelu")
class MlpProjector(Projector):
    """Linear(D -> E), GELU, Linear(E -> E). The parameters are named as in transformers' LLaVA."""

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False):
        super().__init__(in_features, out_features, roi_embedding)
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        embeddings: Tensor = self.linear_2(F.gelu(self.linear_1(features)))
        return embeddings


@register_projector("roi_mlp")
class RoIMlpProjector(Projector):
    """The same MLP over a token's features, normalized, side by side with the sinusoidal features of its RoI.

    So what a token is turned into may depend on its RoI; `roi_embedding` only adds the RoI. Needs RoIs.

    Args:
        frequencies: F of `fourier_features`; a RoI has 8F features.
    """

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False, *, frequencies: int = 32):
        super().__init__(in_features, out_features, roi_embedding)
        if frequencies < 1:
            raise ValueError(f"frequencies={frequencies}: at least one is needed")
        self.frequencies = frequencies
        self.norm = nn.LayerNorm(in_features)  # not normalized, the content drowns the RoIs: see RoIEmbedding
        self.linear_1 = nn.Linear(in_features + 8 * frequencies, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        if rois is None:
            raise ValueError("roi_mlp needs the tokens' RoIs, and this encoder has none: take mlp2x_gelu")
        positions = fourier_features(rois, self.frequencies).to(features.dtype)
        hidden = self.linear_1(torch.cat([self.norm(features), positions], dim=-1))
        embeddings: Tensor = self.linear_2(F.gelu(hidden))
        return embeddings
