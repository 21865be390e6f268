"""The projectors of LLaVA: one Linear (arXiv 2304.08485), and two with a GELU between them (arXiv 2310.03744)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from projector.registry import Projector, register_projector


@register_projector("linear")
class Linear(Projector):
    """Linear(D -> E)."""

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False):
        super().__init__(in_features, out_features, roi_embedding)
        self.linear = nn.Linear(in_features, out_features)

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        return self.linear(features)


@register_projector("mlp2x_gelu")
class Mlp(Projector):
    """Linear(D -> E), GELU, Linear(E -> E). The parameters are named as in transformers' LLaVA."""

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False):
        super().__init__(in_features, out_features, roi_embedding)
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))
