"""Images and text to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import torch
from transformers import BatchFeature, LlavaProcessor
from transformers.processing_utils import MultiModalData

from data.messages import Place
from encoder.image_processing import seen_box, trimmed


class MLLMProcessor(LlavaProcessor):
    """Processes as LLaVA's does, for encoders whose number of tokens does not follow from the image's size.

    Args:
        image_processor: the encoder's.
        tokenizer: the language model's, in which ``image_token`` is one token.
        num_image_tokens: placeholders per image, ``image_seq_length`` of the model's configuration.
        chat_template: Jinja template of conversations.
        image_token: the placeholder.

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
    ) -> None:
        if not isinstance(num_image_tokens, int) or num_image_tokens < 1:
            raise ValueError(f"num_image_tokens={num_image_tokens!r}; a positive number is needed")
        # LlavaProcessor would silently take the first piece of a placeholder that is no token.
        if tokenizer.tokenize(image_token) != [image_token]:
            raise ValueError(f"the tokenizer has no token {image_token!r}; add it as a special token")
        super().__init__(image_processor, tokenizer, chat_template=chat_template, image_token=image_token)
        self.num_image_tokens = num_image_tokens
        self.date = date.today()

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Processes as LlavaProcessor does, but gives a text that begins with the bos token no second one."""
        first = text[0] if isinstance(text, (list, tuple)) and text else text
        bos = self.tokenizer.bos_token
        if bos is not None and isinstance(first, str) and first.startswith(bos):
            kwargs.setdefault("add_special_tokens", False)
        images = trimmed(images, self.image_processor)
        return super().__call__(images=images, text=text, **kwargs)

    def read_images(self, images: Sequence[Any]) -> tuple[list[str], torch.Tensor]:
        """Returns what stands in the text for each image, and their pixel values (P, 3, H, W)."""
        inputs = self.image_processor(trimmed(images, self.image_processor), return_tensors="pt")
        return [self.replace_image_token(inputs, index) for index in range(len(images))], inputs["pixel_values"]

    def views(self, sizes: Sequence[tuple[int, int]]) -> list[Place]:
        """Returns the box that the model sees of images of each width and height (`seen_box`)."""
        return [seen_box(self.image_processor, *size) for size in sizes]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """Returns what stands in the text for one image."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> MultiModalData:
        count = 0 if image_sizes is None else len(image_sizes)
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)
