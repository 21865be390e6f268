"""A small LLaMA and its SentencePiece tokenizer, trained from nothing on text about scenes.

It stands in for a published language model where there is none: the result is an ordinary transformers directory. Most
of what it reads are conversations in which a description stands where a picture will stand later, rendered by the chat
template that tuning and chat use.
"""

from __future__ import annotations

import io
import logging
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, Trainer

from data.errors import InputError
from data.scenes import SceneConfig, SceneConversations, describe, scene_sentences
from data.scenes.vocabulary import stream
from mllm.prompts import CHAT_TEMPLATES
from mllm.training.arguments import arguments, finish, fit, refuse_zero3, samples_per_run

logger = logging.getLogger(__name__)

TOKENIZER_MODEL = "tokenizer.model"  # SentencePiece's own file; transformers itself reads tokenizer.json


@dataclass
class TokenizerRecipe:
    """A SentencePiece BPE model with byte fallback (every text can be written) and single digits."""

    vocab_size: int = 1000  # at most; fewer where the text has fewer pieces
    documents: int = 10000  # how many it is trained on

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise InputError("tokenizer.vocab_size: must be at least 300; 256 of them are the single bytes")


@dataclass
class LlamaRecipe:
    """Sizes of the LLaMA (arXiv 2302.13971), named as in LlamaConfig."""

    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    max_position_embeddings: int = 2048

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise InputError(
                f"model.hidden_size: {self.hidden_size} must be a multiple of twice num_attention_heads "
                f"({self.num_attention_heads}): a head is rotated in pairs"
            )


@dataclass
class LanguageModelRecipe:
    """What `mllm lm` reads."""

    output: str  # the directory to write; checkpoints of an unfinished run lie in it too
    model: LlamaRecipe = field(default_factory=LlamaRecipe)
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    scenes: SceneConfig = field(default_factory=SceneConfig)  # what the text is about
    conversations: float = 0.75  # share of documents that are conversations; the others are plain sentences
    questions_per_scene: int = 6  # turns of a conversation
    block_size: int = 256  # T, tokens in one sample; documents are packed into it
    held_out_blocks: int = 200  # the result is scored on so many
    chat_template: str = "plain"  # a name in mllm.prompts.CHAT_TEMPLATES
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        if not 0 <= self.conversations <= 1:
            raise InputError("conversations: a share, between 0 and 1")
        if not 1 <= self.questions_per_scene <= 6:
            raise InputError("questions_per_scene: choose 1 to 6")
        if not 16 <= self.block_size <= self.model.max_position_embeddings:
            raise InputError(
                f"block_size: choose 16 to model.max_position_embeddings ({self.model.max_position_embeddings})"
            )
        if self.held_out_blocks < 1:
            raise InputError("held_out_blocks: must be at least 1")
        if self.chat_template not in CHAT_TEMPLATES:
            raise InputError(f"chat_template: {self.chat_template!r} is none; there are {', '.join(CHAT_TEMPLATES)}")


class Documents:
    """Documents about the scenes of a split: number i is always the same."""

    def __init__(self, split: str, recipe: LanguageModelRecipe) -> None:
        self.split = split
        self.recipe = recipe

    def turns(self, index: int) -> list[tuple[str, str]]:
        """Questions and answers; a description of the scene opens the first question, as the picture will."""
        recipe = self.recipe
        scenes = SceneConversations(self.split, 1, recipe.scenes, index, recipe.questions_per_scene)
        rng = stream("description", recipe.scenes.seed, self.split, index)
        (question, answer), *rest = scenes.turns(0)
        return [(f"{describe(scenes.scene(0), rng)}\n{question}", answer), *rest]

    def text(self, index: int, tokenizer: LlamaTokenizer) -> str:
        """Document `index`; conversations are rendered by the tokenizer's chat template."""
        recipe = self.recipe
        if stream("document", recipe.scenes.seed, self.split, index).random() >= recipe.conversations:
            return next(scene_sentences(self.split, 1, recipe.scenes, index))
        return render(tokenizer, self.turns(index))


class Blocks(Dataset):
    """Blocks of `block_size` token ids, documents one after another: `{"input_ids": (T,), "labels": (T,)}`.

    Block i consists of documents that no other block has, so that no text is repeated, in any order and on any process.
    """

    def __init__(self, documents: Documents, tokenizer: LlamaTokenizer, count: int) -> None:
        self.documents = documents
        self.tokenizer = tokenizer
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        size = self.documents.recipe.block_size
        ids: list[int] = []
        document = index * size  # every document has at least one token
        while len(ids) < size:
            ids += encode(self.tokenizer, self.documents.text(document, self.tokenizer))
            document += 1
        block = torch.tensor(ids[:size])
        return {"input_ids": block, "labels": block.clone()}


def render(tokenizer: LlamaTokenizer, turns: list[tuple[str, str]]) -> str:
    """Questions and answers as the chat template writes them."""
    messages = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def encode(tokenizer: LlamaTokenizer, text: str) -> list[int]:
    """Token ids with one beginning and one end token."""
    ids = list(tokenizer(text)["input_ids"])  # LLaMA's tokenizer puts the beginning token first
    return ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def train_tokenizer(recipe: LanguageModelRecipe) -> tuple[LlamaTokenizer, bytes]:
    """Train SentencePiece on the first documents.

    Returns: the tokenizer as transformers has it, and SentencePiece's own model file.
    """
    documents = Documents("train", recipe)
    template = CHAT_TEMPLATES[recipe.chat_template]
    bare = LlamaTokenizer(chat_template=template)  # knows the special tokens alone, which is enough to render

    def lines() -> Iterator[str]:
        for index in range(recipe.tokenizer.documents):
            # pieces reach neither across lines nor across special tokens
            yield from filter(None, re.split(r"\n|<s>|</s>", documents.text(index, bare)))

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(),
        model_writer=written,
        model_type="bpe",
        vocab_size=recipe.tokenizer.vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,  # no blank before a first word, as none is behind a line break or a special token
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=1,
        minloglevel=1,
    )
    model = written.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, TOKENIZER_MODEL).write_bytes(model)
        tokenizer = LlamaTokenizer.from_pretrained(
            folder,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            add_bos_token=True,
            add_prefix_space=False,
            chat_template=template,
        )
    return tokenizer, model


def train_language_model(recipe: LanguageModelRecipe, resume: bool = False) -> float | None:
    """Train tokenizer and model, save them to `recipe.output`, print the perplexity on held-out text.

    Returns: that perplexity, per token; None on all processes but the first.
    """
    training = arguments(recipe.trainer, recipe.output, resume)
    refuse_zero3("mllm lm")
    tokenizer, sentencepiece_model = train_tokenizer(recipe)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            **asdict(recipe.model),
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    logger.info("language model: %.2f M parameters, %d tokens", model.num_parameters() / 1e6, len(tokenizer))
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=Blocks(Documents("train", recipe), tokenizer, samples_per_run(training)),
    )
    fit(trainer)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / TOKENIZER_MODEL).write_bytes(sentencepiece_model)

    finish(training, write)
    if not training.should_save:
        return None
    held_out = Blocks(Documents("validation", recipe), tokenizer, recipe.held_out_blocks)
    perplexity = measure_perplexity(model, held_out, training.per_device_eval_batch_size)
    sys.stdout.write(
        f"language model {recipe.output}: perplexity {perplexity:.3f} per token on "
        f"{recipe.held_out_blocks * recipe.block_size} held-out tokens\n"
    )
    return perplexity


@torch.no_grad()
def measure_perplexity(model: LlamaForCausalLM, blocks: Blocks, batch_size: int = 8) -> float:
    """exp of the mean cross entropy over all tokens but the first of each block."""
    model.eval()
    total = 0.0
    for batch in DataLoader(blocks, batch_size=batch_size):
        loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
        total += loss.item() * len(batch["input_ids"])
    return math.exp(total / len(blocks))
