"""Conversations become samples, samples become padded batches; what cannot be used is skipped by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DataCollatorWithFlattening

from data.bad_samples import BadSamples, SkippingDataset
from data.samples import PLACEHOLDER
from data.sources import Conversations
from mllm.prompts import IGNORE, encode_conversation

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

CHARACTERS = 4  # of a token, about


class EncodedConversations(SkippingDataset):
    """The samples of a source of conversations, as the model takes them.

    A sample holds `input_ids` (T,), `labels` (T,) and, if the conversation has P > 0 images, `pixel_values`
    (P, 3, H, W). A conversation that is too long, teaches nothing or has a broken image is replaced by the next good
    one, so that an epoch keeps its length and every process stays in step.

    Args:
        max_length: longest sample in tokens, the images' included.
        bad: where skipped conversations are recorded.
    """

    def __init__(
        self,
        conversations: Conversations,
        processor: MLLMProcessor,
        max_length: int | None = None,
        bad: BadSamples | None = None,
    ) -> None:
        super().__init__(bad)
        self.conversations = conversations
        self.processor = processor
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.conversations)

    def name(self, index: int) -> str:
        return self.conversations.name(index)

    def lengths(self) -> list[int]:
        """About how many tokens each sample has, without opening images or tokenizing: for batches of like length."""
        texts = ("".join(self.conversations.words(index)) for index in range(len(self)))
        image_tokens = self.processor.num_image_tokens
        return [text.count(PLACEHOLDER) * image_tokens + len(text) // CHARACTERS for text in texts]

    def load(self, index: int) -> dict[str, torch.Tensor]:
        return encode_conversation(self.processor, self.conversations.load(index), max_length=self.max_length)


class Collator:
    """Makes samples one batch; images of all samples are concatenated in order.

    Returns `input_ids`, `attention_mask` and `labels`, each (B, T), and `pixel_values` (P, 3, H, W) over all P images
    of the batch, left out when there are none. Samples are padded on the right: padding has label -100 and attention 0.
    Images of one batch share one size, since the image processor sets it.

    Packed, they lie one behind the other in one row (1, T) without padding, and `position_ids` that begin again with
    each take the place of the attention mask: transformers' attention keeps apart what they tell apart.
    """

    def __init__(self, pad_token_id: int, packing: bool = False) -> None:
        self.pad_token_id = pad_token_id
        self.flatten = DataCollatorWithFlattening() if packing else None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._pad(samples) if self.flatten is None else self.flatten(samples)
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        if pixels:
            batch["pixel_values"] = torch.cat(pixels)
        return batch

    def _pad(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        def pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        return {
            "input_ids": pad([sample["input_ids"] for sample in samples], self.pad_token_id),
            "attention_mask": pad([torch.ones_like(sample["input_ids"]) for sample in samples], 0),
            "labels": pad([sample["labels"] for sample in samples], IGNORE),
        }
