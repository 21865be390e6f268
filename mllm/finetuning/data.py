"""The data of a run: sources checked, conversations encoded, put in the order of a curriculum, padded to batches.

A curriculum's stages come before a run's own data. Answering a question takes two steps at once, finding what it is
about and looking that up. A small language model learns them within minutes one after the other, and not within hours
together (docs/log.md has figures).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset
from transformers import DataCollatorWithFlattening

from data.bad_samples import BadSamples, SkippingDataset, too_many
from data.errors import InputError, shorten
from data.limits import MAX_STEPS, check_range
from data.samples import PLACEHOLDER
from data.sources import Conversations, MixedConversations
from mllm.finetuning.budgets import ImageBudgets
from mllm.processing import IMAGE_INPUTS, join_images
from mllm.prompts import IGNORE, encode_conversation

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

CHARACTERS = 4  # of a token, about
_NAMED = 20  # bad samples that are logged


def bad_limit(opened: Iterable[Sized], fraction: float) -> int:
    """How many samples may be bad: a fraction of all, rounded up."""
    return math.ceil(fraction * sum(map(len, opened)))


def check_faults(opened: Sequence[MixedConversations], fraction: float) -> None:
    """Refuse sources of which more samples than `bad_limit` were found to be bad on opening; the first are logged."""
    faults = [f"{each.name(index)}: {reason}" for each in opened for index, reason in each.faults.items()]
    limit = bad_limit(opened, fraction)
    if len(faults) > limit:
        for line in faults[:_NAMED]:
            logger.warning("a bad sample: %s", shorten(line))
        raise InputError(too_many(len(faults), limit, "`mllm check-data` lists all"))


class EncodedConversations(SkippingDataset):
    """The samples of a source of conversations, as the model takes them.

    A sample holds `input_ids` (T,), `labels` (T,) and, if the conversation has images, what
    `MLLMProcessor.read_images` makes of them. A conversation that is too long, has no supervised tokens or a broken
    image is replaced by the next good one, so that an epoch keeps its length and every process stays in step.

    Args:
        max_length: longest sample in tokens, the images' included.
        bad: where skipped conversations are recorded.
        budgets: of tokens and pixels, drawn for each image.
    """

    def __init__(
        self,
        conversations: Conversations,
        processor: MLLMProcessor,
        max_length: int | None = None,
        bad: BadSamples | None = None,
        budgets: ImageBudgets | None = None,
    ) -> None:
        super().__init__(bad)
        self.budgets = budgets or ImageBudgets()
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
        least, most = self.budgets.tokens or [self.processor.num_image_tokens] * 2
        image_tokens = (least + most) // 2
        return [text.count(PLACEHOLDER) * image_tokens + len(text) // CHARACTERS for text in texts]

    def load(self, index: int) -> dict[str, torch.Tensor]:
        conversation = self.conversations.load(index)
        drawn: Any = self.budgets.draw(index, len(conversation["images"]))
        return encode_conversation(self.processor, {**conversation, **drawn}, max_length=self.max_length)


@dataclass
class CurriculumStage:
    """Steps of a run before its own data."""

    steps: int  # of the optimizer
    data: list[str]  # sources, as the recipe's own

    def __post_init__(self) -> None:
        check_range("curriculum: steps", self.steps, 1, MAX_STEPS)
        if not self.data:
            raise InputError("curriculum: data: at least one source is needed")


class Curriculum(Dataset):
    """The samples of a run in the order in which they are seen: those of each stage, then the run's own data.

    Each part is shuffled by ``seed``, and begins again when it is used up; so it must be read in order.

    Args:
        parts: dataset and number of samples of each stage, then of the run's own data.
    """

    def __init__(self, parts: Sequence[tuple[Any, int]], seed: int) -> None:
        self.parts = [dataset for dataset, _ in parts]
        self.places: list[tuple[int, int]] = []  # part and index in it of every sample
        generator = torch.Generator().manual_seed(seed)
        for part, (dataset, count) in enumerate(parts):
            order: list[int] = []
            while len(order) < count:
                order += torch.randperm(len(dataset), generator=generator).tolist()
            self.places += [(part, index) for index in order[:count]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, place = self.places[index]
        return self.parts[part][place]


class Collator:
    """Makes samples one batch; images of all samples are concatenated in order.

    Returns `input_ids`, `attention_mask` and `labels`, each (B, T), and `pixel_values` (P, 3, H, W) over all P images
    of the batch, with what tells them apart (`join_images`), left out when there are none. Samples are padded on the
    right: padding has label -100 and attention 0.

    Packed, they lie one behind the other in one row (1, T) without padding, and `position_ids` that begin again with
    each take the place of the attention mask: transformers' attention keeps apart what they tell apart.
    """

    def __init__(self, pad_token_id: int, packing: bool = False) -> None:
        self.pad_token_id = pad_token_id
        self.flatten = DataCollatorWithFlattening() if packing else None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [{name: sample[name] for name in ("input_ids", "labels")} for sample in samples]
        with_images = [sample for sample in samples if "pixel_values" in sample]
        images = [{name: sample[name] for name in IMAGE_INPUTS if name in sample} for sample in with_images]
        batch = self._pad(texts) if self.flatten is None else self.flatten(texts)
        return {**batch, **join_images(images)}

    def _pad(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        def pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        return {
            "input_ids": pad([sample["input_ids"] for sample in samples], self.pad_token_id),
            "attention_mask": pad([torch.ones_like(sample["input_ids"]) for sample in samples], 0),
            "labels": pad([sample["labels"] for sample in samples], IGNORE),
        }
