"""What a model does without images: how well it predicts text, and what it answers, to be reminded of itself later.

Tuning on images alone makes a language model forget how it spoke. Its own answers to prompts without images, mixed into
the data, keep it as it was (self-distillation), and perplexity tells whether they did.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoTokenizer

from data.errors import InputError, translated
from data.files import read_text, write_json
from data.materials import model_path
from data.samples import PLACEHOLDER
from data.sources import open_conversations
from encoder import SparseFormerImageProcessor
from mllm.assembly import IMAGE_TOKEN, prepare_tokenizer
from mllm.evaluation.progress import Batch, Progress
from mllm.evaluation.runner import Loaded, answer_each
from mllm.finetuning.data import Collator, EncodedConversations
from mllm.generation import GREEDY, question
from mllm.loading import context_length, find_model, is_adapter, load_model, pick_device, read_config
from mllm.parts import language_model_config, load_language_model
from mllm.processing import MLLMProcessor
from mllm.prompts import IGNORE

logger = logging.getLogger(__name__)


def load_text_model(
    path: str | Path, device: str = "auto", dtype: str = "auto", chat_template: str | None = None
) -> Loaded:
    """Loads a model of this project, or a language model alone, which gets a processor that knows no images.

    Args:
        path: its directory, or ``material:NAME``.
        device, dtype: as for `load_model`.
        chat_template: of a language model alone, a name in `templates.CHAT_TEMPLATES`; None: its own.

    Raises:
        InputError: neither is there, or files are missing or damaged.
    """
    directory = find_model(model_path(path))
    if is_adapter(directory) or type(read_config(directory, "model")) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return load_model(directory, device, dtype)
    place = pick_device(device)
    model: Any = load_language_model(directory, language_model_config(directory))
    with translated(f"{directory}: no tokenizer can be read"):
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
    prepare_tokenizer(tokenizer, chat_template)
    processor = MLLMProcessor(
        SparseFormerImageProcessor(), tokenizer, 1, chat_template=tokenizer.chat_template, image_token=IMAGE_TOKEN
    )
    stored = model.dtype if dtype == "auto" else getattr(torch, dtype)
    return model.to(place, stored).eval(), processor


class Windows(Dataset):
    """A text cut into samples `{"input_ids": (T,), "labels": (T,)}` of equally many tokens; the last may be shorter."""

    def __init__(self, text: str, tokenizer: Any, length: int) -> None:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        self.windows = [window for window in ids.split(length) if len(window) > 1]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


@torch.inference_mode()
def measure_perplexity(model: Any, batches: Iterable[dict[str, Tensor]]) -> tuple[float, int]:
    """Returns exp of the mean cross entropy over all tokens that have a label, and how many these are."""
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        predicted = int((batch["labels"][:, 1:] != IGNORE).sum())
        loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
        total, count = total + loss.item() * predicted, count + predicted
    return math.exp(total / count), count


def perplexity_on(loaded: Loaded, source: str, plain: bool, length: int, batch_size: int) -> tuple[float, int]:
    """Measures a model on text.

    Args:
        source: of conversations, of which the answers count; or a file of plain text, of which all counts.
        plain: it is the latter.
        length: tokens of plain text that are read at once.

    Returns:
        perplexity, and of how many tokens.

    Raises:
        InputError: a source that cannot be read, or that holds nothing to predict.
    """
    model, processor = loaded
    data: Any
    if plain:
        data = Windows(read_text(source), processor.tokenizer, length)
    else:
        data = EncodedConversations(open_conversations([source]), processor, context_length(model.config))
    if not len(data):
        raise InputError(f"{source}: holds no text; name a file of some sentences")
    collator = Collator(processor.tokenizer.pad_token_id)
    return measure_perplexity(model, DataLoader(data, batch_size=batch_size, collate_fn=collator))


def self_distill(
    loaded: Loaded, prompts: Sequence[str], out: Path, settings: dict[str, Any], batch_size: int, max_new_tokens: int
) -> int:
    """Writes ``conversations.json``, in LLaVA's format: prompts without images, and the model's greedy answers.

    Answers that do not come to their end are left out. What was begun in the folder goes on.

    Args:
        out: the folder to write.
        settings: all that the answers depend on; another time it must be the same.

    Returns:
        how many answers were written.

    Raises:
        InputError: a prompt for an image; the folder holds answers with other settings; no answer ended.
    """
    model, processor = loaded
    if shown := next((prompt for prompt in prompts if PLACEHOLDER in prompt), None):
        raise InputError(f"--prompts: {shown!r} is about an image; leave it out")
    progress = Progress(out)
    progress.begin(settings)
    done = progress.read()
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    for number, batch in enumerate(batches):
        if number in done:
            continue
        begin = time.perf_counter()
        replies = answer_each(model, processor, [question(each) for each in batch], max_new_tokens, decoding=GREEDY)
        texts = [None if isinstance(reply, InputError) else reply for reply in replies]
        errors = {str(place): str(reply) for place, reply in enumerate(replies) if isinstance(reply, InputError)}
        progress.add(Batch(number, time.perf_counter() - begin, texts, errors))
        logger.info("%d of %d batches", number + 1, len(batches))
    samples = []
    for index, (prompt, (text, _)) in enumerate(zip(prompts, progress.replies(len(prompts)), strict=True)):
        ended = text and len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) < max_new_tokens - 1
        if ended:
            turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": text}]
            samples.append({"id": f"text-{index}", "conversations": turns})
    if not samples:
        raise InputError(f"--max-new-tokens {max_new_tokens}: not one of {len(prompts)} answers ended; allow more")
    write_json(out / "conversations.json", samples)
    return len(samples)
