"""Chat templates: those for language models that bring none, and the one way in which any of them is rendered."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from types import FrameType
from typing import TYPE_CHECKING, Any

from data.errors import InputError, translated
from data.messages import Message, Part

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

STEPS = 1_000_000  # lines of a template that may be run for one conversation; a long one takes some thousands
_PROBE = "\ufdd2"  # no character, so no template has it

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

# Templates for language models whose tokenizer brings none. They take content as a string; see `with_images`.
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

_IMAGES = """\
{#- Lists of parts become strings: an image is its placeholder on a line of its own. -#}
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

# In place of transformers' `strftime_now`, which looks at the clock: what was begun goes on with the date of its begin.
# It is written in Jinja, as transformers hands no functions to templates; the last line keeps blanks behind it.
_DATED = """\
{%- macro strftime_now(format) -%}
{%- set written = namespace(text=format) -%}
{%- for sign, value in date_signs.items() -%}{%- set written.text = written.text.replace(sign, value) -%}{%- endfor -%}
{{- written.text -}}
{%- endmacro -%}
{{ '' }}"""
_SIGNS = "aAwdbBmyYHIMSpjUWcxXuVGeDFTR"


def with_images(template: str, image_token: str = "<image>") -> str:
    """Lets a chat template for text take images.

    Templates of language models expect ``content`` to be a string; conversations with images have lists of parts. The
    lines put in front turn a list into a string: an image becomes its placeholder on a line of its own, and blanks
    around a message are removed. So transformers' own callers (`apply_chat_template`, pipelines, servers) render what
    training did.
    """
    front = _IMAGES.replace("IMAGE_TOKEN", image_token)
    return template if template.startswith(front) else front + template


def portable(template: str) -> str:
    """Writes a template of `with_images` without what the Jinja of transformers.js does not know."""
    return template.replace("dict(message, content=text", "{'role': message['role'], 'content': text", 1).replace(
        ".strip())] -%}", ".strip()}] -%}", 1
    )


def with_answer_prefix(template: str, prefix: str) -> str:
    """Lets a template end the prompt with what it writes in front of an answer, for those who know nothing of it."""
    if not prefix:
        return template
    # one line break at the end of a template is none of its text
    written = json.dumps(prefix, ensure_ascii=False)
    return f"{template.removesuffix(chr(10))}{{% if add_generation_prompt %}}{{{{ {written} }}}}{{% endif %}}"


def render(processor: MLLMProcessor, messages: Sequence[Mapping[str, object]], generate: bool = False) -> str:
    """Renders messages, at the processor's date.

    Args:
        generate: go on to where the template has the assistant speak.

    Raises:
        InputError: there is no template, or it is none, refuses the messages or does not end.
    """
    template = processor.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise InputError(f"the processor has no chat template; take one of {', '.join(CHAT_TEMPLATES)}")
    signs = {}
    if "strftime_now" in template:
        template = _DATED + template
        signs = {"date_signs": _date_signs(processor.date)}
    with translated("chat template"), _bounded(template, len(messages)):
        return processor.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generate,
            **signs,
        )


@functools.lru_cache(maxsize=1)
def _date_signs(day: date) -> dict[str, str]:
    """Lists what strftime makes of each sign, at midnight; with a hyphen, which not all systems know, without zeros."""
    signs = {sign: datetime.combine(day, time()).strftime(f"%{sign}") for sign in _SIGNS}
    without = {f"%-{sign}": text.lstrip("0") or "0" for sign, text in signs.items()}
    return {f"%{sign}": text for sign, text in signs.items()} | without


def fold_system(processor: MLLMProcessor, messages: Sequence[Message]) -> Sequence[Message]:
    """Adapts messages to the template: the first user says a system message that it refuses, drops or moves."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    if _takes_system(processor, str(processor.chat_template)):
        return messages
    head, first, *rest = messages
    between: list[Part] = [{"type": "text", "text": "\n\n"}]
    return [{**first, "content": [*head["content"], *between, *first["content"]]}, *rest]


@functools.lru_cache(maxsize=8)
def _takes_system(processor: MLLMProcessor, template: str) -> bool:
    """Whether the processor's template writes a system message in front of everything, however it goes on."""
    words = {"system": _PROBE, "user": "?", "assistant": "!"}
    system, asked, said = ({"role": role, "content": text} for role, text in words.items())
    try:
        texts = [render(processor, [system, *turns]) for turns in ([asked], [asked, said], [asked, said, asked])]
        return all(_PROBE in text for text in texts) and len({text.partition(_PROBE)[0] for text in texts}) == 1
    except InputError:
        render(processor, [asked])  # a template that takes no user's turn either is no matter of the system's
        return False


_ended: set[tuple[str, int]] = set()  # templates, and for how many messages they came to an end


@contextmanager
def _bounded(template: str, messages: int) -> Iterator[None]:
    """Stops a template after STEPS lines: it is a program, which may run for ever, in any thread and on any system.

    Counting takes several times as long as rendering, so it is done once for each number of messages.
    """
    if (template, messages) in _ended:
        yield
        return
    left = STEPS

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != "<template>":  # the name under which jinja2 compiles
            return None
        left -= 1
        if left < 0:
            raise InputError(f"chat template: goes on and on, after {STEPS} steps; its loops must end")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
    _ended.add((template, messages))
