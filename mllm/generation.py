"""From conversations to the model's next words: the one way that chat, evaluation and demo share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import BatchFeature, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from data import InputError
from data.messages import Conversation, Message, Part, Place
from data.places import WHOLE, from_view, map_places, to_view
from mllm.compat import CACHE
from mllm.loading import context_length
from mllm.processing import IMAGE_INPUTS, join_images
from mllm.prompts import encode_prompt, image_options

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel
    from transformers.generation.streamers import BaseStreamer

    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

Shown = tuple["Image", tuple[object, ...]]  # an image, and how it is looked at
GREEDY: Mapping[str, object] = MappingProxyType({"do_sample": False})


def sampled(temperature: float, top_p: float = 1.0) -> Mapping[str, object]:
    """Options of transformers' `generate` that draw words by chance, of `GREEDY` where the temperature is 0."""
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else GREEDY


def question(
    text: str, images: Sequence[Any] = (), num_tokens: int | None = None, image_size: int | None = None
) -> Conversation:
    """Makes a conversation of one user turn: the images, each looked at with ``num_tokens``, then the text."""
    conversation: Conversation = {"images": list(images), "messages": [user_turn(text, len(images))]}
    if num_tokens is not None:
        conversation["num_tokens"] = [num_tokens] * len(images)
    if image_size is not None:
        conversation["image_size"] = image_size
    return conversation


def user_turn(text: str, images: int = 0) -> Message:
    """Makes a user's message with as many new images in front of the text."""
    shown: list[Part] = [{"type": "image"}] * images
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


class PrefixCache:
    """Holds keys and values of one conversation's earlier turns, with the tokens and images that they belong to.

    Of the next prompt only what follows the longest common prefix is run, and only new images are encoded. Normally
    that is the last turn. Where the new prompt renders the last answer in other tokens than it was generated in, the
    cache is cropped to where they part. It is dropped, and everything is run again, if images follow that position or
    are others than before, if the language model's cache cannot be cropped (sliding windows), or if the last answer
    was interrupted.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drops the cache."""
        self.cache: Cache | None = None
        self.tokens: list[int] = []
        self.images: list[Shown] = []

    def match(self, tokens: Sequence[int], images: Sequence[Shown], image_token: int) -> tuple[Cache | None, int]:
        """Finds what is known of a prompt; this object is empty afterwards, until `update` fills it.

        Returns:
            the cache of the prompt's prefix, None if there is none, and the number of images in it.
        """
        cache, known, seen = self.cache, self.tokens, self.images
        self.clear()
        if cache is None:
            return None, 0
        most = min(len(known), len(tokens) - 1)  # one token at least is run, which predicts the next one
        same = next((index for index in range(most) if known[index] != tokens[index]), most)
        others = len(seen) > len(images) or any(
            old[0] is not new[0] or old[1] != new[1] for old, new in zip(seen, images, strict=False)
        )
        if others or image_token in known[same:]:
            return None, 0
        if same < len(known):
            if any(type(layer) is not DynamicLayer for layer in cache.layers):
                return None, 0
            cache.crop(same - len(known))
        return cache, len(seen)

    def update(self, cache: Cache, tokens: Sequence[int], images: Sequence[Shown]) -> None:
        """Keeps a cache with the prompt's and the answer's tokens, and the images among them."""
        self.cache, self.images = cache, list(images)
        self.tokens = list(tokens[: cache.get_seq_length()])  # the last token generated was not run


def prepare(processor: MLLMProcessor, conversations: Sequence[Conversation]) -> BatchFeature:
    """Makes a batch, on the CPU, of conversations that end with a user's turn: tokens and pixel values.

    Prompts of unequal length are padded on the left, so an answer does not depend on the batch it is in. Another thread
    can do this ahead, with a copy of the processor: no tokenizer can be used by two threads at once.

    Raises:
        InputError: as for `encode_prompt`.
    """
    rows, read = [], []
    for conversation in conversations:
        texts: list[str] = []
        if conversation["images"]:
            texts, inputs = processor.read_images(conversation["images"], **image_options(conversation))
            read.append(inputs)
        views = processor.views([image.size for image in conversation["images"]], conversation.get("image_size"))
        messages = as_seen(conversation["messages"], views)
        rows.append(torch.tensor(encode_prompt(processor, messages, texts, views)))

    def pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")

    batch = {
        "input_ids": pad(rows, processor.tokenizer.pad_token_id),
        "attention_mask": pad([torch.ones_like(row) for row in rows], 0),
    }
    return BatchFeature({**batch, **join_images(read)})


def as_seen(messages: Sequence[Message], views: Sequence[Place]) -> list[Message]:
    """Returns messages in whose words the places, of the image shown last, are in thousandths of what is seen of it."""
    if all(view == WHOLE for view in views):
        return list(messages)
    shown, seen = 0, list[Message]()
    for message in messages:
        content: list[Part] = []
        for part in message["content"]:
            shown += part["type"] == "image"
            if part["type"] == "text" and shown:
                content.append({"type": "text", "text": map_places(part["text"], _into(views[shown - 1]))})
            else:
                content.append(part)
        seen.append(Message(role=message["role"], content=content))
    return seen


def _into(view: Place) -> Callable[[Place], Place]:
    return lambda place: to_view(place, view) or place


def in_image(processor: MLLMProcessor, text: str, conversation: Conversation) -> str:
    """Writes a model's words with their places in thousandths of the last image instead of what is seen of it."""
    sizes = [image.size for image in conversation["images"][-1:]]
    views = processor.views(sizes, conversation.get("image_size"))
    return text if views in ([], [WHOLE]) else map_places(text, lambda place: from_view(place, views[0]))


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    conversations: Sequence[Conversation],
    max_new_tokens: int = 128,
    streamer: BaseStreamer | None = None,
    prefix_cache: PrefixCache | None = None,
    *,
    inputs: BatchFeature | None = None,
    stop: Sequence[str] = (),
    decoding: Mapping[str, object] = GREEDY,
) -> list[str]:
    """Answers a batch of conversations that end with a user's turn.

    Places in questions and answers (`data.places`) are those of the whole image, although the model may see it cropped.

    Args:
        conversations: with "messages" and "images" (PIL), as everywhere.
        streamer: gets the tokens of the only conversation while they come.
        prefix_cache: of the only conversation's earlier turns; it is updated with this one.
        inputs: what `prepare` made of the conversations, if that was done ahead.
        stop: texts that end an answer; they are no part of it.
        decoding: options of transformers' `generate`.
    Raises:
        InputError: a conversation is longer than what the language model was built for; and as for `prepare`.
    """
    images = [each for conversation in conversations for each in shown(conversation)]
    inputs = (prepare(processor, conversations) if inputs is None else inputs).to(model.device)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    start = inputs["input_ids"].shape[1]
    longest = context_length(model.config)
    if longest is not None and start + max_new_tokens > longest:
        raise InputError(
            f"the conversation has {start} tokens; with {max_new_tokens} new ones the language model's "
            f"{longest} are exceeded: start a new conversation or ask for fewer with --max-new-tokens"
        )
    more: dict[str, Any] = dict(decoding)
    if stop:
        more |= {"stop_strings": list(stop), "tokenizer": processor.tokenizer}
    if prefix_cache is not None:
        image_token: Any = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        cache, known = prefix_cache.match(inputs["input_ids"][0].tolist(), images, image_token)
        more[CACHE] = DynamicCache(config=model.config.get_text_config()) if cache is None else cache
        for name in [name for name in IMAGE_INPUTS if name in inputs]:
            if known == len(images):
                del inputs[name]
            else:
                inputs[name] = inputs[name][known:]
    generate: Any = model.generate
    tokens = generate(**inputs, **more, max_new_tokens=max_new_tokens, streamer=streamer)
    if prefix_cache is not None:
        prefix_cache.update(more[CACHE], tokens[0].tolist(), images)
    texts = processor.batch_decode(tokens[:, start:], skip_special_tokens=True)
    for end in stop:
        texts = [text.partition(end)[0] for text in texts]
    return [in_image(processor, text.strip(), each) for text, each in zip(texts, conversations, strict=True)]


def shown(conversation: Conversation) -> list[Shown]:
    """Each image of a conversation with the options that it is looked at with."""
    options = image_options(conversation)
    size = options.pop("image_size", None)
    return [
        (image, (size, *(values[index] for values in options.values())))
        for index, image in enumerate(conversation["images"])
    ]


class Questions(Protocol):
    """Stands for a list or a dataset of items with "question" and "image"."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def ask_all(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    questions: Questions,
    batch_size: int = 32,
    max_new_tokens: int = 16,
) -> list[dict[str, Any]]:
    """Answers items with "question" and "image" greedily, in order.

    Returns:
        the items without their images, and with a "prediction" each.
    """
    records: list[dict[str, Any]] = []
    for start in range(0, len(questions), batch_size):
        batch = [questions[place] for place in range(start, min(start + batch_size, len(questions)))]
        asked = [question(item["question"], [item["image"]]) for item in batch]
        for item, prediction in zip(batch, answer(model, processor, asked, max_new_tokens), strict=True):
            records.append({**{name: item[name] for name in item if name != "image"}, "prediction": prediction})
        logger.info("%d of %d questions", len(records), len(questions))
    return records
