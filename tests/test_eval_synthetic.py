"""The benchmark of generated scenes: figures by hand, the command."""

from __future__ import annotations

import json
import re

import pytest

from data import InputError
from data.benchmarks import GroundTruth, build_benchmark
from data.benchmarks.choices import normalize
from data.synthetic.asking import SceneQuestion
from data.synthetic.benchmark import Synthetic
from data.synthetic.datasets import SceneQuestions
from data.synthetic.questions import CATEGORIES, text_only_baseline
from data.synthetic.scene import SceneConfig
from mllm.cli import main
from mllm.generation import answer, ask_all, question
from mllm.loading import load_model


def test_score_by_hand():
    benchmark = Synthetic()
    benchmark.baseline = {"exists": 0.75, "count": 0.25, "read": 0.1}
    said = [
        ("exists", "yes", "Yes."),
        ("exists", "no", "yes"),
        ("exists", "no", "no"),
        ("exists", "no", "nobody"),
        ("count", "2", None),
        ("count", "12", " 12 "),
    ]
    pairs = [
        (GroundTruth(n, SceneQuestion(category, "", answer, (), ""), (), category), text)
        for n, (category, answer, text) in enumerate(said)
    ]
    result = benchmark.score(pairs)
    assert result.groups == {
        "exists": {"n": 4, "accuracy": 50, "text-only baseline": 75},
        "count": {"n": 2, "accuracy": 50, "text-only baseline": 25},
        "overall": {"n": 6, "accuracy": 50, "text-only baseline": pytest.approx(100 * (4 * 0.75 + 2 * 0.25) / 6)},
    }
    assert (result.overall, result.unanswered) == (50, 1)
    assert [score for _, score in result.items] == [100, 0, 100, 0, 0, 100]


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
    command = ["eval", "synthetic", "--model", str(model_dir), "--count", "7", "--batch-size", "4", "--json", str(out)]
    assert main(command) == 0
    printed = capfd.readouterr().out
    for category in (*CATEGORIES, "overall"):
        assert re.search(rf"{category}\W+\d+\W+[\d.]+%\W+[\d.]+%", printed)
    report = json.loads(out.read_text())
    assert list(report["groups"]) == [*CATEGORIES, "overall"]
    assert [group["n"] for group in report["groups"].values()] == [1] * 7 + [7]
    assert [answer["question_id"] for answer in report["answers"]] == [f"test-{index}" for index in range(7)]
    expected = text_only_baseline(SceneQuestions("test", 7, SceneConfig(height=32, width=32)).questions())
    baseline = {name: group["text-only baseline"] / 100 for name, group in report["groups"].items()}
    assert {name: baseline[name] for name in CATEGORIES} == pytest.approx(expected)


def test_images_are_as_large_as_the_model_sees_them_or_as_asked(tmp_path):
    for size, seen, expected in ((None, None, (64, 64)), (None, (32, 40), (40, 32)), ("48", (32, 40), (48, 48))):
        benchmark = build_benchmark("synthetic", count=7, size=size)
        benchmark.image_size = seen
        assert {each.load_image().size for each in benchmark.read_questions(tmp_path, tmp_path)} == {expected}


def test_accuracy_by_size(tmp_path):
    benchmark = build_benchmark("synthetic", count=140, scale="0.1-1", by="size")
    questions = benchmark.read_questions(tmp_path, tmp_path)
    truths = benchmark.own_ground_truth(questions)
    scenes = SceneQuestions("test", 140, SceneConfig(min_scale=0.1))
    small = {f"test-{n}" for n in range(140) if n % 7 != 6 and max(o.radius for o in scenes.scene(n).objects) < 0.05}
    assert len(small) > 10
    result = benchmark.score([(truth, truth.value.answer if truth.question_id in small else "") for truth in truths])
    *groups, overall = result.groups
    assert groups == sorted(groups)
    assert (groups[0], groups[-1], overall) == ("0.00 to 0.05", "0.30 to 1.00", "overall")
    right = {name: group["n"] * group["accuracy"] / 100 for name, group in result.groups.items()}
    assert right["0.00 to 0.05"] + right["0.05 to 0.10"] == pytest.approx(len(small))
    assert right["0.30 to 1.00"] == 0
    assert sum(group["n"] for group in result.groups.values()) == 280
    whole = build_benchmark("synthetic", count=140, scale="0.1-1")
    whole.read_questions(tmp_path, tmp_path)
    baseline = result.groups["overall"]["text-only baseline"]
    assert baseline == pytest.approx(100 * sum(whole.baseline.values()) / len(whole.baseline))
    with pytest.raises(InputError, match="--by shape"):
        build_benchmark("synthetic", by="shape")
    with pytest.raises(InputError, match="--scale=small"):
        build_benchmark("synthetic", scale="small")
