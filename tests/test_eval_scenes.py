"""The score on scenes: figures by hand, the command, and the demo, which asks in the same way."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from data.benchmarks.synthetic import Score, normalize, score
from data.synthetic import KINDS, SceneConfig, SceneQuestions, blind_accuracy
from mllm.cli import main
from mllm.commands.demo import make_examples, read_examples
from mllm.generation import answer, ask_all, question
from mllm.loading import load_model
from tests import tiny


def record(kind: str, truth: str, prediction: str) -> dict[str, str]:
    return {"kind": kind, "answer": truth, "prediction": prediction}


def test_score_by_hand():
    records = [
        record("count", "2", "3"),
        record("exists", "yes", "Yes."),
        record("exists", "no", "yes"),
        record("exists", "no", "no"),
        record("exists", "no", "nobody"),
        record("count", "12", " 12 "),
    ]
    blind = {"exists": 0.75, "count": 0.25, "read": 0.1}
    assert score(records, blind) == [
        Score("exists", 4, 0.5, 0.75),
        Score("count", 2, 0.5, 0.25),
        Score("overall", 6, 0.5, (4 * 0.75 + 2 * 0.25) / 6),
    ]
    assert score([], {}) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Top left.", "top left", True),
        ("top\n left", "top left", True),
        ('"bus"', "bus", True),
        ("bus stop", "bus", False),
        ("", "yes", False),
        ("12", "1", False),
        ("yes, it is", "yes", False),
    ],
)
def test_normalize(one, other, same):
    assert (normalize(one) == normalize(other)) == same


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model(model_dir, device="cpu")


def test_every_question_gets_its_own_answer_whatever_the_batch(loaded):
    questions = SceneQuestions("test", 9, SceneConfig(height=32, width=32))
    records = ask_all(*loaded, questions, batch_size=4, max_new_tokens=4)
    assert [each["question_id"] for each in records] == [f"test-{index}" for index in range(9)]
    for place in (0, 5, 8):
        item = questions[place]
        asked = question(item["question"], [item["image"]])
        assert records[place]["prediction"] == answer(*loaded, [asked], max_new_tokens=4)[0]


def test_command_prints_a_table_and_writes_json(model_dir, tmp_path, capfd):
    out = tmp_path / "scores.json"
    command = ["eval", "scenes", "--model", str(model_dir), "--count", "7", "--batch-size", "4", "--json", str(out)]
    assert main(command) == 0
    printed = capfd.readouterr().out
    for kind in (*KINDS, "overall"):
        assert re.search(rf"{kind}\W+\d+\W+[\d.]+%\W+[\d.]+%", printed)
    report = json.loads(out.read_text())
    assert [each["kind"] for each in report["scores"]] == [*KINDS, "overall"]
    assert [each["count"] for each in report["scores"]] == [1] * 7 + [7]
    assert len(report["answers"]) == 7
    expected = blind_accuracy(SceneQuestions("test", 7, SceneConfig(height=32, width=32)).questions())
    assert {each["kind"]: each["blind"] for each in report["scores"][:-1]} == expected


# ------------------------------------------------------------------------------------------------------------- demo


def test_demo(model_dir, tmp_path, capfd):
    make_examples(tmp_path / "examples", count=2, size=32)
    items = read_examples(tmp_path / "examples")
    assert {item["image"] for item in items} == {"scene-1.png", "scene-2.png"}
    command = [
        "demo",
        "--model",
        str(model_dir),
        "--examples",
        str(tmp_path / "examples"),
        "--out",
        str(tmp_path / "d.png"),
    ]
    assert main(command) == 0
    printed = capfd.readouterr().out
    assert f"of {len(items)} right" in printed
    assert "wrong" in printed
    assert min(Image.open(tmp_path / "d.png").size) > 200


def test_examples_are_the_same_every_time(tmp_path):
    make_examples(tmp_path / "one", count=2)
    make_examples(tmp_path / "two", count=2)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_demo_needs_a_sparseformer(clip_dir, language_model_dir, tmp_path, capfd):
    tiny.image().save(tmp_path / "x.png")
    (tmp_path / "questions.json").write_text('[{"image": "x.png", "question": "?", "answer": ""}]')
    model = tiny.model(tmp_path / "model", clip_dir, language_model_dir)
    capfd.readouterr()
    assert main(["demo", "--examples", str(tmp_path), "--model", str(model), "--out", str(tmp_path / "x.png")]) == 2
    assert "is no SparseFormer" in capfd.readouterr().err
