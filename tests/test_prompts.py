"""Prompts: which tokens are targets, token by token, for templates and tokenizers of several kinds."""

from __future__ import annotations

import pytest
import torch

from data import InputError
from mllm.processing import MLLMProcessor
from mllm.prompts import IGNORE, TooLong, answer_prefix, encode_conversation, encode_prompt, end_of_turn, render_prompt
from mllm.templates import CHAT_TEMPLATES, with_answer_prefix, with_images
from tests.tiny import assistant, chat_processor, image, learned_stretches, system, user

LLAMA_3 = """\
{%- for message in messages -%}
{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"""

# A channel in front of the words, as some models have it: control tokens that do not end the turn.
CHANNELS = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + ('<|channel|>final' if message.role == 'assistant' else '') }}
{{- '<|im_sep|>' + message.content + '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant' }}{%- endif -%}"""

# name -> template, special tokens that it needs, and around an answer: what the model must say
TEMPLATES = {
    "plain": (CHAT_TEMPLATES["plain"], (), " {}EOS"),
    "vicuna": (CHAT_TEMPLATES["vicuna"], (), " {}EOS"),
    "llama-2": (CHAT_TEMPLATES["llama-2"], (), " {} EOS"),
    "chatml": (CHAT_TEMPLATES["chatml"], ("<|im_start|>", "<|im_end|>"), "{}<|im_end|>"),
    "llama-3": (LLAMA_3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "{}<|eot_id|>"),
    "channels": (CHANNELS, ("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|channel|>"), "{}<|im_end|>"),
}
ANSWERS = ["Yes, there is one.", "Two squares,\nand a star."]
QUESTIONS = ["Is there a red circle?", "How many squares are there?"]


@pytest.fixture(params=list(TEMPLATES))
def processor(request, tokenizer_dirs, kind) -> MLLMProcessor:
    template, special, says = TEMPLATES[request.param]
    made = chat_processor(tokenizer_dirs, kind, template, special)
    made.chat_template = with_answer_prefix(made.chat_template, answer_prefix(made))  # as `mllm.assemble` does
    made.says = says.replace("EOS", made.tokenizer.eos_token)
    return made


@pytest.mark.parametrize("with_system", [False, True])
@pytest.mark.parametrize("turns", [1, 2])
def test_exactly_the_answers_and_their_ends_are_targets(processor, turns, with_system):
    messages = [system("Be brief.")] if with_system else []
    for question, answer in list(zip(QUESTIONS, ANSWERS, strict=True))[:turns]:
        messages += [user(question, images=1), assistant(answer)]
    conversation = {"messages": messages, "images": [image(turn) for turn in range(turns)]}
    encoded = encode_conversation(processor, conversation)
    ids, labels = encoded["input_ids"], encoded["labels"]
    assert ids.shape == labels.shape
    assert encoded["pixel_values"].shape == (turns, 3, 32, 32)
    assert (ids == processor.image_token_id).sum() == 3 * turns
    assert torch.equal(labels[labels != IGNORE], ids[labels != IGNORE])

    stretches = learned_stretches(labels)
    assert len(stretches) == turns
    answered = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index, (start, end), answer in zip(answered, stretches, ANSWERS, strict=False):
        # token by token: the tokens in front are those of the prompt at which the model is asked ...
        prompt = render_prompt(processor, messages[:index])
        images = conversation["images"][: index // 2 + 1][: prompt.count("<image>")]
        asked = processor(text=prompt, images=images)["input_ids"][0]
        assert ids[:start].tolist() == asked
        # ... and the targets decode to what it must say, the last of them being its end of turn.
        said = processor.tokenizer.decode(ids[:end], skip_special_tokens=False)
        heard = processor.tokenizer.decode(ids[:start], skip_special_tokens=False)
        assert said.startswith(heard)
        assert said[len(heard) :].split() == processor.says.format(answer).split()
        assert ids[end - 1] == end_of_turn(processor)


def test_a_mask_written_by_hand(tokenizer_dirs):
    processor = chat_processor(tokenizer_dirs, "sentencepiece", CHAT_TEMPLATES["plain"])
    messages = [user("How many?", 1), assistant("Two."), user("Sure?"), assistant("Yes.")]
    encoded = encode_conversation(processor, {"messages": messages, "images": [image()]})
    tokens = processor.tokenizer.convert_ids_to_tokens(encoded["input_ids"].tolist())
    text = processor.tokenizer.decode(encoded["input_ids"])
    assert text == "<s> USER: <image><image><image>\nHow many? ASSISTANT: Two.</s>USER: Sure? ASSISTANT: Yes.</s>"
    targets = [token if label != IGNORE else "-" for token, label in zip(tokens, encoded["labels"], strict=True)]
    assert [token for token in targets if token != "-"] == [
        *tokens_of(processor, " Two."),
        "</s>",
        *tokens_of(processor, " Yes."),
        "</s>",
    ]
    assert targets[0] == "-"
    assert targets[-1] == "</s>"


def tokens_of(processor: MLLMProcessor, text: str) -> list[str]:
    """Tokens of a text behind a colon."""
    return processor.tokenizer.tokenize("a:" + text)[len(processor.tokenizer.tokenize("a:")) :]


def test_text_alone_and_several_images_in_a_message(processor):
    text_only = encode_conversation(processor, {"messages": [user("Hi."), assistant("Yes.")], "images": []})
    assert "pixel_values" not in text_only
    conversation = {"messages": [user("Compare.", 2), assistant("Yes.")], "images": [image(0), image(1)]}
    encoded = encode_conversation(processor, conversation)
    assert encoded["pixel_values"].shape[0] == 2
    assert (encoded["input_ids"] == processor.image_token_id).sum() == 6
    assert (encoded["labels"] != IGNORE).sum() == (text_only["labels"] != IGNORE).sum()


def test_transformers_own_way_gives_the_same_tokens(processor):
    """apply_chat_template(tokenize=True) is what pipelines and servers call."""
    messages = [user("Compare.", 2), assistant("Two."), user("Why?")]
    parts = [{"type": "image", "image": image(0)}, {"type": "image", "image": image(1)}]
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": [*parts, messages[0]["content"][-1]]}, *messages[1:]],
        add_generation_prompt=True, tokenize=True, return_dict=True,
    )  # fmt: skip
    answered = encode_conversation(
        processor, {"messages": [*messages, assistant("Yes.")], "images": [image(0), image(1)]}
    )
    prompt = theirs["input_ids"][0]
    assert answered["input_ids"][: len(prompt)].tolist() == prompt
    assert answered["labels"][len(prompt)] != IGNORE
    strings = processor.apply_chat_template([{"role": "user", "content": " Why? "}], add_generation_prompt=True)
    assert strings == render_prompt(processor, [user("Why?")])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["I", "What?"], "<image>\nWhat?"),
        (["I", "\nWhat?"], "<image>\n\nWhat?"),
        (["What?\n", "I"], "What?\n<image>"),
        (["I", "I", "What?"], "<image>\n<image>\nWhat?"),
        (["Is ", "I", " like ", "I", "?"], "Is \n<image>\n like \n<image>\n?"),
        (["What ", "now?"], "What now?"),
    ],
)
def test_where_images_stand(tokenizer_dirs, parts, expected):
    processor = chat_processor(tokenizer_dirs, "sentencepiece", CHAT_TEMPLATES["plain"])
    content = [{"type": "image"} if part == "I" else {"type": "text", "text": part} for part in parts]
    assert render_prompt(processor, [{"role": "user", "content": content}]) == f"USER: {expected} ASSISTANT:"


def test_templates(tokenizer_dirs):
    messages = [system("Be brief."), user("One?"), assistant("Two."), user("Three?")]
    expected = {
        "plain": "Be brief. USER: One? ASSISTANT: Two.</s>USER: Three? ASSISTANT:",
        "vicuna": "Be brief. USER: One? ASSISTANT: Two.</s>USER: Three? ASSISTANT:",
        "llama-2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nOne? [/INST] Two. </s><s>[INST] Three? [/INST]",
        "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n",
    }
    assert set(expected) == set(CHAT_TEMPLATES)
    for name, template in CHAT_TEMPLATES.items():
        processor = chat_processor(tokenizer_dirs, "sentencepiece", template)
        assert render_prompt(processor, messages) == expected[name]
        assert with_images(processor.chat_template) == processor.chat_template
    vicuna = chat_processor(tokenizer_dirs, "sentencepiece", CHAT_TEMPLATES["vicuna"])
    assert render_prompt(vicuna, messages[1:]).startswith(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: One?"
    )


def test_too_long(tokenizer_dirs):
    processor = chat_processor(tokenizer_dirs, "sentencepiece", CHAT_TEMPLATES["plain"])
    conversation = {"messages": [user("What?", 1), assistant("Yes.")], "images": [image()]}
    length = len(encode_conversation(processor, conversation)["input_ids"])
    assert len(encode_conversation(processor, conversation, max_length=length)["labels"]) == length
    with pytest.raises(TooLong, match=f"has {length} tokens, more than max_length={length - 1}"):
        encode_conversation(processor, conversation, max_length=length - 1)


def template(content: str = "m.content", end: str = "eos_token", ask: str = "assistant:") -> str:
    return (
        f"{{% for m in messages %}}{{{{ m.role + ': ' + {content} + {end} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{ask}' }}}}{{% endif %}}"
    )


UNMASKABLE = [
    (template(end="'!'"), "no special token ends"),
    (template(ask="ASSISTANT:"), "changes how the text"),  # no answer begins like that
    (template(ask="assistant: "), "tokens reach across"),  # the blank belongs to the word's token
    (template("(m.content if loop.last else m.content[:1])"), "changes how the text"),  # of earlier answers
    (template("m.content | upper"), "does not render the words"),
    ("{{ raise_exception('only one turn is supported') }}", "only one turn is supported"),
]


@pytest.mark.parametrize(("template", "message"), UNMASKABLE)
def test_what_cannot_be_masked_exactly_raises(tokenizer_dirs, kind, template, message):
    processor = chat_processor(tokenizer_dirs, kind, template)
    messages = [user("One?"), assistant("there is one"), user("Two?"), assistant("there are two")]
    with pytest.raises(InputError, match=message) as error:
        encode_conversation(processor, {"messages": messages, "images": []})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "written",
    [
        template("(m.content if m.role == 'user' or loop.last else '')"),
        template(end="(eos_token if m.role == 'user' or loop.last else '')"),
        template(end="(eos_token if m.role == 'user' or loop.last else '!')"),
    ],
    ids=["left out", "without an end", "with another end"],
)
def test_answers_that_are_written_otherwise_once_they_are_past_are_no_targets(tokenizer_dirs, kind, written):
    processor = chat_processor(tokenizer_dirs, kind, written)
    messages = [user("One?"), assistant("Two?"), user("Two? Two"), assistant("there are two")]
    encoded = encode_conversation(processor, {"messages": messages, "images": []})
    ((start, end),) = learned_stretches(encoded["labels"])
    assert encoded["input_ids"][:start].tolist() == encode_prompt(processor, messages[:3], [])
    assert processor.tokenizer.decode(encoded["input_ids"][start : end - 1]).strip() == "there are two"


def test_turns_must_end_alike(tokenizer_dirs, kind):
    uneven = template(end="('<|next|>' if loop.index0 == 1 else eos_token)")
    processor = chat_processor(tokenizer_dirs, kind, uneven, ("<|next|>",))
    messages = [user("One?"), assistant("there is one"), user("Two?"), assistant("there are two")]
    with pytest.raises(InputError, match="do not all end with the same token"):
        encode_conversation(processor, {"messages": messages, "images": []})


def test_template_that_drops_images(tokenizer_dirs):
    template = "{{ 'assistant: ' + messages[-1].content + eos_token }}"
    with pytest.raises(InputError, match="renders 0 of 1 images"):
        encode_conversation(
            chat_processor(tokenizer_dirs, "bpe", template),
            {"messages": [user("What?", 1), assistant("Yes.")], "images": [image()]},
        )


MALFORMED = [
    ([], 0, "messages: there is none"),
    ([user("What?")], 0, "there are no supervised tokens"),
    ([assistant("Yes.")], 0, "cannot speak first"),
    ([user("What?", 1), assistant("Yes.")], 0, "1 image parts for 0 images"),
    ([user("What?"), assistant("Yes.")], 1, "0 image parts for 1 images"),
    ([user("What?"), {"role": "gpt", "content": []}], 0, "message 2: role 'gpt' is none of system, user, assistant"),
    ([user("What\ufdd0?"), assistant("Yes.")], 0, r"message 1: the text holds '\\ufdd0', which is no character"),
    ([user("What?"), assistant("Yes.\ud800")], 0, r"message 2: the text holds '\\ud800', which is no character"),
    ([user("What?"), {"role": "assistant", "content": [{"type": "image"}]}], 0, "message 2: a part 'image'"),
    ([user("What?"), assistant("Yes."), system("Be brief.")], 0, "the system message must be the first"),
]


@pytest.mark.parametrize(("messages", "images", "message"), MALFORMED)
def test_malformed_conversations(tokenizer_dirs, messages, images, message):
    processor = chat_processor(tokenizer_dirs, "sentencepiece", CHAT_TEMPLATES["plain"])
    with pytest.raises(InputError, match=message):
        encode_conversation(processor, {"messages": messages, "images": [image()] * images})


def test_prompts_are_checked_too(tokenizer_dirs):
    processor = chat_processor(tokenizer_dirs, "sentencepiece", CHAT_TEMPLATES["plain"])
    with pytest.raises(InputError, match="role 'gpt' is none"):
        render_prompt(processor, [{"role": "gpt", "content": []}])
    processor.chat_template = None
    with pytest.raises(InputError, match="has no chat template; take one of plain, vicuna"):
        render_prompt(processor, [user("What?")])


def test_empty_answer_is_its_end(tokenizer_dirs):
    processor = chat_processor(tokenizer_dirs, "bpe", CHAT_TEMPLATES["chatml"], ("<|im_start|>", "<|im_end|>"))
    encoded = encode_conversation(processor, {"messages": [user("What?"), assistant("")], "images": []})
    targets = encoded["labels"][encoded["labels"] != IGNORE]
    assert processor.tokenizer.decode(targets) == "<|im_end|>"
