"""A SparseFormer in the place of an open_clip model's image tower: ``clip.visual = SparseFormerTower(model)``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from encoder.image_processing import SparseFormerImageProcessor
from encoder.modeling import SparseFormerVisionModel


class SparseFormerTower(nn.Module):
    """What open_clip asks of ``CLIP.visual``: ``encode_image``, locking, checkpointing, the preprocessing.

    Args:
        model: a SparseFormer with a projection or an attention pool (SigLIP's) to the CLIP's embedding width.
        image_processor: how its images are prepared; open_clip reads it from ``preprocess_cfg``.
        num_tokens: how many it uses, the class token counted; None: as many as the model has. May be set later.

    Raises:
        ValueError: the model has no projection, or open_clip has no preprocessing that does the same.
    """

    def __init__(
        self, model: SparseFormerVisionModel, image_processor: SparseFormerImageProcessor, num_tokens: int | None = None
    ):
        super().__init__()
        if model.config.projection_dim is None and model.config.attention_pool is None:
            raise ValueError("projection_dim is None: a CLIP's image tower needs the projection to the embedding width")
        self.model = model
        self.num_tokens = num_tokens
        # The attributes that open_clip's own towers have.
        self.output_dim: int = model.config.embed_dim
        self.preprocess_cfg: dict[str, Any] = image_processor.to_open_clip()
        self.image_size = tuple(self.preprocess_cfg["size"])
        self.image_mean = tuple(self.preprocess_cfg["mean"])
        self.image_std = tuple(self.preprocess_cfg["std"])

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> embeddings (B, E), not of unit length."""
        embedding: Tensor = self.model(pixel_values=images, num_tokens=self.num_tokens, return_dict=True).embedding
        return embedding

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the tower but for its last ``unlocked_groups`` groups (LiT, arXiv 2111.07991).

        Groups, first to last: the focusing transformer, each block of the cortex (the final norm goes with the last
        one), the attention pool and the projection. ``freeze_bn_stats`` is open_clip's and has no meaning here: those
        of an inherited stem never change.
        """
        model = self.model
        groups: list[list[nn.Module]] = [list(model.focusing)]
        groups += [[block] for block in model.cortex]
        groups[-1].append(model.norm)
        groups.append([module for name, module in model.head.items() if name != "norm"])
        model.requires_grad_(False)
        for group in groups[max(0, len(groups) - unlocked_groups) :]:
            for module in group:
                module.requires_grad_(True)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes activations in the backward pass instead of keeping them."""
        if enable:
            self.model.gradient_checkpointing_enable()
        else:
            self.model.gradient_checkpointing_disable()
