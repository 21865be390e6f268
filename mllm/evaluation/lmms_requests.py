"""What lmms-eval asks of a model, in our words. Needs no lmms-eval; `mllm.evaluation.lmms_model` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from data.errors import InputError
from data.images import open_image, to_rgb
from data.messages import Conversation, Message, Part

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


MODEL = "mllm"
"""The name of the model in lmms-eval: ``lmms-eval --model mllm``."""

_READ = ("max_new_tokens", "until", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")


def manifest() -> ModelManifest:
    """The entry point ``lmms_eval.models``: tells lmms-eval where the model's class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, chat_class_path="mllm.evaluation.lmms_model.LmmsModel")


def conversation_of(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """A task's messages as a conversation for `mllm.generation.answer`.

    Args:
        messages: with "role" and "content": a text, or parts ``{"type": "text", "text": str}`` and
            ``{"type": "image", "url": PIL image or path}``.
    Raises:
        InputError: a part is something else; an image cannot be opened.
    """
    images: list[Image.Image] = []
    converted: list[Message] = []
    for number, message in enumerate(messages, 1):
        content = message["content"]
        parts: list[Part] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                parts.append({"type": "image"})
                image = part["url"]
                images.append(to_rgb(image) if isinstance(image, Image.Image) else open_image(image))
            else:
                raise InputError(f"message {number}: holds a part {part['type']!r}; this model takes text and images")
        converted.append({"role": message["role"], "content": parts})
    return {"images": images, "messages": converted}


@dataclass(frozen=True)
class Request:
    """How a task wants its answers: options of `mllm.generation.answer`, and what it asks for that there is not."""

    max_new_tokens: int
    stop: tuple[str, ...]
    decoding: dict[str, Any]
    unknown: tuple[str, ...]


def read_generation_kwargs(asked: Mapping[str, Any], context: int | None) -> Request:
    """A task's ``generation_kwargs``. What is None counts as not given; without a temperature, decoding is greedy.

    Args:
        context: tokens of the language model. Some tasks ask for more new ones than that: half of it at most is given
            to the answer, so that the same questions fit whatever batch they are in.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    temperature = float(given.get("temperature", 1 if given.get("do_sample") else 0))
    decoding: dict[str, Any] = {"do_sample": bool(given.get("do_sample", True)) and temperature > 0}
    if decoding["do_sample"]:
        decoding |= {"temperature": temperature} | {name: given[name] for name in ("top_p", "top_k") if name in given}
    decoding |= {name: given[name] for name in ("num_beams", "repetition_penalty") if name in given}
    longest = int(given.get("max_new_tokens", 128))
    until = given.get("until", ())
    return Request(
        longest if context is None else min(longest, context // 2),
        tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        decoding,
        tuple(name for name in given if name not in _READ),
    )
