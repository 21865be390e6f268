"""Tokens back onto the pixels of a map, through their RoIs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder import geometry


def cells(height: int, width: int, like: Tensor) -> Tensor:
    """The pixels of a map as RoIs: (h · w, 4), rows behind each other, of the type and device of ``like``."""
    y, x = (torch.arange(side, device=like.device, dtype=like.dtype) / side for side in (height, width))
    corners = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).flatten(0, 1)
    return torch.cat([corners, corners + corners.new_tensor([1 / width, 1 / height])], dim=-1)


def affinity(rois: Tensor, pixels: Tensor) -> Tensor:
    """How well a token's RoI tells of a pixel: the logarithm of a normal density of the RoI's center and half its size.

    Args:
        rois: (B, N, 4). pixels: (M, 4), as `cells` has them.

    Returns: (B, M, N)
    """
    center, size = (rois[..., :2] + rois[..., 2:]) / 2, (rois[..., 2:] - rois[..., :2]).abs().clamp(min=1e-3)
    places = (pixels[:, :2] + pixels[:, 2:]) / 2
    distance = (places[:, None] - center[:, None]) / (size[:, None] / 2)
    return -distance.square().sum(dim=-1) / 2 - size.log().sum(dim=-1)[:, None]


def splat(tokens: Tensor, rois: Tensor, height: int, width: int) -> Tensor:
    """Each pixel gets the mean of the tokens, weighted by how well their RoIs tell of it; nothing is learned.

    Args:
        tokens: (B, N, D), without a class token. rois: (B, N, 4).

    Returns: (B, D, height, width)
    """
    weights = affinity(rois, cells(height, width, rois)).softmax(dim=-1).to(tokens.dtype)
    grid: Tensor = (weights @ tokens).mT.unflatten(-1, (height, width))
    return grid


class TokensToGrid(nn.Module):
    """Pixels of the early feature map ask the tokens: attention, by what both are and by where both are.

    Args:
        channels: C, of the map. width: D, of the tokens. out: W, of the result; a multiple of 64.
        learned: whether the pixels ask, or just take what `splat` gives them.
    """

    def __init__(self, channels: int, width: int, out: int, learned: bool = True):
        super().__init__()
        self.heads = out // 64
        self.value = nn.Linear(width, out)
        self.detail = nn.Linear(channels, out)
        self.query = nn.Linear(channels, out) if learned else None
        if learned:
            self.key, self.pixel, self.roi = nn.Linear(width, out), nn.Linear(out, out), nn.Linear(out, out)

    def forward(self, tokens: Tensor, rois: Tensor, features: Tensor) -> Tensor:
        """What tokens and map tell of each pixel.

        Args:
            tokens: (B, N, D), without a class token. rois: (B, N, 4). features: (B, C, h, w).

        Returns: (B, W, h, w)
        """
        height, width = features.shape[-2:]
        rois = rois.detach()  # sampling is what moves them
        values, pixels = self.value(tokens), features.flatten(2).mT.to(tokens.dtype)
        if self.query is None:
            read = splat(values, rois, height, width).flatten(2).mT
        else:
            places = cells(height, width, rois)
            queries = self.query(pixels) + self._where(self.pixel, places, pixels.dtype)
            keys = self.key(tokens) + self._where(self.roi, rois, tokens.dtype)
            bias = affinity(rois, places)[:, None].to(queries.dtype)
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        grid: Tensor = (read + self.detail(pixels)).mT.unflatten(-1, (height, width))
        return grid

    def _where(self, linear: nn.Linear, boxes: Tensor, dtype: torch.dtype) -> Tensor:
        features: Tensor = linear(geometry.roi_features(boxes, linear.in_features).to(dtype))
        return features
