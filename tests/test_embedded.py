"""The model that comes with the package answers better than who does not look, and the demo shows it."""

from __future__ import annotations

import json
import re

from mllm.cli import main
from tests.shapes import EXAMPLES, MODEL


def test_is_small_and_holds_no_code():
    files = [file for file in MODEL.iterdir() if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".jinja", ".safetensors", ".md"}
    assert sum(file.stat().st_size for file in files) <= 25_000_000


def test_beats_the_text_only_baseline(tmp_path, capsys):
    assert main(["eval", "synthetic", "--count", "700", "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["groups"]
    assert len(scores) == 8
    for category, group in scores.items():
        assert group["accuracy"] > group["text-only baseline"], category


def test_demo_prints_answers_beside_the_truth(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "looked")]) == 0
    right, questions = map(int, re.search(r"(\d+) of (\d+) right", capsys.readouterr().out).groups())
    assert questions >= 20
    assert right >= questions / 2
    assert len(list((tmp_path / "looked").glob("*.png"))) == len(list(EXAMPLES.glob("*.png")))


def test_chat_needs_no_model(capsys):
    assert main(["chat", "--image", str(EXAMPLES / "scene-1.png"), "--prompt", "how many objects are there?"]) == 0
    assert capsys.readouterr().out.strip() in {"1", "2", "3", "4", "5", "6"}
