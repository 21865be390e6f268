"""The one way from a conversation to text and token ids, for training, chat and evaluation alike.

A conversation is ``{"messages": [{"role": ..., "content": [parts]}], "images": [images]}``; a part is
``{"type": "image"}``, ``{"type": "text", "text": ...}`` or ``{"type": "place", "place": ..., "image": ...}``, which is
written as `data.places.write_place` does, in thousandths of what the model sees of the image. The processor's chat
template (Jinja) turns them into text.

What the template writes is control text, and what people and the assistant say is words: a control token in words
(``<s>`` in an answer about HTML) is spelled out in tokens of plain text, and never acts as one.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from data import InputError
from data.messages import Conversation, Message, Part, Place
from data.places import WHOLE, to_view, write_place
from mllm.templates import fold_system, render

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

IGNORE = -100  # the label that torch's cross entropy leaves out
ROLES = ("system", "user", "assistant")

# Two of Unicode's noncharacters, which no text has: the first stands where a control token in words is torn apart, the
# second for the words of an answer.
_TEAR, _ANSWER = "\ufdd0", "\ufdd1"
# from broken JSON, or bytes that are not UTF-8 on the command line
_NO_CHARACTER = re.compile("[\ud800-\udfff\ufdd0-\ufdef]")


class TooLong(InputError):
    """Says that a conversation has more tokens than allowed."""


def render_prompt(processor: MLLMProcessor, messages: Sequence[Message]) -> str:
    """Renders the text after which the assistant speaks, with one placeholder per image, as people read it.

    It has all that the template writes in front of the assistant's words, such as an empty chain of thought.

    Raises:
        InputError: messages that are none, a template that refuses the conversation.
    """
    return _turn(processor, _ready(processor, messages)).prompt.replace(_TEAR, "")


def encode_prompt(
    processor: MLLMProcessor, messages: Sequence[Message], image_texts: Sequence[str], views: Sequence[Place] = ()
) -> list[int]:
    """Encodes `render_prompt`'s text, whose errors it has: the tokens that the model gets before it answers.

    Args:
        image_texts: what stands in the text for each of them, `MLLMProcessor.replace_image_token`'s.
        views: what is seen of each of them, `MLLMProcessor.views`; by default all.
    """
    ready = _ready(processor, messages, image_texts, views)
    prompt = _turn(processor, ready).prompt
    _check_images(processor, prompt, image_texts)
    return _tokens(processor, prompt, image_texts)


def encode_conversation(
    processor: MLLMProcessor, conversation: Conversation, max_length: int | None = None
) -> dict[str, torch.Tensor]:
    """Encodes a conversation as the model is trained on it.

    The target tokens are the assistant's words and the token that ends its turn, of every turn. Where they begin and
    end is found without knowing the template: up to an answer the conversation is rendered as it would be when asking
    for it, and both its text and its token ids must be the beginning of those of the whole conversation.

    Some templates write an answer otherwise once it is past, without the chain of thought in front of it. In the whole
    conversation it does not follow what it would follow when asked for, so such a turn is context and no target.

    Args:
        conversation: "messages" and "images"; the images stand in the order of the image parts.
        max_length: T may not be greater.

    Returns:
        ``input_ids`` (T,), ``labels`` (T,) with -100 except for target tokens, and with images what
        `MLLMProcessor.read_images` returns.

    Raises:
        TooLong: more than ``max_length`` tokens.
        InputError: the conversation is malformed, has no supervised tokens, or cannot be masked exactly.
    """
    messages, images = conversation["messages"], conversation["images"]
    if not images:
        return encode_messages(processor, messages, (), max_length)
    image_texts, inputs = processor.read_images(images, **image_options(conversation))
    views = processor.views([image.size for image in images], conversation.get("image_size"))
    return {**encode_messages(processor, messages, image_texts, max_length, views), **inputs}


def image_options(conversation: Conversation) -> dict[str, Any]:
    """What a conversation says of how its images are looked at, for `MLLMProcessor.read_images`."""
    names = ("num_tokens", "focus_rois", "image_size")
    return {name: conversation[name] for name in names if name in conversation}  # type: ignore[literal-required]


def encode_messages(
    processor: MLLMProcessor,
    messages: Sequence[Message],
    image_texts: Sequence[str],
    max_length: int | None = None,
    views: Sequence[Place] = (),
) -> dict[str, torch.Tensor]:
    """Makes ``input_ids`` and ``labels`` of `encode_conversation`, whose errors it has, without opening the images.

    Args:
        image_texts: what stands in the text for each of them, `MLLMProcessor.replace_image_token`'s.
        views: what is seen of each of them, `MLLMProcessor.views`; by default all.
    """
    messages = _ready(processor, messages, image_texts, views)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise InputError("messages: none is the assistant's; there are no supervised tokens")
    if turns[0] == 0:
        raise InputError("message 1: the assistant cannot speak first")

    text = render(processor, messages)
    _check_images(processor, text, image_texts)
    ids = _tokens(processor, text, image_texts)
    if max_length is not None and len(ids) > max_length:
        raise TooLong(f"the conversation has {len(ids)} tokens, more than max_length={max_length}")

    labels = [IGNORE] * len(ids)
    special = _any_of(_special_tokens(processor))
    ends = set()
    for index in turns:
        turn, words = _turn(processor, messages[:index]), _words(messages[index])
        end = special.search(turn.behind)
        if end is None:
            raise InputError(_INEXACT.format("no special token ends the assistant's turn"))
        if not text.startswith(turn.prompt + turn.blanks + words + turn.behind[: end.end()]):
            if index != turns[-1]:
                _say_once("chat template: writes answers otherwise once they are past; those have no target tokens")
                continue
            raise InputError(_INEXACT.format((_UNLIKE if text.startswith(turn.prompt) else _CHANGES).format(index + 1)))
        start = len(before := _tokens(processor, turn.prompt, image_texts))
        if ids[:start] != before:
            raise InputError(_INEXACT.format(f"tokens reach across the boundary of message {index + 1}"))
        ends.add(token := processor.tokenizer.convert_tokens_to_ids(end.group()))
        stop = ids.index(token, start) + 1  # it is the first one: words have none
        labels[start:stop] = ids[start:stop]
    if len(ends) > 1:
        raise InputError(_INEXACT.format("its turns do not all end with the same token"))
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


_INEXACT = "chat template: cannot tell exactly which tokens are the assistant's: {}"
_CHANGES = "message {} changes how the text around it is rendered"
_UNLIKE = "it does not render the words of message {} as they are"


def answer_prefix(processor: MLLMProcessor) -> str:
    """Finds what the template writes between its own generation prompt and an answer's words, without their blanks."""
    asked: list[Message] = [{"role": "user", "content": [{"type": "text", "text": "One?"}]}]
    return _turn(processor, asked).prompt.removeprefix(render(processor, asked, generate=True))


def end_of_turn(processor: MLLMProcessor) -> int:
    """Finds the id of the token with which the assistant ends its turn: generation stops there.

    Raises:
        InputError: the chat template cannot be masked exactly; no conversation could be trained on with it.
    """
    probe: list[Message] = []
    for role, text in (("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four.")):
        probe.append({"role": role, "content": [{"type": "text", "text": text}]})
    labels = encode_conversation(processor, {"messages": probe, "images": []})["labels"]
    return int(labels[labels != IGNORE][-1])


class _Turn(NamedTuple):
    """A template writes an answer as prompt, blanks that belong to the first word's token, words, and what follows."""

    prompt: str
    blanks: str
    behind: str


def _turn(processor: MLLMProcessor, messages: Sequence[Message]) -> _Turn:
    """Finds how the answer to ``messages`` is written, by rendering one that is a sign which nothing else has."""
    number = len(messages) + 1
    asked = render(processor, messages, generate=True)
    before, found, behind = render(processor, [*messages, {"role": "assistant", "content": _ANSWER}]).partition(_ANSWER)
    if not found or _ANSWER in behind:
        raise InputError(_INEXACT.format(_UNLIKE.format(number)))
    if not before.startswith(asked):
        raise InputError(_INEXACT.format(_CHANGES.format(number)))
    cut = len(before) - _joined(processor.tokenizer, asked[-8:], before[len(asked) :])
    return _Turn(before[:cut], before[cut:], behind)


@functools.lru_cache(maxsize=16)
def _joined(tokenizer: Any, before: str, prefix: str) -> int:
    """Counts the blanks at the end of ``prefix`` that are one token with a word behind them: they are the words'."""
    blanks = len(prefix) - len(prefix.rstrip())

    def encode(text: str) -> list[int]:
        return tokenizer(before + text, add_special_tokens=False)["input_ids"]

    for count in range(blanks):
        alone = encode(prefix[: len(prefix) - count])
        if all(encode(prefix + word)[: len(alone)] == alone for word in _WORDS):
            return count
    return blanks


_WORDS = (*string.ascii_letters, *string.digits, *string.punctuation, "é", "の", "the", "The", "yes", "Yes", "no", "No")


def _ready(
    processor: MLLMProcessor,
    messages: Sequence[Message],
    image_texts: Sequence[str] | None = None,
    views: Sequence[Place] = (),
) -> Sequence[Message]:
    """Makes messages ready for rendering: the system's where the template takes it, control tokens in words torn apart,
    places as words.

    Raises:
        InputError: they are none, there are more or fewer image parts than ``image_texts``, or a place is not seen.
    """
    if not messages:
        raise InputError("messages: there is none")
    parts = _check_parts(messages)
    if image_texts is not None and parts != len(image_texts):
        raise InputError(f"messages: {parts} image parts for {len(image_texts)} images; each image needs its part")
    special = _special_tokens(processor)
    # Tokens that are not special, such as tags of thought, act as control tokens if the template writes them. Only the
    # assistant may say those.
    added = {token.content for token in processor.tokenizer.added_tokens_decoder.values()}
    written = {token for token in added if token.strip() and token in str(processor.chat_template)}
    assistants, others = _any_of(special), _any_of(special | written)
    torn: list[Message] = []
    for message in fold_system(processor, messages):
        control = assistants if message["role"] == "assistant" else others
        content: list[Part] = []
        for shown, group in itertools.groupby(message["content"], key=lambda part: part["type"] == "image"):
            if shown:
                content += group
            else:  # joined first, so that no token is put together of two parts
                text = "".join(_text(part, views) for part in group)
                content.append({"type": "text", "text": control.sub(_tear, text)})
        torn.append({"role": message["role"], "content": content})
    return torn


def _text(part: Part, views: Sequence[Place]) -> str:
    """Returns the words of a text, or a place in thousandths of what is seen of its image."""
    if part["type"] == "text":
        return part["text"]
    view = views[part["image"]] if views else WHOLE
    place = to_view(part["place"], view)
    if place is None:
        seen = f"{write_place(part['place'])} lies outside of what the model sees of the image, {write_place(view)}"
        raise InputError(f"messages: {seen}; leave the sample out, or take an image processor that does not crop")
    return write_place(place)


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))


def _tear(found: re.Match[str]) -> str:
    token = found.group()
    if len(token) == 1:
        raise InputError(f"messages: the text holds the control token {token!r}; take it out")
    return token[0] + _TEAR + token[1:]


def _check_parts(messages: Sequence[Message]) -> int:
    """Counts the image parts. Raises InputError for messages that are none, or whose text is none."""
    images = 0
    for index, message in enumerate(messages, start=1):
        if message.get("role") not in ROLES:
            raise InputError(f"message {index}: role {message.get('role')!r} is none of {', '.join(ROLES)}")
        for part in message["content"]:
            if part.get("type") == "image" and message["role"] == "user":
                images += 1
            elif part.get("type") == "place":
                continue
            elif part.get("type") != "text":
                raise InputError(
                    f"message {index}: a part {part.get('type')!r} of role {message['role']!r} is not taken"
                )
            elif found := _NO_CHARACTER.search(part["text"]):
                raise InputError(f"message {index}: the text holds {found.group()!r}, which is no character; fix it")
    return images


def _check_images(processor: MLLMProcessor, text: str, image_texts: Sequence[str]) -> None:
    if (count := text.count(processor.image_token)) != len(image_texts):
        raise InputError(f"chat template: renders {count} of {len(image_texts)} images")


def _words(message: Message) -> str:
    """Returns what the assistant says, as the templates write it."""
    return "".join(part["text"] for part in message["content"]).strip()


@functools.lru_cache
def _say_once(text: str) -> None:
    logger.warning("%s", text)


def _special_tokens(processor: MLLMProcessor) -> set[str]:
    added = processor.tokenizer.added_tokens_decoder.values()
    return {processor.image_token, *(token.content for token in added if token.special)}


def _tokens(processor: MLLMProcessor, text: str, image_texts: Sequence[str]) -> list[int]:
    """Encodes a rendered text, each placeholder replaced by its image's placeholders."""
    tokenizer = processor.tokenizer
    first, *rest = text.split(processor.image_token)
    first, *rest = (first + "".join(map("".join, zip(image_texts, rest, strict=False)))).split(_TEAR)
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids = tokenizer(first, add_special_tokens=not begun)["input_ids"]
    if rest:
        # Behind a line break, since many tokenizers put a blank in front of a text that begins.
        line = tokenizer("\n", add_special_tokens=False)["input_ids"]
        for piece in rest:
            behind = tokenizer("\n" + piece, add_special_tokens=False)["input_ids"]
            apart = behind[: len(line)] == line
            ids += behind[len(line) :] if apart else tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids
