"""What a SparseFormer is built of behind its stem: latent tokens with their start, units and transitions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from transformers.modeling_layers import GradientCheckpointingLayer

from encoder import geometry
from encoder.configuration import SparseFormerConfig
from encoder.layers import Attention, Mlp, PositionInjection, RoiAdjustment, Sample


class LatentTokens(nn.Module):
    """The tokens' learned start: embeddings (1 or N', D₀), RoIs (N', 4) and, if any, the class token (1, D)."""

    def __init__(self, config: SparseFormerConfig):
        super().__init__()
        self.num_tokens, self.nested = config.num_latent_tokens, config.nested_tokens
        rows = 1 if config.shared_embedding else self.num_tokens
        self.embedding = nn.Parameter(torch.zeros(rows, config.units[0]["width"]))
        rois = torch.zeros(self.num_tokens, 4)
        if any("roi" in spec["ops"] for spec in config.units):
            self.rois = nn.Parameter(rois)
        else:  # nothing moves them, and they do not train either: a fixed grid
            self.register_buffer("rois", rois)

    def forward(self, counts: Sequence[int] | None = None, focus_rois: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N', D₀) and RoIs (B, N', 4), the RoIs in at least float32; B is 1 if they are the same for all.

        Nested tokens are the first ones of all. Others start from the same embedding, with another number of them than
        their own at the RoIs that an untrained model of so many tokens starts from.

        Args:
            counts: of each image's tokens, what is behind them being padding; None: their own number.
            focus_rois: (B, k, 4), of k more tokens.

        Raises:
            ValueError: other tokens than their own, where each has an embedding of its own.
        """
        rois = self.rois.to(geometry.geometry_dtype(self.rois.dtype))[None]
        embedding: Tensor = self.embedding
        if counts is not None:
            if self.nested:
                rois, embedding = rois[:, : max(counts)], embedding[: max(counts)]
            else:
                rois = nn.utils.rnn.pad_sequence([self._start(count) for count in counts], batch_first=True)
        if focus_rois is not None:
            if len(self.embedding) > 1:
                raise ValueError("focus_rois: each of this model's tokens has an embedding of its own")
            rois = torch.cat([rois.expand(len(focus_rois), -1, -1), focus_rois.to(rois).nan_to_num()], dim=1)
        return embedding.expand(len(rois), rois.shape[1], -1), rois

    def _start(self, count: int) -> Tensor:
        """RoIs (count, 4) of tokens that are not nested."""
        rois = self.rois.to(geometry.geometry_dtype(self.rois.dtype))
        if count == self.num_tokens:
            return rois
        if len(self.embedding) > 1:
            raise ValueError(f"{count} latent tokens: this model has learned {self.num_tokens} different ones")
        return geometry.initial_rois(count).to(rois)


class ClassToken(nn.Module):
    """Puts the class token in front of the tokens: (B, N', D) -> (B, N' + 1, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1), tokens], dim=1)


class Unit(GradientCheckpointingLayer):
    """A sequence of operations, each of which runs at most once."""

    def __init__(self, config: SparseFormerConfig, index: int):
        super().__init__()
        spec = config.units[index]
        width, self.ops, self.repeats = spec["width"], tuple(spec["ops"]), spec["repeats"]
        cortex = index >= config.num_focusing_units
        activation = config.focus_act if self.repeats > 1 else config.hidden_act
        if config.repeat_embedding and self.repeats > 1:
            self.repeat_embedding = nn.Parameter(torch.zeros(self.repeats, width))
        else:
            self.register_parameter("repeat_embedding", None)
        if "sample" in self.ops:
            self.sample = Sample(config, width)
        if "pe" in self.ops:
            self.pe = PositionInjection(config, width)
        if "attn" in self.ops:
            self.attn = Attention(config, width, cortex)
        if "mlp" in self.ops:
            self.mlp = Mlp(config, width, activation, cortex)
        if "roi" in self.ops:
            self.roi = RoiAdjustment(config, width)
        rate = config.drop_path_rate * index / max(1, len(config.units) - 1)
        self.drop_path = StochasticDepth(rate, mode="row") if rate else nn.Identity()

    def forward(
        self,
        tokens: Tensor,
        rois: Tensor | None = None,
        features: Tensor | None = None,
        repeat: int = 0,
        mask: Tensor | None = None,
        extent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One run of the unit.

        Args:
            tokens: (B, N, D). rois: (B, N, 4). features: (B, C, H, W); both only where the unit samples.
            repeat: which of its runs this is.
            mask: of attention, as `attend` takes it. extent: of the images in their features, as `Sample` takes it.

        Returns:
            tokens, RoIs, and the sampling points (B, N, P, 2) or None.
        """
        points = None
        if self.repeat_embedding is not None:
            tokens = tokens + self.repeat_embedding[repeat].to(tokens.dtype)
        for op in self.ops:
            if op == "sample":
                update, points = self.sample(tokens, rois, features, extent)
                tokens = tokens + self.drop_path(update)
            elif op == "pe":
                tokens = tokens + self.drop_path(self.pe(rois))
            elif op == "attn":
                tokens = tokens + self.drop_path(self.attn(tokens, mask))
            elif op == "mlp":
                tokens = tokens + self.drop_path(self.mlp(tokens))
            elif rois is not None:  # operation "roi"
                rois = geometry.adjust_rois(rois, self.drop_path(self.roi(tokens, rois)))
        return tokens, rois, points


class Transition(nn.Sequential):
    """From one width to the next: a Linear, in v1 followed by a LayerNorm."""

    def __init__(self, config: SparseFormerConfig, width_in: int, width_out: int):
        norm = [nn.LayerNorm(width_out, eps=config.layer_norm_eps)] if config.transition_norm else []
        super().__init__(nn.Linear(width_in, width_out), *norm)
