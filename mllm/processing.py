"""Images and text to what the model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature, LlavaProcessor
from transformers.processing_utils import MultiModalData

from data.errors import InputError
from data.limits import MAX_SIDE, check_range
from data.messages import Place
from data.places import WHOLE
from encoder.geometry import rois_within
from encoder.image_processing import SparseFormerImageProcessor, seen_box, trimmed, whole_image


class MLLMProcessor(LlavaProcessor):
    """Processes as LLaVA's does, for encoders whose number of tokens does not follow from the image's size.

    Args:
        image_processor: the encoder's.
        tokenizer: the language model's, in which ``image_token`` is one token.
        num_image_tokens: placeholders per image, ``image_seq_length`` of the model's configuration.
        chat_template: Jinja template of conversations.
        image_token: the placeholder.
        min_image_tokens: fewest placeholders that may be asked for; None: the number is fixed.

    Its `date` is the day that chat templates are told when they ask: today's, for as long as the processor lives.

    Raises:
        ValueError: ``num_image_tokens`` is missing, or the tokenizer does not know the placeholder.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int | None = None,
        chat_template: Any = None,
        image_token: str = "<image>",
        min_image_tokens: int | None = None,
    ) -> None:
        if not isinstance(num_image_tokens, int) or num_image_tokens < 1:
            raise ValueError(f"num_image_tokens={num_image_tokens!r}; a positive number is needed")
        # LlavaProcessor would silently take the first piece of a placeholder that is no token.
        if tokenizer.tokenize(image_token) != [image_token]:
            raise ValueError(f"the tokenizer has no token {image_token!r}; add it as a special token")
        super().__init__(image_processor, tokenizer, chat_template=chat_template, image_token=image_token)
        self.num_image_tokens = num_image_tokens
        self.min_image_tokens = min_image_tokens
        self.date = date.today()

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        num_tokens: int | Sequence[int] | None = None,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Processes as LlavaProcessor does, but gives a text that begins with the bos token no second one.

        Args:
            num_tokens: placeholders of an image, one number for all images or one for each; None: as many as there are.
            image_size: whole images of about so many pixels squared, instead of the image processor's own way.
            **kwargs: LlavaProcessor's, and ``focus_rois`` as for `read_images`.
        """
        first = text[0] if isinstance(text, (list, tuple)) and text else text
        bos = self.tokenizer.bos_token
        if bos is not None and isinstance(first, str) and first.startswith(bos):
            kwargs.setdefault("add_special_tokens", False)
        kwargs |= self._look(num_tokens, image_size)
        images = trimmed(images, self.image_processor)
        return super().__call__(images=images, text=text, **kwargs)

    def _look(self, num_tokens: int | Sequence[int] | None, image_size: int | None) -> dict[str, Any]:
        """The image processor's arguments for what is asked for; InputError if images of this model cannot have it."""
        self.check_image_size(image_size)
        look = {} if image_size is None else whole_image(image_size)
        if num_tokens is not None:
            self.check_num_tokens(num_tokens)
            if self.min_image_tokens is not None:  # others' image processors know no such number
                look["num_tokens"] = num_tokens
        return look

    def check_num_tokens(self, num_tokens: int | Sequence[int], field: str = "num_tokens") -> None:
        """Raises InputError for a number of tokens that an image of this model cannot have."""
        for count in [num_tokens] if isinstance(num_tokens, int) else num_tokens:
            if self.min_image_tokens is not None:
                check_range(field, count, self.min_image_tokens, self.num_image_tokens)
            elif count != self.num_image_tokens:
                raise InputError(f"{field}={count}: an image of this model always has {self.num_image_tokens}")

    def views(self, sizes: Sequence[tuple[int, int]], image_size: int | None = None) -> list[Place]:
        """Returns the box that the model sees of images of each width and height: all, where a size is asked for."""
        return [WHOLE if image_size is not None else seen_box(self.image_processor, *size) for size in sizes]

    def check_focus(self, field: str = "focus") -> None:
        """Raises InputError unless images of this model can have more tokens on a part of them."""
        if self.min_image_tokens is None:
            raise InputError(f"{field}: an image of this model always has the same number of tokens; leave it out")

    def check_image_size(self, side: int | None, field: str = "image_size") -> None:
        """Raises InputError for a size that images of this model cannot have; None is the processor's own."""
        check_range(field, side, 1, MAX_SIDE)
        if side is not None and not isinstance(self.image_processor, SparseFormerImageProcessor):
            raise InputError(f"{field}={side}: this model's encoder takes images of one size; leave it out")

    def read_images(
        self,
        images: Sequence[Any],
        num_tokens: Sequence[int] | None = None,
        focus_rois: Sequence[Sequence[Sequence[float]]] | None = None,
        image_size: int | None = None,
    ) -> tuple[list[str], dict[str, Tensor]]:
        """Reads P images.

        Args:
            num_tokens: of each, with a model that leaves the choice.
            focus_rois: of each, where additional tokens look: x1, y1, x2, y2 in fractions of the image.
            image_size: whole images of about so many pixels squared, instead of the image processor's own way.

        Returns:
            what stands in the text for each image, and what the model takes: ``pixel_values`` (P, 3, H, W) and,
            where they vary, ``image_sizes`` (P, 2), ``num_tokens`` (P,) and ``focus_rois`` (P, k, 4).
        """
        if num_tokens is None and self.min_image_tokens is not None:
            num_tokens = [self.num_image_tokens] * len(images)
        more = self._look(num_tokens, image_size)
        if focus_rois is not None:
            more["focus_rois"] = focus_rois
        inputs = self.image_processor(trimmed(images, self.image_processor), return_tensors="pt", **more)
        texts = [self.replace_image_token(inputs, index) for index in range(len(images))]
        return texts, {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs: Any) -> str:
        """Returns what stands in the text for one image."""
        counts, focus = image_inputs.get("num_tokens"), image_inputs.get("focus_rois")
        count = self.num_image_tokens if counts is None else int(counts[image_idx])
        if focus is not None:
            count += sum(not math.isnan(rois[0]) for rois in focus[image_idx])
        return self.image_token * count

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> MultiModalData:
        count = 0 if image_sizes is None else len(image_sizes)
        tokens = kwargs.get("num_tokens") or self.num_image_tokens
        return MultiModalData(num_image_tokens=[tokens] * count, num_image_patches=[1] * count)


FOCUS_TOKENS = 5  # that look closer at a part of an image


def focus_rois(box: Sequence[float]) -> list[list[float]]:
    """The RoIs of the tokens that look closer at a part of an image, x1, y1, x2, y2: the part, and its quarters."""
    rois: list[list[float]] = rois_within(box, FOCUS_TOKENS).tolist()
    return rois


IMAGE_INPUTS = ("pixel_values", "image_sizes", "num_tokens", "focus_rois")


def join_images(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Makes one batch of what `MLLMProcessor.read_images` returned several times, for one model."""
    if not parts:
        return {}
    given = {name for part in parts for name in part}
    pixels = [part["pixel_values"] for part in parts]
    height, width = (max(each.shape[axis] for each in pixels) for axis in (-2, -1))
    batch = {
        "pixel_values": torch.cat(
            [F.pad(each, (0, width - each.shape[-1], 0, height - each.shape[-2])) for each in pixels]
        )
    }
    if "image_sizes" in given or len({each.shape[-2:] for each in pixels}) > 1:
        own = [torch.tensor(each.shape[-2:]).expand(len(each), 2) for each in pixels]
        batch["image_sizes"] = torch.cat([part.get("image_sizes", size) for part, size in zip(parts, own, strict=True)])
    if "num_tokens" in given:
        batch["num_tokens"] = torch.cat([part["num_tokens"] for part in parts])
    if "focus_rois" in given:
        most = max(part["focus_rois"].shape[1] for part in parts if "focus_rois" in part)
        none = [torch.empty(len(each), 0, 4) for each in pixels]
        rois = [part.get("focus_rois", empty) for part, empty in zip(parts, none, strict=True)]
        batch["focus_rois"] = torch.cat([F.pad(each, (0, 0, 0, most - each.shape[1]), value=math.nan) for each in rois])
    return batch
