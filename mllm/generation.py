"""From conversations to the model's next words: the one way that chat, evaluation and demo share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from data import InputError
from mllm.prompts import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.streamers import BaseStreamer

    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

Conversation = dict[str, Any]


def question(text: str, images: Sequence[Any] = ()) -> Conversation:
    """A conversation of one user turn: the pictures, then the text."""
    return {"images": list(images), "messages": [user_turn(text, len(images))]}


def user_turn(text: str, pictures: int = 0) -> dict[str, Any]:
    """A user's message with as many new pictures in front of the text."""
    return {"role": "user", "content": [{"type": "image"}] * pictures + [{"type": "text", "text": text}]}


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    conversations: Sequence[Conversation],
    max_new_tokens: int = 128,
    streamer: BaseStreamer | None = None,
) -> list[str]:
    """Greedy answers to a batch of conversations that end with a user's turn.

    Prompts of unequal length are padded on the left, so an answer does not depend on the batch it is in.

    Args:
        conversations: with "messages" and "images" (PIL), as everywhere.
        streamer: gets the tokens of the only conversation while they come.
    Raises:
        InputError: a conversation is longer than what the language model was built for.
    """
    prompts = [render_prompt(processor, conversation["messages"]) for conversation in conversations]
    images = [image for conversation in conversations for image in conversation["images"]]
    inputs = processor(text=prompts, images=images or None, padding=True, padding_side="left", return_tensors="pt").to(
        model.device
    )
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    start = inputs["input_ids"].shape[1]
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and start + max_new_tokens > longest:
        raise InputError(
            f"the conversation has {start} tokens; with {max_new_tokens} new ones the language model's "
            f"{longest} are exceeded: start a new conversation or ask for fewer with --max-new-tokens"
        )
    generate: Any = model.generate
    tokens = generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    return [text.strip() for text in processor.batch_decode(tokens[:, start:], skip_special_tokens=True)]


class Questions(Protocol):
    """Items with "question" and "image": a list or a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def ask_all(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    questions: Questions,
    batch_size: int = 32,
    max_new_tokens: int = 16,
) -> list[dict[str, Any]]:
    """Greedy answers to items with "question" and "image", in order.

    Returns:
        the items without their pictures, and with a "prediction" each.
    """
    records: list[dict[str, Any]] = []
    for start in range(0, len(questions), batch_size):
        batch = [questions[place] for place in range(start, min(start + batch_size, len(questions)))]
        asked = [question(item["question"], [item["image"]]) for item in batch]
        for item, prediction in zip(batch, answer(model, processor, asked, max_new_tokens), strict=True):
            records.append({**{name: item[name] for name in item if name != "image"}, "prediction": prediction})
        logger.info("%d of %d questions", len(records), len(questions))
    return records
