"""A small LLaMA and its SentencePiece tokenizer, trained from nothing on text about scenes.

It stands in for a published language model where there is none: the result is an ordinary transformers directory. It
reads plain sentences, no questions; only its tokenizer has seen the conversations that tuning and chat will bring. What
it learned to answer without an image it would cling to with one (docs/log.md has figures).
"""

from __future__ import annotations

import io
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, Trainer

from data.errors import InputError
from data.limits import MAX_DEPTH, MAX_LENGTH, MAX_SAMPLES, MAX_WIDTH, check_range
from data.synthetic.datasets import SceneConversations, SceneTurns, as_messages
from data.synthetic.scene import SceneConfig
from data.synthetic.sentences import scene_sentences
from data.synthetic.vocabulary import stream
from encoder.training.arguments import check_trainer, samples_per_run
from encoder.training.spine import started
from mllm.evaluation.text import measure_perplexity
from mllm.finetuning.data import Collator
from mllm.finetuning.trainer import cache_again
from mllm.templates import CHAT_TEMPLATES, with_images

logger = logging.getLogger(__name__)

TOKENIZER_MODEL = "tokenizer.model"  # SentencePiece's own file; transformers itself reads tokenizer.json


@dataclass
class TokenizerRecipe:
    """A SentencePiece BPE model with byte fallback (every text can be written) and single digits."""

    vocab_size: int = 1000  # at most; fewer where the text has fewer pieces
    documents: int = 10000  # how many it is trained on

    def __post_init__(self) -> None:
        check_range("tokenizer.vocab_size", self.vocab_size, 300, 2**20)  # 256 of them are the single bytes
        check_range("tokenizer.documents", self.documents, 1, MAX_SAMPLES)


@dataclass
class LlamaRecipe:
    """Sizes of the LLaMA (arXiv 2302.13971), named as in LlamaConfig."""

    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True  # one matrix for reading and writing: copying a word is soon learned

    def __post_init__(self) -> None:
        for name, most in (
            ("hidden_size", MAX_WIDTH),
            ("intermediate_size", 2**20),
            ("num_hidden_layers", MAX_DEPTH),
            ("num_attention_heads", MAX_WIDTH),
            ("max_position_embeddings", MAX_LENGTH),
        ):
            check_range(f"model.{name}", getattr(self, name), 1, most)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise InputError(
                f"model.hidden_size: {self.hidden_size} must be a multiple of twice num_attention_heads "
                f"({self.num_attention_heads}): a head is rotated in pairs"
            )


@dataclass
class LanguageModelRecipe:
    """What `mllm train-lm` reads."""

    output: str  # the directory to write; checkpoints of an unfinished run lie in it too
    model: LlamaRecipe = field(default_factory=LlamaRecipe)
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    scenes: SceneConfig = field(default_factory=SceneConfig)  # what the text is about
    simple_fraction: float = 0.5  # fraction of documents about at most two objects
    max_length: int = 256  # tokens of a document; what is longer is cut
    held_out_documents: int = 1000  # the result is scored on so many
    chat_template: str = "plain"  # a name in mllm.templates.CHAT_TEMPLATES
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        if not 0 <= self.simple_fraction <= 1:
            raise InputError("simple_fraction: a fraction, between 0 and 1")
        if not 16 <= self.max_length <= self.model.max_position_embeddings:
            raise InputError(
                f"max_length: choose 16 to model.max_position_embeddings ({self.model.max_position_embeddings})"
            )
        check_range("held_out_documents", self.held_out_documents, 1, MAX_SAMPLES)
        check_trainer(self.trainer)
        if self.chat_template not in CHAT_TEMPLATES:
            raise InputError(f"chat_template: {self.chat_template!r} is none; there are {', '.join(CHAT_TEMPLATES)}")


class Documents:
    """Documents about the scenes of a split: number i is always the same."""

    def __init__(self, split: str, recipe: LanguageModelRecipe) -> None:
        self.split = split
        self.recipe = recipe

    def text(self, index: int) -> str:
        """Document ``index``: plain sentences about a scene."""
        return next(scene_sentences(self.split, 1, self.config(index), index))

    def conversation(self, index: int, tokenizer: LlamaTokenizer) -> str:
        """Questions and answers about the same scene, as the tokenizer's chat template writes them."""
        turns = SceneConversations(self.split, 1, self.config(index), index, SceneTurns(6, lists=0.2)).turns(0)
        template = with_images(str(tokenizer.chat_template))
        messages: Any = as_messages(turns)  # transformers says that all contents are texts
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))

    def config(self, index: int) -> SceneConfig:
        """What scenes document ``index`` is about one of."""
        scenes = self.recipe.scenes
        simple = stream("simple", scenes.seed, self.split, index).random() < self.recipe.simple_fraction
        return replace(scenes, max_objects=min(2, scenes.max_objects), min_objects=1) if simple else scenes


class Samples(Dataset):
    """The first documents, a sample each: `{"input_ids": (T,), "labels": (T,)}`, every token being learned."""

    def __init__(self, documents: Documents, tokenizer: LlamaTokenizer, count: int) -> None:
        self.documents = documents
        self.tokenizer = tokenizer
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.tensor(encode(self.tokenizer, self.documents.text(index)))[: self.documents.recipe.max_length]
        return {"input_ids": ids, "labels": ids.clone()}


def encode(tokenizer: LlamaTokenizer, text: str) -> list[int]:
    """Token ids with one beginning and one end token."""
    return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]  # LLaMA's tokenizer puts the beginning token first


def train_tokenizer(recipe: LanguageModelRecipe) -> tuple[LlamaTokenizer, bytes]:
    """Train SentencePiece on the first documents and on conversations about the same scenes.

    Returns: the tokenizer as transformers has it, and SentencePiece's own model file.
    """
    documents = Documents("train", recipe)
    template = CHAT_TEMPLATES[recipe.chat_template]
    bare = LlamaTokenizer(chat_template=template)  # knows the special tokens alone, which is enough to render

    def lines() -> Iterator[str]:
        for index in range(recipe.tokenizer.documents):
            yield documents.text(index)
            # pieces reach neither across lines nor across special tokens
            yield from filter(None, re.split(r"\n|<s>|</s>", documents.conversation(index, bare)))

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
    """Trains tokenizer and model, saves them to `recipe.output`, prints the perplexity on held-out text.

    Returns: that perplexity, per token; None on all processes but the first, and if nothing was left to train.
    """
    with started("train-lm", recipe, recipe.trainer, resume) as run:
        if run.finished:
            return None
        training = run.arguments()
        count = samples_per_run(training)
        tokenizer, sentencepiece_model = train_tokenizer(recipe)
        model = build(recipe, tokenizer)
        collator = Collator(tokenizer.pad_token_id)
        data = Samples(Documents("train", recipe), tokenizer, count)
        run.fit(Trainer(model=model, args=training, train_dataset=data, data_collator=collator))
        cache_again(model)

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / TOKENIZER_MODEL).write_bytes(sentencepiece_model)

        run.export(write)
        if not run.process.is_main_process:
            return None
        held_out = Samples(Documents("validation", recipe), tokenizer, recipe.held_out_documents)
        batches = DataLoader(held_out, batch_size=training.per_device_eval_batch_size, collate_fn=collator)
        perplexity, _ = measure_perplexity(model, batches)
        run.close(perplexity=perplexity)
    sys.stdout.write(
        f"language model {recipe.output}: perplexity {perplexity:.3f} per token of "
        f"{recipe.held_out_documents} held-out documents\n"
    )
    return perplexity


def build(recipe: LanguageModelRecipe, tokenizer: LlamaTokenizer) -> LlamaForCausalLM:
    """The model as it starts."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            **asdict(recipe.model),
            initializer_range=recipe.model.hidden_size**-0.5,  # LLaMA's 0.02 is made for a width of thousands
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    logger.info("language model: %.2f M parameters, %d tokens", model.num_parameters() / 1e6, len(tokenizer))
    return model
