"""A SparseFormer that names the class of every pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.generic import can_return_tuple

from encoder.configuration import SparseFormerConfig
from encoder.heads.grid import TokensToGrid
from encoder.modeling import SparseFormerPreTrainedModel, SparseFormerVisionModel
from encoder.stem import normed

IGNORE = 255
"""The label of pixels that do not count."""


class SegmentationHead(nn.Module):
    """Tokens on the grid of the early feature map, a convolution that smooths, a linear classifier."""

    def __init__(self, config: SparseFormerConfig):
        super().__init__()
        width = config.decoder_width
        self.grid = TokensToGrid(config.early_channels, config.hidden_size, width, config.decoder == "attention")
        self.smooth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.classifier = nn.Conv2d(width, len(config.id2label or {}), 1)

    def forward(self, tokens: Tensor, rois: Tensor, features: Tensor) -> Tensor:
        """(B, N, D), (B, N, 4), (B, C, h, w) -> logits (B, K, h, w)."""
        grid = self.grid(tokens, rois, features)
        grid = grid + self.mix(F.gelu(self.smooth(normed(grid).to(grid.dtype))))
        logits: Tensor = self.classifier(normed(grid).to(grid.dtype))
        return logits


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits (B, K, h, w), enlarged to the labels (B, H, W), of which `IGNORE` does not count."""
    whole = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear")
    return F.cross_entropy(whole, labels, ignore_index=IGNORE)


class SparseFormerForSemanticSegmentation(SparseFormerPreTrainedModel):
    """Each pixel of the early feature map reads the tokens through their RoIs (`encoder.heads.grid`)."""

    _keys_to_ignore_on_load_unexpected = [r"projection\."]  # noqa: RUF012

    def __init__(self, config: SparseFormerConfig):
        config.projection_dim = None
        super().__init__(config)
        self.num_labels = config.num_labels
        self.sparseformer = SparseFormerVisionModel(config)
        self.decode_head = SegmentationHead(config)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers' own
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> SemanticSegmenterOutput:
        """Segments images.

        Args:
            pixel_values: (B, 3, H, W).
            labels: (B, H, W), of every pixel; `IGNORE` does not count. With them there is a loss.
            **kwargs: as `SparseFormerVisionModel` takes them, ``num_tokens`` say.

        Returns: logits (B, K, h, w) at the early feature map's size, h = H / 4 without an inherited stem.
        """
        given = {**kwargs, "return_dict": True, "output_features": True, "output_hidden_states": output_hidden_states}
        outputs = self.sparseformer(pixel_values, **given)
        tokens = outputs.last_hidden_state[:, int(self.config.class_token) :]
        logits = self.decode_head(tokens, outputs.rois, outputs.features)
        loss = None if labels is None else pixel_loss(logits, labels)
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
