"""The models that `mllm zeroshot` and `mllm retrieve` compare: open_clip's, and ours with a text tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.errors import InputError
from encoder.clip import TEXT_FILE, load_clip
from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers import TeacherError, load_teacher


@dataclass(frozen=True)
class Prepare:
    """A picture as the image processor prepares it: (3, H, W)."""

    image_processor: SparseFormerImageProcessor

    def __call__(self, picture: Image.Image) -> Tensor:
        return self.image_processor(images=picture, return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class ClipModel:
    """A whole CLIP.

    Attributes:
        clip: the open_clip model, in evaluation mode.
        tokenizer: texts -> token ids (N, L).
        prepare: picture -> (3, H, W).
        num_tokens: tokens of one picture, class token and registers counted; None for a tower without such (a CNN).
    """

    clip: Any
    tokenizer: Callable[[list[str]], Tensor]
    prepare: Prepare
    num_tokens: int | None

    def macs(self) -> int:
        """Multiply-accumulates of the image tower for one picture; see `count_macs`."""
        pixels = torch.zeros(1, 3, *self.prepare.image_processor.output_size, device=self.clip.logit_scale.device)
        return count_macs(self.clip.visual, pixels)


def load_clip_model(source: str, pretrained: str | None = None) -> ClipModel:
    """Load a CLIP of open_clip's, or one that `encoder.clip.save_clip` wrote.

    Args:
        source: a directory of either, or the name of one of open_clip's models.
        pretrained: the weights of a name: a tag, a file, or TAG=FILE; see `encoder.teachers.load_teacher`.

    Raises:
        InputError: it cannot be had, or has no text tower.
        WeightsError: a directory of ours that is damaged.
    """
    if (Path(source) / TEXT_FILE).is_file():
        if pretrained is not None:
            raise InputError(f"--pretrained {pretrained}: {source} brings its own weights; leave it out")
        clip, image_processor, tokenizer = load_clip(source)
        return ClipModel(clip, tokenizer, Prepare(image_processor), clip.visual.model.config.num_tokens)
    try:
        loaded = load_teacher(source, pretrained)
    except TeacherError as error:
        raise InputError(f"--model: {error}") from error
    if loaded.text is None:
        raise InputError(f"--model {source}: has no text tower to compare pictures with; give a whole CLIP")
    teacher, text = loaded.teacher, loaded.text
    return ClipModel(text.clip, text.tokenizer, Prepare(teacher.image_processor), teacher.num_tokens or None)


def count_macs(tower: nn.Module, pixel_values: Tensor) -> int:
    """Multiply-accumulates of one run: convolutions and matrix products, those of attention with them.

    As is the custom, norms, activations, softmax and the four-point interpolation of sampling are not counted.

    Args:
        tower: in evaluation mode, on the device of ``pixel_values``, (B, 3, H, W).
    """
    # The counter does not know every fused kernel of attention and counts none of those it does not know, so attention
    # is computed by plain matrix products here. Its hooks fail on parameters that a module returns without gradients.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tower(pixel_values)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2
