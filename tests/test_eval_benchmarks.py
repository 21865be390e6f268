"""`mllm eval` on benchmarks with files: end to end on a tiny model, interrupted, continued, shared by processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllm import processing
from mllm.cli import main
from mllm.evaluation import runner
from tests import benchmark_files as files
from tests.benchmark_files import SHORT

POPE = {
    "random": [(f"{number}.png", f"Is there a thing {number}?", "yes") for number in range(4)],
    "popular": [(f"{number}.png", f"Is there a cat {number}?", "no") for number in range(3)],
}


@pytest.fixture(scope="module")
def pope(tmp_path_factory) -> Path:
    """EVAL_DATA with POPE in it: seven questions in another order than the annotations; 5.png is broken."""
    folder = tmp_path_factory.mktemp("eval")
    files.pope_annotations(folder / "pope/coco", POPE)
    files.images(folder / "pope/val2014", [f"{number}.png" for number in range(4)])
    asked = [(category, image, text) for category, lines in POPE.items() for image, text, _ in lines][::-1]
    files.questions(
        folder / "pope/llava_pope_test.jsonl",
        [(number, image, f"{text}{SHORT}", category) for number, (category, image, text) in enumerate(asked)],
    )
    return folder


def evaluation(benchmark: str, model: Path, out: Path, line: str) -> list[str]:
    return f"eval {benchmark} --model {model} --out {out} --device cpu {line}".split()


def command(pope: Path, model: Path, out: Path, *more: str) -> list[str]:
    data = pope / "pope"
    files = f"--questions {data}/llava_pope_test.jsonl --images {data}/val2014 --annotations {data}/coco"
    return [*evaluation("pope", model, out, f"{files} --batch-size 2 --max-new-tokens 3"), *more]


@pytest.fixture(scope="module")
def whole(pope, model_dir, tmp_path_factory) -> Path:
    """The folder of an evaluation that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(command(pope, model_dir, out)) == 0
    return out


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_written(whole, pope, model_dir, tmp_path, capfd):
    answers = lines(whole / "answers.jsonl")
    assert [answer["question_id"] for answer in answers] == list(range(7))
    assert answers[0]["prompt"] == f"Is there a cat 2?{SHORT}"
    assert answers[0]["metadata"] == {"category": "popular", "image": "2.png"}
    assert len({answer["answer_id"] for answer in answers}) == 7
    assert any(answer["text"] for answer in answers)
    result = json.loads((whole / "result.json").read_text())
    assert result["prompt"].startswith("USER: <image>\nIs there a cat 2?\nAnswer the question")
    assert (result["count"], result["not_asked"], result["tokens_per_image"]) == (7, 0, 5)
    assert (result["batch_size"], result["max_new_tokens"], result["decoding"]) == (2, 3, "greedy")
    assert result["versions"].keys() == {"python", "sparseformer-mllm", "torch", "transformers", "peft"}
    assert result["seconds_per_question"] > 0
    score = json.loads((whole / "score.json").read_text())
    assert len(score["items"]) == 7
    again = ["score", "pope", "--answers", str(whole / "answers.jsonl"), "--annotations", str(pope / "pope/coco")]
    assert main([*again, "--json", str(tmp_path / "score.json")]) == 0
    assert json.loads((tmp_path / "score.json").read_text()) == score
    capfd.readouterr()
    assert main(["results", str(whole), "--out", str(tmp_path / "table")]) == 0
    table = capfd.readouterr().out
    assert f"| {model_dir} | pope | {score['overall']:.2f} | F1, mean over categories | 7 | 5 |" in table
    assert (tmp_path / "table.md").read_text() == table
    assert json.loads((tmp_path / "table.json").read_text())[0]["overall"] == score["overall"]


def test_an_interrupted_evaluation_goes_on(whole, pope, model_dir, tmp_path, monkeypatch, capfd):
    asked: list[int] = []
    original = runner.answer

    def count(model, processor, conversations, *args, **options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(conversations))
        return original(model, processor, conversations, *args, **options)

    out = tmp_path / "out"
    monkeypatch.setattr(runner, "answer", count)
    assert main(command(pope, model_dir, out)) == 130
    assert asked == [2, 2]
    assert not (out / "answers.jsonl").exists()
    with open(out / "progress-0.jsonl", "ab") as file:  # killed while it wrote its third batch
        file.write(b'\n{"batch": 2, "seconds": 0.1, "te')
    asked[:] = [0] * 3
    assert main(command(pope, model_dir, out)) == 0
    assert asked[3:] == [2, 1]
    assert (out / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    assert (out / "score.json").read_bytes() == (whole / "score.json").read_bytes()
    # Once more: everything is answered, so nothing is asked.
    assert main(command(pope, model_dir, out)) == 0
    assert len(asked) == 5
    capfd.readouterr()
    assert main(command(pope, model_dir, out, "--max-new-tokens", "4")) == 2
    error = capfd.readouterr().err
    assert "was begun with max_new_tokens 3, now it is 4" in error
    assert error.count("\n") == 1
    runner.Progress(out, 1).add(runner.Batch(9, 0.1, ["yes"], {}))  # a line of another evaluation
    assert main(command(pope, model_dir, out)) == 2
    assert "holds 8 answers to 7 questions; remove it to ask again" in capfd.readouterr().err


def test_what_goes_on_the_next_day_is_told_the_day_it_began_on(pope, model_dir, tmp_path, monkeypatch):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model_dir, model)
    template = model / "chat_template.jinja"
    template.write_text("Today is {{ strftime_now('%d %b %Y') }}.\n" + template.read_text())
    days = iter(range(1, 9))  # each processor is made on another day
    monkeypatch.setattr(processing, "date", SimpleNamespace(today=lambda: date(2025, 1, next(days))))
    told: list[str] = []
    original = runner.answer

    def note(model, processor, conversations, *args, inputs, **options):
        if len(told) == 4:
            raise KeyboardInterrupt
        told.extend(text[:40] for text in processor.batch_decode(inputs["input_ids"], skip_special_tokens=True))
        return original(model, processor, conversations, *args, inputs=inputs, **options)

    monkeypatch.setattr(runner, "answer", note)
    assert main(command(pope, model, out)) == 130
    told += [""]
    assert main(command(pope, model, out)) == 0
    assert len(told) == 8
    assert {text.partition(".")[0] for text in told if text} == {"Today is 01 Jan 2025"}
    result = json.loads((out / "result.json").read_text())
    assert result["date"] == "2025-01-01"
    assert result["prompt"].startswith("Today is 01 Jan 2025.")


def test_what_cannot_be_asked_is_named_and_counts_as_wrong(pope, model_dir, tmp_path, caplog):
    """A broken image, one that is missing, and a question longer than the model's context."""
    files.images(tmp_path / "images", ["a.png", "b.png", "d.png"])
    (tmp_path / "images/b.png").write_bytes(b"no image")
    asked = [
        (1, "a.png", "Is there a cat?", "random"),
        (2, "b.png", "Is there a dog?", "random"),
        (3, "c.png", "Is there a cow?", "random"),
        (4, "d.png", "word " * 600, "random"),
    ]
    questions = files.questions(tmp_path / "q.jsonl", asked)
    truth = {"random": [(image, text, "yes") for _, image, text, _ in asked]}
    annotations = files.pope_annotations(tmp_path / "coco", truth)
    out = tmp_path / "out"
    paths = ["--questions", questions, "--images", tmp_path / "images", "--annotations", annotations]
    assert main(command(pope, model_dir, out, *map(str, paths), "--batch-size", "4")) == 0
    answers = lines(out / "answers.jsonl")
    assert [("error" in answer["metadata"]) for answer in answers] == [False, True, True, True]
    assert "b.png: is no image" in answers[1]["metadata"]["error"]
    assert "there is no such image" in answers[2]["metadata"]["error"]
    assert "the conversation has" in answers[3]["metadata"]["error"]
    score = json.loads((out / "score.json").read_text())
    assert score["unanswered"] == 3
    assert [item["score"] for item in score["items"]][1:] == [0, 0, 0]
    assert "question 2 was not asked: " in caplog.text
    assert "3 of 4 questions could not be asked; they count as wrong" in caplog.text


def test_annotations_that_nobody_was_asked_about_are_warned_of(whole, pope, model_dir, tmp_path, caplog):
    less = tmp_path / "q.jsonl"
    less.write_text("".join((pope / "pope/llava_pope_test.jsonl").read_text().splitlines(keepends=True)[:2]))
    assert main(command(pope, model_dir, tmp_path / "out", "--questions", str(less))) == 0
    assert "5 of 7 questions have no answer and count as wrong" in caplog.text
    assert json.loads((tmp_path / "out/score.json").read_text())["unanswered"] == 5


def test_not_one_can_be_asked(pope, model_dir, tmp_path, capfd):
    (tmp_path / "0.png").write_bytes(b"no image")
    assert main(command(pope, model_dir, tmp_path / "out", "--images", str(tmp_path))) == 2
    assert "none of the 7 questions could be asked; the first: " in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("answer", ["B", "nan"])  # or no public answer
def test_mmbench_with_limit(answer, model_dir, tmp_path, capfd):
    row = {"question": "Which?", "A": "x", "B": "y", "answer": answer, "category": "ocr"}
    table = files.mmbench_table(tmp_path / "t.tsv", [{"index": str(number), **row} for number in range(3)])
    out = tmp_path / "out"
    assert main(evaluation("mmbench", model_dir, out, f"--questions {table} --limit 2 --max-new-tokens 2")) == 0
    assert [answer["question_id"] for answer in lines(out / "answers.jsonl")] == [0, 1]
    result = json.loads((out / "result.json").read_text())
    assert result["upload"] == "upload.xlsx"
    assert (out / "upload.xlsx").stat().st_size > 500
    scored = answer == "B"
    assert ("MMBench, 2 questions" in capfd.readouterr().out) == scored
    assert (result["overall"] is not None) == (out / "score.json").exists() == scored


def test_vqav2_without_annotations_is_written_for_the_server(model_dir, tmp_path, capfd):
    files.images(tmp_path, ["1.png"])
    asked = files.questions(tmp_path / "q.jsonl", [(5, "1.png", f"What?{SHORT}", "default")])
    split = files.write(tmp_path / "all.jsonl", [{"question_id": 5}, {"question_id": 6}])
    out = tmp_path / "out"
    line = f"--questions {asked} --images {tmp_path} --upload-questions {split} --max-new-tokens 2"
    assert main(evaluation("vqav2", model_dir, out, line)) == 0
    assert capfd.readouterr().out == ""
    upload = json.loads((out / "upload.json").read_text())
    assert [each["question_id"] for each in upload] == [5, 6]
    assert upload[1]["answer"] == ""
    assert json.loads((out / "result.json").read_text())["overall"] is None


def test_refcoco_has_its_ground_truth_in_the_questions(model_dir, tmp_path):
    line = {"sent": "left guy", "bbox": [0, 0, 20, 10], "width": 40, "height": 32}
    files.images(tmp_path, ["0.png", "1.png"])
    asked = files.write(tmp_path / "val.jsonl", [{**line, "image": "0.png"}, {**line, "image": "1.png"}])
    command = evaluation("refcoco", model_dir, tmp_path / "out", f"--questions {asked} --images {tmp_path}")
    assert main([*command, "--max-new-tokens", "3", "--template", "Box the {}."]) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["count"], result["overall"], result["options"]) == (2, 0, {"template": "Box the {}."})
    assert [each["prompt"] for each in lines(tmp_path / "out/answers.jsonl")] == ["Box the left guy."] * 2


def test_generated_scenes_into_a_folder(model_dir, tmp_path):
    out = tmp_path / "out"
    assert main(evaluation("synthetic", model_dir, out, "--count 7 --limit 5")) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["groups"]["overall"]["n"] == result["count"] == 5
    assert result["max_new_tokens"] == 32
    assert result["groups"]["exists"].keys() == {"n", "accuracy", "text-only baseline"}


@pytest.mark.launch
def test_under_the_launcher(whole, pope, model_dir, tmp_path):
    out = tmp_path / "out"
    script = Path(__file__).parents[1] / "scripts/eval/pope.sh"
    flags = ["--batch-size", "2", "--max-new-tokens", "3", "--device", "cpu"]
    environment = {
        **os.environ,
        "EVAL_DATA": str(pope),
        "PROCESSES": "2",
        "OMP_NUM_THREADS": "1",
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", str(script), str(model_dir), str(out), *flags],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(file.name for file in out.glob("progress-*")) == ["progress-0.jsonl", "progress-1.jsonl"]
    assert (out / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    assert done.stdout.count("POPE: ") == 1
