"""The one way from a conversation to text and token ids, for training, chat and evaluation alike.

A conversation is ``{"messages": [{"role": ..., "content": [parts]}], "images": [pictures]}``; a part is
``{"type": "image"}`` or ``{"type": "text", "text": ...}``. The processor's chat template (Jinja) turns them into text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import torch

from data import InputError
from encoder.image_processing import trimmed

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

IGNORE = -100  # the label that torch's cross entropy leaves out
ROLES = ("system", "user", "assistant")

Message = dict[str, Any]
_SURROGATE = re.compile("[\ud800-\udfff]")  # from broken JSON, or bytes that are not UTF-8 on the command line

_TURNS = """\
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% endif -%}
{%- if system %}{{ system + ' ' }}{% endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}
{%- elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}
{%- elif not loop.first %}{{ raise_exception('the system message must be the first') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif -%}"""

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# Templates for language models whose tokenizer brings none. They take content as a string; see `with_pictures`.
CHAT_TEMPLATES = {
    # USER: question ASSISTANT: answer</s>, as LLaVA-1.5 writes it
    "plain": _TURNS,
    # the same behind the sentence that Vicuna was tuned with
    "vicuna": f'{{%- set system = "{_VICUNA_SYSTEM}" -%}}\n{_TURNS}',
    # <s>[INST] question [/INST] answer </s>
    "llama-2": """\
{%- set head = messages[0]['role'] == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' if head else '' -%}
{%- for message in (messages[1:] if head else messages) -%}
{%- if message['role'] == 'user' -%}
{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}
{%- else %}{{ raise_exception('the system message must be the first') }}
{%- endif -%}
{%- endfor -%}""",
    # <|im_start|>role ... <|im_end|>; the tokenizer must have both as special tokens
    "chatml": """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}""",
}

_PICTURES = """\
{#- Lists of parts become strings: a picture is its placeholder on a line of its own. -#}
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set text -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- elif message['content'] | length == 1 and message['content'][0]['type'] == 'text' -%}
{{ message['content'][0]['text'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- set seam = not loop.first and 'image' in (part['type'], loop.previtem['type']) -%}
{%- if seam and not loop.previtem.get('text', '').endswith('\\n') -%}{{ '\\n' }}{%- endif -%}
{{- 'IMAGE_TOKEN' if part['type'] == 'image' else part['text'] -}}
{%- endfor -%}
{%- endif -%}
{%- endset -%}
{%- set flat.messages = flat.messages + [dict(message, content=text.strip())] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


class TooLong(InputError):
    """A conversation that has more tokens than allowed."""


def with_pictures(template: str, image_token: str = "<image>") -> str:
    """Let a chat template for text take pictures.

    Templates of language models expect ``content`` to be a string; conversations with pictures have lists of parts. The
    lines put in front turn a list into a string: a picture becomes its placeholder on a line of its own, and blanks
    around a message are removed. So transformers' own callers (`apply_chat_template`, pipelines, servers) render what
    training did.
    """
    front = _PICTURES.replace("IMAGE_TOKEN", image_token)
    return template if template.startswith(front) else front + template


def render_prompt(processor: MLLMProcessor, messages: Sequence[Message]) -> str:
    """The text after which the assistant speaks, with one placeholder per picture.

    Raises:
        InputError: messages that are none, text with control tokens in it, a template that refuses the conversation.
    """
    _check_messages(processor, messages)
    return _render(processor, messages, generate=True)


def encode_conversation(
    processor: MLLMProcessor, conversation: dict[str, Any], max_length: int | None = None
) -> dict[str, torch.Tensor]:
    """A conversation as the model is trained on it.

    Learned are the assistant's words and the token that ends its turn, of every turn, and nothing else. Where they
    begin and end is found without knowing the template: up to an answer the conversation is rendered as it would be
    when asking for it, and both its text and its token ids must be the beginning of those of the whole conversation.

    Args:
        conversation: "messages" and "images"; the pictures stand in the order of the image parts.
        max_length: T may not be greater.

    Returns:
        ``input_ids`` (T,), ``labels`` (T,) with -100 where nothing is learned, and with pictures ``pixel_values``
        (P, 3, H, W).

    Raises:
        TooLong: more than ``max_length`` tokens.
        InputError: the conversation is malformed, teaches nothing, or cannot be masked exactly.
    """
    messages, images = conversation["messages"], list(conversation.get("images") or ())
    if not images:
        return encode_messages(processor, messages, (), max_length)
    inputs = processor.image_processor(trimmed(images, processor.image_processor), return_tensors="pt")
    pictures = [processor.replace_image_token(inputs, index) for index in range(len(images))]
    return {**encode_messages(processor, messages, pictures, max_length), "pixel_values": inputs["pixel_values"]}


def encode_messages(
    processor: MLLMProcessor,
    messages: Sequence[Message],
    pictures: Sequence[str],
    max_length: int | None = None,
) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` of `encode_conversation`, whose errors it has, without looking at the pictures.

    Args:
        pictures: what stands in the text for each of them, `MLLMProcessor.replace_image_token`'s.
    """
    parts = _check_messages(processor, messages)
    if parts != len(pictures):
        raise InputError(f"messages: {parts} image parts for {len(pictures)} pictures; each picture needs its part")
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise InputError("messages: none is the assistant's; there is nothing to learn")
    if turns[0] == 0:
        raise InputError("message 1: the assistant cannot speak first")

    text = _render(processor, messages)
    if text.count(processor.image_token) != parts:
        raise InputError(f"chat template: renders {text.count(processor.image_token)} of {parts} pictures")
    ids = _tokens(processor, text, pictures)
    if max_length is not None and len(ids) > max_length:
        raise TooLong(f"the conversation has {len(ids)} tokens, more than max_length={max_length}")

    labels = [IGNORE] * len(ids)
    control = _control_tokens(processor)
    # Where each of the assistant's turns begins, and where the last one is over, in characters and tokens.
    edges = [_edge(processor, messages[:index], text, ids, pictures, generate=True) for index in turns]
    over = turns[-1] + 1
    edges.append(
        (len(text), len(ids)) if over == len(messages) else _edge(processor, messages[:over], text, ids, pictures)
    )
    for turn, index in enumerate(turns):
        (begin, start), (finish, stop) = edges[turn : turn + 2]
        words = _words(messages[index])
        head, found, rest = text[begin:finish].partition(words) if words else ("", words, text[begin:finish])
        # These are the assistant's words, and not the same ones of the next user's, if the user is still to speak.
        following = messages[index + 1 : turns[turn + 1]] if turn + 1 < len(turns) else []
        if found != words or not all(_words(message) in rest for message in following):
            raise InputError(_INEXACT.format(f"it does not render the words of message {index + 1} as they are"))
        # The turn ends with the first control token behind the words; a template may also put some in front of them.
        behind = rest.partition(_words(following[0]))[0] if following and _words(following[0]) else rest
        if not any(token in behind for token in control.values()):
            raise InputError(_INEXACT.format("no special token ends the assistant's turn"))
        ends = [place for place in range(start, stop) if ids[place] in control]
        end = ends[sum(head.count(token) for token in control.values())] + 1
        labels[start:end] = ids[start:end]
    if len({label for label, after in zip(labels, [*labels[1:], IGNORE], strict=True) if label != after == IGNORE}) > 1:
        raise InputError(_INEXACT.format("its turns do not all end with the same token"))
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def _edge(
    processor: MLLMProcessor,
    messages: Sequence[Message],
    text: str,
    ids: Sequence[int],
    pictures: Sequence[str],
    generate: bool = False,
) -> tuple[int, int]:
    """The length of a conversation's first messages in characters and tokens; they must begin the whole one's."""
    number = len(messages) + generate
    before = _render(processor, messages, generate)
    if not text.startswith(before):
        raise InputError(_INEXACT.format(f"message {number} changes how the text around it is rendered"))
    ids_before = _tokens(processor, before, pictures)
    if ids[: len(ids_before)] != ids_before:
        raise InputError(_INEXACT.format(f"tokens reach across the edge of message {number}"))
    return len(before), len(ids_before)


def _words(message: Message) -> str:
    """What a message says, as the templates write it; its last words where pictures stand in between."""
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    return (texts[-1] if len(texts) < len(message["content"]) else "".join(texts)).strip() if texts else ""


_INEXACT = "chat template: cannot tell exactly which tokens are the assistant's: {}"


def end_of_turn(processor: MLLMProcessor) -> int:
    """The id of the token with which the assistant ends its turn: generation stops there.

    Raises:
        InputError: the chat template cannot be masked exactly; no conversation could be learned with it.
    """
    probe: list[Message] = []
    for role, text in (("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four.")):
        probe.append({"role": role, "content": [{"type": "text", "text": text}]})
    labels = encode_conversation(processor, {"messages": probe})["labels"]
    return int(labels[labels != IGNORE][-1])


def _check_messages(processor: MLLMProcessor, messages: Sequence[Message]) -> int:
    """The number of image parts; InputError for messages that are none, or whose text cannot be shown to a model."""
    if not messages:
        raise InputError("messages: there is none")
    tokens = {processor.image_token, *_control_tokens(processor).values()}
    control = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    pictures = 0
    for index, message in enumerate(messages, start=1):
        if message.get("role") not in ROLES:
            raise InputError(f"message {index}: role {message.get('role')!r} is none of {', '.join(ROLES)}")
        for part in message["content"]:
            if part.get("type") == "image" and message["role"] == "user":
                pictures += 1
            elif part.get("type") != "text":
                raise InputError(
                    f"message {index}: a part {part.get('type')!r} of role {message['role']!r} is not taken"
                )
            elif found := control.search(part["text"]):
                raise InputError(f"message {index}: the text holds the control token {found.group()!r}; take it out")
            elif found := _SURROGATE.search(part["text"]):
                raise InputError(f"message {index}: the text holds {found.group()!r}, which is no character; mend it")
    return pictures


def _control_tokens(processor: MLLMProcessor) -> dict[int, str]:
    """The tokenizer's special tokens by id."""
    added = processor.tokenizer.added_tokens_decoder
    return {index: token.content for index, token in added.items() if token.special}


def _render(processor: MLLMProcessor, messages: Sequence[Message], generate: bool = False) -> str:
    if processor.chat_template is None:
        raise InputError(f"the processor has no chat template; take one of {', '.join(CHAT_TEMPLATES)}")
    try:
        return processor.apply_chat_template(list(messages), add_generation_prompt=generate)
    except jinja2.TemplateError as problem:
        raise InputError(f"chat template: {problem}") from problem


def _tokens(processor: MLLMProcessor, text: str, pictures: Sequence[str]) -> list[int]:
    """Token ids of a rendered text, each placeholder replaced by its picture's placeholders."""
    first, *rest = text.split(processor.image_token)
    expanded = first + "".join(picture + piece for picture, piece in zip(pictures, rest, strict=False))
    bos = processor.tokenizer.bos_token
    begun = bos is not None and text.startswith(bos)
    return processor.tokenizer(expanded, add_special_tokens=not begun)["input_ids"]
