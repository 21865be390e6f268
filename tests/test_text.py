"""What a model does without images: perplexity, beside the language model's own, and answers for self-distillation."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data import load_conversations
from data.drawings.index import Name
from mllm.cli import main
from mllm.evaluation.text import load_text_model
from mllm.prompts import IGNORE, encode_conversation
from tests import tiny
from tests.shapes import MODEL

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory, encoder_dir, language_model_dir) -> list[str]:
    """A language model, and a model that takes images with the same one inside."""
    whole = tiny.model(tmp_path_factory.mktemp("text") / "whole", encoder_dir, language_model_dir)
    return [str(language_model_dir), str(whole)]


def measured(arguments: list[str], out) -> list[dict]:
    assert main(["perplexity", *arguments, "--json", str(out)]) == 0
    return json.loads(out.read_text())


def cross_entropy(model, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(T - 1,), of those tokens that have a label."""
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none", ignore_index=IGNORE)
    return losses[labels[1:] != IGNORE]


def test_perplexity_of_plain_text(models, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(tiny.SENTENCES))
    model, processor = load_text_model(models[0])
    ids = torch.tensor(processor.tokenizer("\n".join(tiny.SENTENCES), add_special_tokens=False)["input_ids"])
    losses = torch.cat([cross_entropy(model, window, window) for window in ids.split(16)])
    alone, inside = measured([*models, "--text", str(tmp_path / "text.txt"), "--length", "16"], tmp_path / "out.json")
    assert alone["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-4)
    assert inside["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-2)  # it might also say <image>
    assert alone["tokens"] == inside["tokens"] == len(losses)


def test_perplexity_of_answers(models, tmp_path, capsys):
    turns = [{"from": "human", "value": "Is it large?"}, {"from": "gpt", "value": "Yes, two squares."}]
    others = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Two."}]
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"id": "a", "conversations": turns}, {"id": "b", "conversations": others}]))
    model, processor = load_text_model(models[1])
    encoded = [encode_conversation(processor, each) for each in map(load_conversations(data).load, range(2))]
    losses = torch.cat([cross_entropy(model, each["input_ids"], each["labels"]) for each in encoded])
    rows = measured([*models, "--data", str(data)], tmp_path / "out.json")
    for row, close in zip(rows, (1e-2, 1e-4), strict=True):
        assert row["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=close)
        assert row["tokens"] == len(losses)
    assert f"{rows[1]['perplexity'] / rows[0]['perplexity'] - 1:+.1%}" in capsys.readouterr().out
    (tmp_path / "empty.txt").write_text("")
    assert main(["perplexity", models[0], "--text", str(tmp_path / "empty.txt")]) == 2
    assert "empty.txt: holds no text" in capsys.readouterr().err


def test_a_models_own_answers_become_data(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("what colour is the circle?\nhow many hearts are there?\n\nwhat does it say?\n")
    arguments = ["self-distill", "--language-model", str(MODEL), "--prompts", str(prompts), "--batch-size", "2"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main([*arguments, "--out", str(whole)]) == 0
    samples = load_conversations(whole / "conversations.json")
    assert [samples.words(index)[0] for index in range(3)] == list(filter(None, prompts.read_text().split("\n")))
    assert all(samples.words(index)[1] for index in range(3))
    assert not any(samples.load(index)["images"] for index in range(3))

    assert main([*arguments, "--out", str(resumed)]) == 0  # and then as if it had been killed in the second batch
    done = (resumed / "progress-0.jsonl").read_bytes()
    (resumed / "progress-0.jsonl").write_bytes(done[: len(done) * 3 // 4])
    (resumed / "conversations.json").unlink()
    assert main([*arguments, "--out", str(resumed)]) == 0
    assert (resumed / "conversations.json").read_bytes() == (whole / "conversations.json").read_bytes()

    for changes, words in (
        (["--max-new-tokens", "9"], "was begun with max_new_tokens 128, now it is 9"),
        (["--max-new-tokens", "1", "--out", str(tmp_path / "short")], "not one of 3 answers ended"),
    ):
        assert main([*arguments, "--out", str(whole), *changes]) == 2
        assert words in capsys.readouterr().err
    prompts.write_text("<image>\nwhat is it?\n")
    assert main([*arguments, "--out", str(tmp_path / "seen")]) == 2
    assert "is about an image" in capsys.readouterr().err


def test_prompts_that_are_held_out_are_about_other_names_and_matters(monkeypatch):
    spec = importlib.util.spec_from_file_location("drawings_texts", ROOT / "scripts/drawings_texts.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = ("red apple", "owl", "grapes", "umbrella")
    names = [Name(n, text, (), ("thing",), "", "", n % 2 == 0, n) for n, text in enumerate(words)]
    monkeypatch.setattr(script, "load_index", lambda: SimpleNamespace(names=names))
    learned, held_out = script.prompts(400, held_out=False), script.prompts(100, held_out=True)
    assert len(set(learned)) == 400 == len(learned)
    assert not set(learned) & set(held_out)
    assert "What is an owl used for?" in script.prompts(300, held_out=True)
    for prompts, others in ((learned, ("owl", "umbrella", "gravity")), (held_out, ("apple", "grapes", "friendship"))):
        assert not any(word in prompt for prompt in prompts for word in others)
        assert not any("{" in prompt for prompt in prompts)
