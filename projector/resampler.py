"""A fixed number of tokens, whatever the encoder: learned queries that read its tokens by cross-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projector.registry import NO_ROIS, Projector, RoIEmbedding, register_projector


class CrossAttention(nn.Module):
    """Queries read tokens and each other, pre-norm: (B, Q, W), (B, N, W) -> (B, Q, W), what is added to the queries."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # the softmax would cancel a bias
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = self.query_norm(queries)
        read = torch.cat([self.token_norm(tokens), queries], dim=1)
        rows = (self.query(queries), self.key(read), self.value(read))
        query, key, value = (row.unflatten(-1, (self.heads, -1)).transpose(1, 2) for row in rows)
        update: Tensor = self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return update


class ResamplerLayer(nn.Module):
    """Cross-attention, then a perceptron of ratio 4, both residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(B, Q, W), (B, N, W) -> (B, Q, W)."""
        queries = queries + self.attention(queries, tokens)
        queries = queries + self.linear_2(F.gelu(self.linear_1(self.norm(queries))))
        return queries


@register_projector("resampler")
class Resampler(Projector):
    """Perceiver resampler (Flamingo, arXiv 2204.14198): (B, N, D) -> (B, queries, E) for any N.

    The order of the tokens does not matter. With ``roi_embedding`` the embedding of a token's RoI is added to the token
    that the queries read, not to the result: a query has no RoI of its own.

    Args:
        queries: M, how many tokens come out.
        layers: of cross-attention and perceptron.
        heads: of the attention; a divisor of ``width``.
        width: W of the queries; None: that of the tokens, D.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        roi_embedding: bool = False,
        *,
        queries: int = 64,
        layers: int = 2,
        heads: int = 8,
        width: int | None = None,
    ):
        super().__init__(in_features, out_features)
        width = in_features if width is None else width
        for name, value in (("queries", queries), ("layers", layers), ("heads", heads), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        if width % heads:
            raise ValueError(f"heads={heads} is no divisor of the resampler's width {width}")
        self.token_rois = RoIEmbedding(width) if roi_embedding else None
        self.count = queries
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.inward = nn.Linear(in_features, width)
        self.layers = nn.ModuleList(ResamplerLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, out_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the queries again; every layer resets itself."""
        nn.init.trunc_normal_(self.queries, std=0.02)

    def num_tokens(self, count: int) -> int:
        return self.count

    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        tokens = self.inward(features)
        if self.token_rois is not None:
            if rois is None:
                raise ValueError(NO_ROIS)
            tokens = tokens + self.token_rois(rois)
        queries = self.queries.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        embeddings: Tensor = self.outward(self.norm(queries))
        return embeddings
