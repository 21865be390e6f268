"""The models that `mllm zeroshot` and `mllm retrieve` compare: open_clip's, and ours with a text tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from data.errors import InputError
from data.json_objects import read_object
from encoder.clip import TEXT_FILE, load_clip, load_tower
from encoder.configuration import SparseFormerConfig
from encoder.image_processing import SparseFormerImageProcessor, load_image_processor
from encoder.macs import tower_macs
from encoder.modeling import SparseFormerVisionModel
from encoder.open_clip_tower import SparseFormerTower
from encoder.teachers import TeacherError, load_teacher


@dataclass(frozen=True)
class Prepare:
    """An image as the image processor prepares it: (3, H, W)."""

    image_processor: SparseFormerImageProcessor

    def __call__(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self.image_processor(images=image, return_tensors="pt")["pixel_values"]
        return pixels[0]


class ImageTower(nn.Module):
    """An image tower alone, where a CLIP is asked for; the embedding of a classifier's is its logits."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.visual = tower

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W) -> (B, E)."""
        embedding: Tensor = self.visual(images)
        return F.normalize(embedding, dim=-1) if normalize else embedding


class PooledTower(SparseFormerTower):
    """A SparseFormer whose embedding is what it pools, before a projection: where that leads to classes, or is none."""

    def __init__(self, model: SparseFormerVisionModel) -> None:
        nn.Module.__init__(self)
        self.model, self.num_tokens = model, None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        pooled: Tensor = self.model(pixel_values=images, num_tokens=self.num_tokens, return_dict=True).pooler_output
        return pooled


@dataclass(frozen=True)
class ClipModel:
    """A whole CLIP, or a classifier.

    Attributes:
        source: what it was loaded from, for messages.
        clip: the open_clip model, in evaluation mode.
        tokenizer: texts -> token ids (N, L); None of a classifier.
        prepare: image -> (3, H, W).
        num_tokens: tokens of one image, class token and registers counted; None for a tower without such (a CNN).
    """

    source: str
    clip: Any
    tokenizer: Callable[[list[str]], Tensor] | None
    prepare: Prepare
    num_tokens: int | None

    def macs(self) -> int:
        """Multiply-accumulates of the image tower for one image; see `encoder.macs`."""
        return tower_macs(self.clip.visual, *self.prepare.image_processor.output_size)

    def with_tokens(self, count: int) -> ClipModel:
        """The same model, which from now on uses ``count`` tokens, the class token counted.

        Raises:
            InputError: too few, or a model that cannot use another number than its own.
        """
        tower = self.clip.visual
        if not isinstance(tower, SparseFormerTower):
            raise InputError(f"--tokens {count}: {self.source} is no SparseFormer, its tokens are its patches")
        config = tower.model.config
        if count < 1 + config.class_token:
            raise InputError(f"--tokens {count}: {self.source} uses at least {1 + config.class_token}")
        if count != config.num_tokens and not config.shared_embedding:
            raise InputError(f"--tokens {count}: {self.source} has learned {config.num_tokens} different ones")
        tower.num_tokens = count
        return replace(self, num_tokens=count)


def load_clip_model(source: str, pretrained: str | None = None, tokenizer: str | None = None) -> ClipModel:
    """Load a CLIP of open_clip's, one that `encoder.clip.save_clip` wrote, or a classifier that `save_tower` wrote.

    Args:
        source: a directory of either, or the name of one of open_clip's models.
        pretrained: the weights of a name: a tag, a file, or TAG=FILE; see `encoder.teachers.load_teacher`.
        tokenizer: the directory of a name's tokenizer, if it is not on this machine.

    Raises:
        InputError: it cannot be had, or has no text tower.
        WeightsError: a directory of ours that is damaged.
    """
    if (Path(source) / TEXT_FILE).is_file():
        for option, value in (("--pretrained", pretrained), ("--tokenizer", tokenizer)):
            if value is not None:
                raise InputError(f"{option} {value}: {source} brings its own weights and tokenizer; leave it out")
        clip, image_processor, its_own = load_clip(source)
        return ClipModel(source, clip, its_own, Prepare(image_processor), clip.visual.model.config.num_tokens)
    if pretrained is tokenizer is None and _is_sparseformer(Path(source)):
        image_processor = load_image_processor(Path(source), SparseFormerImageProcessor)
        model = load_tower(source).float()
        if model.config.projection_dim is None:
            raise InputError(f"--model {source}: has no text tower, and is no classifier; give a whole CLIP")
        classifier = ImageTower(SparseFormerTower(model, image_processor)).eval()
        return ClipModel(source, classifier, None, Prepare(image_processor), model.config.num_tokens)
    try:
        loaded = load_teacher(source, pretrained, tokenizer=tokenizer)
    except TeacherError as error:
        raise InputError(f"--model: {error}") from error
    if loaded.text is None:
        raise InputError(f"--model {source}: has no text tower to compare images with; give a whole CLIP")
    teacher, text = loaded.teacher, loaded.text
    return ClipModel(source, text.clip, text.tokenizer, Prepare(teacher.image_processor), teacher.num_tokens or None)


def load_image_model(source: str, pretrained: str | None = None, tokenizer: str | None = None) -> ClipModel:
    """Load any encoder for its features alone.

    Args:
        source: a directory of a SparseFormer; a teacher, see `encoder.teachers.load_teacher`.
        pretrained, tokenizer: as `load_clip_model` takes them.

    Raises:
        InputError, WeightsError: as `load_clip_model`.
    """
    if not _is_sparseformer(Path(source)):
        try:
            teacher = load_teacher(source, pretrained, tokenizer=tokenizer, text=False).teacher
        except TeacherError as error:
            raise InputError(f"--model: {error}") from error
        return ClipModel(
            source, ImageTower(teacher), None, Prepare(teacher.image_processor), teacher.num_tokens or None
        )
    image_processor = load_image_processor(Path(source), SparseFormerImageProcessor)
    model = load_tower(source).float()
    config = model.config
    classifies = config.projection_bias and config.projection_dim == config.num_labels
    pooled = classifies or (config.projection_dim is None and config.attention_pool is None)
    tower = PooledTower(model) if pooled else SparseFormerTower(model, image_processor)
    return ClipModel(source, ImageTower(tower), None, Prepare(image_processor), config.num_tokens)


def _is_sparseformer(directory: Path) -> bool:
    """Whether a directory holds a SparseFormer alone."""
    file = directory / "config.json"
    return file.is_file() and read_object(file, "config.json").get("model_type") == SparseFormerConfig.model_type
