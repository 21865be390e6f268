"""`mllm train-lm`: the tokenizer, the text, and training through the real main, interrupted and resumed."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data.synthetic.scene import SceneConfig
from mllm.cli import main
from mllm.evaluation.text import measure_perplexity
from mllm.finetuning.data import Collator
from mllm.lab.language_model import (
    Documents,
    LanguageModelRecipe,
    LlamaRecipe,
    Samples,
    TokenizerRecipe,
    encode,
    train_tokenizer,
)
from mllm.templates import with_images
from tests import recipes

TEXTS = [
    "a large red circle.",
    "  two  blanks ",
    "lines\n\nand lines\n",
    "Größe, 日本 and 😀 have 12345 bytes",
    "",
    "\ttabs",
]


@pytest.fixture(scope="module")
def recipe() -> LanguageModelRecipe:
    return LanguageModelRecipe(
        output="lm", model=LlamaRecipe(16, 32, 1, 2), tokenizer=TokenizerRecipe(500, 300), scenes=SceneConfig(seed=3)
    )


@pytest.fixture(scope="module")
def trained(recipe):
    return train_tokenizer(recipe)


def test_tokenizer_round_trip_and_reload(trained, recipe, tmp_path):
    tokenizer, model = trained
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in [*TEXTS, *(Documents("test", recipe).text(i) for i in range(5))]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids == again(text)["input_ids"]
        assert ids[1:] == original.encode(text)
        assert tokenizer.unk_token_id not in ids
        assert again.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.tokenize("12345") == ["1", "2", "3", "4", "5"]
    assert again.chat_template == tokenizer.chat_template
    special = [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert special == [0, 1, 2, 3]
    assert len(tokenizer) <= 500


def test_tokenizer_is_the_same_every_time(trained, recipe):
    assert train_tokenizer(recipe)[1] == trained[1]


def test_documents(recipe):
    documents = Documents("train", recipe)
    texts = [documents.text(index) for index in range(60)]
    assert texts == [Documents("train", recipe).text(index) for index in range(60)]
    assert len(set(texts)) > 55
    assert not any("?" in text or "USER" in text for text in texts)
    assert not set(texts) & {Documents("validation", recipe).text(index) for index in range(60)}


def test_tokenizer_knows_conversations(trained, recipe):
    """Their fixed words are few pieces, though the model has read none: it is tuned on what the template writes."""
    tokenizer, _ = trained
    talk = Documents("train", recipe).conversation(0, tokenizer)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
    ]
    template = with_images(tokenizer.chat_template)
    imaged = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert imaged == "USER: <image>\nhow many? ASSISTANT: two</s>"
    assert re.fullmatch(r"(USER: [^\n]+ ASSISTANT: [^\n]+</s>)+", talk)
    assert len(tokenizer.tokenize("USER: what colour is the ASSISTANT:")) < 10


def test_simple_documents_are_about_two_objects_at_most(recipe):
    simple = replace(recipe, simple_fraction=1.0)
    assert all(Documents("train", simple).config(index).max_objects == 2 for index in range(20))
    mixed = [Documents("train", recipe).config(index).max_objects for index in range(60)]
    assert set(mixed) == {2, 6}


def test_samples(trained, recipe):
    tokenizer, _ = trained
    documents = Documents("train", recipe)
    samples = Samples(documents, tokenizer, 5)
    for index in range(len(samples)):
        ids, labels = (samples[index][name].tolist() for name in ("input_ids", "labels"))
        assert ids == labels == encode(tokenizer, documents.text(index))[: recipe.max_length]
    assert encode(tokenizer, "a star.")[0] == tokenizer.bos_token_id
    assert encode(tokenizer, "a star.")[-1] == tokenizer.eos_token_id


def test_perplexity_of_one_who_knows_nothing(trained, recipe):
    """All tokens equally likely: the perplexity is their number."""
    tokenizer, _ = trained
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    samples = Samples(Documents("validation", recipe), tokenizer, 3)
    batches = DataLoader(samples, batch_size=2, collate_fn=Collator(tokenizer.pad_token_id))
    assert measure_perplexity(model, batches)[0] == pytest.approx(len(tokenizer), rel=1e-4)


def test_train_interrupt_resume_load(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipes.write(tmp_path, recipes.LANGUAGE_MODEL, output="lm")
    assert main(["train-lm", "recipe.yaml", "output=straight"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("language model straight: perplexity ")
    assert printed.count("\n") == 1

    forward, calls = LlamaForCausalLM.forward, []

    @functools.wraps(forward)
    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", interrupted)
    assert main(["train-lm", "recipe.yaml"]) == 130
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    assert main(["train-lm", "recipe.yaml"]) == 2
    assert main(["train-lm", "recipe.yaml", "--resume"]) == 0
    straight, resumed = (load_file(f"{name}/model.safetensors") for name in ("straight", "lm"))
    assert straight.keys() == resumed.keys()
    for name, weight in straight.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)

    model, tokenizer = AutoModelForCausalLM.from_pretrained("lm"), AutoTokenizer.from_pretrained("lm")
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.use_cache is True  # the Trainer switches it off
    assert (model.config.bos_token_id, model.config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    prompt = tokenizer(["USER: how many?", "hi"], return_tensors="pt", padding=True)
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape[0] == 2
    assert not [path.name for path in Path("lm").iterdir() if path.is_dir()]
    original = sentencepiece.SentencePieceProcessor(model_file="lm/tokenizer.model")
    assert original.vocab_size() == len(tokenizer)
