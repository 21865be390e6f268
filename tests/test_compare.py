"""The comparison at small scale: what the rows launch, and the table of what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoder.training.recipes import load_recipe
from mllm.finetuning.recipe import FinetuneRecipe
from tests.test_scripts import write_command

ROOT = Path(__file__).parents[1]
ROWS = ("sparse", "dense", "dense-pool", "dense-pixel-shuffle", "dense-resampler")


@pytest.fixture
def row(tmp_path):
    """Runs compare_row.sh on pieces that are empty folders, with commands that only note how they were called."""
    for piece in ("teacher", "encoder", "lm"):
        (tmp_path / "pieces" / piece).mkdir(parents=True)
    calls = tmp_path / "calls"
    note = f'printf "%s\\n" "$(basename "$0") $*" >>{calls}'
    write_command(tmp_path / "bin" / "python", f"{note}; exec 1>&2")
    write_command(tmp_path / "bin" / "mllm", note)

    def run(name: str, *more: str, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / "compare_row.sh"), name, *more],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "VIRTUAL_ENV": "set",
                "PIECES": str(tmp_path / "pieces"),
                "OUT": str(tmp_path / "out"),
                **environment,
            },
        )
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def overrides(call: str, recipe: str) -> list[str]:
    """The key=value words of a call behind its recipe; values with blanks are put together again."""
    words: list[str] = []
    for word in call.split(f"{recipe} ")[1].removesuffix(" --resume").split(" "):
        if "=" in word:
            words.append(word)
        else:
            words[-1] += f" {word}"
    return words


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_twice_and_asks(name, row, tmp_path, monkeypatch):
    done, calls = row(name, "trainer.save_steps=7", QUESTIONS="70")
    assert done.returncode == 0, done.stderr
    if name != "sparse":
        converting = calls.pop(0)
        assert converting.endswith(
            f"encoder.teachers.dense_tower {tmp_path}/pieces/teacher --out {tmp_path}/out/dense-tower"
        )
    assert len(calls) == 6
    monkeypatch.chdir(ROOT)
    for seed in (1, 2):
        stages, asked = calls[3 * seed - 3 : 3 * seed - 1], calls[3 * seed - 1]
        paths = [f"scripts/recipes/tiny/{stage}.yaml" for stage in ("projector", "full")]
        first, second = (
            load_recipe(FinetuneRecipe, path, overrides(call, path)) for path, call in zip(paths, stages, strict=True)
        )
        assert (first.stage, first.trainer["seed"]) == ("projector", seed)
        assert first.trainer["gradient_accumulation_steps"] == 2  # for the recipe's two processes
        assert first.encoder == str(tmp_path / ("pieces/encoder" if name == "sparse" else "out/dense-tower"))
        assert first.roi_embedding == (name == "sparse")
        assert (second.stage, second.model, second.trainer["seed"]) == ("full", first.output, seed)
        assert second.trainer["save_steps"] == 7
        assert second.trainer["gradient_accumulation_steps"] == 2
        assert (
            asked == f"mllm eval synthetic --model {second.output} --count 70 --out {tmp_path}/out/{name}/{seed}/eval"
        )


def test_what_is_finished_is_left_alone(row, tmp_path):
    seed = tmp_path / "out" / "sparse" / "1"
    for file in ("projector/config.json", "full/config.json"):
        (seed / file).parent.mkdir(parents=True)
        (seed / file).touch()
    _, calls = row("sparse", SEEDS="1")
    assert [call.split()[0] for call in calls] == ["mllm"]  # which leaves what it has asked alone itself


def test_no_such_row_and_no_pieces(row, tmp_path):
    done, calls = row("denser")
    assert (done.returncode, calls) == (2, [])
    assert "error: no row denser; there are sparse dense" in done.stderr
    done, calls = row("sparse", PIECES=str(tmp_path))
    assert (done.returncode, calls) == (2, [])
    assert f"error: there is no {tmp_path}/teacher; scripts/pipeline.sh tiny makes it" in done.stderr


# ------------------------------------------------------------------------------------------------------- the table


def write_run(folder: Path, colour: float, pace: int, count: int = 20, steps: int = 8) -> None:
    (folder / "eval").mkdir(parents=True)
    groups = {
        "colour": {"n": 10, "accuracy": colour, "text-only baseline": 18.0},
        "overall": {"n": 20, "accuracy": colour / 2, "text-only baseline": 30.0},
    }
    result = {"groups": groups, "count": count, "tokens_per_image": 16, "seconds_per_question": 0.01}
    (folder / "eval" / "result.json").write_text(json.dumps(result))
    (folder / "full").mkdir()
    log = [{"step": step, "samples_per_second": each} for step, each in ((1, 5), (4, pace), (steps, pace))]
    metrics = {"log": log, "parameters": {"projector": {"all": 33024, "trained": 33024}}}
    (folder / "full" / "metrics.json").write_text(json.dumps(metrics))


def table(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compare_table.py"), str(folder)], capture_output=True, text=True
    )


def test_table(tmp_path):
    write_run(tmp_path / "sparse" / "1", 80.0, 40)
    write_run(tmp_path / "sparse" / "2", 70.0, 50)
    write_run(tmp_path / "dense" / "1", 90.0, 30)
    write_run(tmp_path / "dense" / "2", 10.0, 30)
    (tmp_path / "dense" / "2" / "full" / "metrics.json").unlink()  # not finished
    done = table(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| row | what is seen | tokens | projector | colour | overall | s/question | samples/s | seeds |" in lines
    sparse = next(line for line in lines if line.startswith("| `sparse`"))
    assert (
        "| 16 | 33,024 | 75.0 (70.0 to 80.0) | 37.5 (35.0 to 40.0) | 0.0100 (0.0100 to 0.0100) | 45 (40 to 50) | 1, 2 |"
        in sparse
    )
    assert any("text-only baseline | 0 |  | 18.0 | 30.0 |" in line for line in lines)
    against = "`sparse` against `dense`: overall -7.5 points; 1.50 times as fast in training, 1.00 times in answering"
    assert any(f"{against}; behind it in: colour -15.0, overall -7.5." in line for line in lines)
    assert "(8 of stage 2)" in done.stdout
    missing = [line.split(": ")[0] for line in done.stderr.splitlines()]
    assert missing == [str(tmp_path / r / s) for r, s in [("dense", "2"), *((r, s) for r in ROWS[2:] for s in "12")]]


def test_runs_that_cannot_be_compared(tmp_path):
    done = table(tmp_path)
    assert done.returncode == 2
    assert f"error: {tmp_path}: no finished run there; scripts/compare_row.sh ROW makes one" in done.stderr
    write_run(tmp_path / "sparse" / "1", 80.0, 40)
    write_run(tmp_path / "dense" / "1", 90.0, 30, count=10)
    done = table(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {tmp_path}: the runs differ in questions: 10, 20; run them again, all alike" in done.stderr
