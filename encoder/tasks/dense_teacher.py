"""What segmentation is compared with: a frozen dense tower, and a linear classifier at all its patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from data.errors import InputError
from data.files import write_json
from encoder.errors import TeacherError
from encoder.heads.segmentation import pixel_loss
from encoder.stem import normed
from encoder.teachers import Teacher, load_teacher
from encoder.weights import check_weights, read_weights

KIND = "linear_on_patches"
_HEAD = "head.safetensors"


def load_dense(source: str, image_size: int | None = None) -> Teacher:
    """The tower that a recipe's ``encoder`` names. Raises InputError if it cannot be had, or has no patches."""
    try:
        teacher = load_teacher(source, None, image_size, text=False).teacher
    except TeacherError as error:
        raise InputError(f"encoder: {error}") from error
    if not teacher.patch_width:
        raise InputError(f"encoder: {source} has no patches to classify; take a ViT or a CNN of timm's")
    return teacher


class PatchSegmenter(nn.Module):
    """With the interface of `SparseFormerForSemanticSegmentation`.

    Args:
        source, image_size: what `load_dense` was given; saved in place of the tower.
        names: of the classes.
    """

    def __init__(self, teacher: Teacher, source: str, names: list[str], image_size: int | None = None) -> None:
        super().__init__()
        self.teacher = teacher
        self.classifier = nn.Conv2d(self.teacher.patch_width, len(names), 1)
        self.num_labels, self.num_tokens = len(names), self.teacher.num_tokens or None
        self.about = {"source": source, "names": names, "image_size": image_size}

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, num_tokens: int | None = None
    ) -> SemanticSegmenterOutput:
        """(B, 3, H, W), labels (B, H, W) -> logits (B, K, h, w), and the loss if there are labels."""
        patches = self.teacher.with_patches(pixel_values)[1]
        logits = self.classifier(normed(patches).to(self.classifier.weight.dtype))
        loss = None if labels is None else pixel_loss(logits, labels)
        return SemanticSegmenterOutput(loss=loss, logits=logits)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the classifier, and which tower it stands on."""
        save_file({name: weight.contiguous() for name, weight in self.classifier.state_dict().items()}, folder / _HEAD)
        write_json(folder / "config.json", {"model_type": KIND, **self.about})

    @classmethod
    def from_saved(cls, folder: Path, config: dict[str, Any]) -> PatchSegmenter:
        """Reads what was saved; ``config`` is what its config.json holds."""
        source, size = config["source"], config["image_size"]
        model = cls(load_dense(source, size), source, config["names"], size)
        weights, own = read_weights(folder / _HEAD), model.classifier.state_dict()
        check_weights(str(folder / _HEAD), weights, {name: tuple(weight.shape) for name, weight in own.items()})
        with torch.no_grad():
            model.classifier.load_state_dict(weights)
        return model
