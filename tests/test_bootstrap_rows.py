"""The rows of docs/bootstrapping.md: what each changes in the tiny recipe, and the table made of their files."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from encoder.training.recipes import load_recipe

ROOT = Path(__file__).parents[1]
RECIPE = "scripts/recipes/tiny/bootstrap.yaml"
TEXTS = "synthetic:test:1000:classes=texts"


@pytest.fixture(scope="module")
def table():
    """scripts/bootstrap_rows.py as a module."""
    spec = importlib.util.spec_from_file_location("bootstrap_rows", ROOT / "scripts/bootstrap_rows.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclass looks for it
    spec.loader.exec_module(module)
    return module


def write_metrics(folder: Path, result: dict[str, Any]) -> None:
    (folder / "student").mkdir(exist_ok=True)
    (folder / "student/metrics.json").write_text(json.dumps({"result": result}))


def write_seed(folder: Path, zero_shot: float, recall: float, cosine: float, after: float) -> None:
    """What `train` writes, of a teacher with 80% and 50%."""
    folder.mkdir(parents=True)
    models = [{"model": "teacher", "top_1": 0.8}, {"model": "student", "top_1": zero_shot}]
    (folder / "zeroshot.json").write_text(json.dumps({"images": 10, "models": models}))
    models = [{"image_to_text_r1": 0.5, "text_to_image_r1": 0.4}, {"image_to_text_r1": recall, "text_to_image_r1": 0.4}]
    (folder / "retrieve.json").write_text(json.dumps({"models": models}))
    figures = {"num_tokens": 16, "cosine": cosine, "cosine_4": 0.1}
    write_metrics(folder, figures | {"zero_shot": {TEXTS: {"teacher": 0.4, "student": 0.3}}})
    steps = [{"before": 0.10, "after": 0.105}, {"before": 0.11, "after": after / 100}]
    (folder / "rois.json").write_text(json.dumps({"area": 0.125, "steps": steps}))
    models = [{"tokens": 4, "top_1": zero_shot / 2}, {"tokens": 16, "top_1": zero_shot}]
    (folder / "tokens.json").write_text(json.dumps({"models": models}))


def test_means_and_spread(table, tmp_path, capsys):
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    write_seed(tmp_path / "quarter/2", 0.72, 0.45, 0.92, 23.0)
    write_seed(tmp_path / "eighth/1", 0.4, 0.25, 0.8, 13.0)
    (tmp_path / "eighth/2").mkdir()
    write_metrics(tmp_path / "eighth/2", {"cosine": 0.8})
    assert table.main(["table", "--rows", str(tmp_path), "--seeds", "1", "2"]) == 0
    out, err = capsys.readouterr()
    first, _, header, _, quarter, eighth, *curve = out.splitlines()
    assert first == (
        "The teacher has 80.0 % zero-shot and 50.0 and 40.0 % R@1 (image to text, text to image); "
        "objects cover 12.5 % of the area."
    )
    assert [cell.strip() for cell in quarter.split("|")[3:-1]] == [
        "2",
        "16",
        "95.0 (90.0 to 100.0)",
        "95.0 (90.0 to 100.0)",
        "100.0",
        "75.0",
        "0.9100 (0.9000 to 0.9200)",
        "11.0",
        "21.5 (20.0 to 23.0)",
    ]
    assert [cell.strip() for cell in eighth.split("|")[3:-1]] == [
        *("1", "16", "50.0", "50.0", "100.0", "75.0", "0.8000", "11.0", "13.0")
    ]
    assert header.count("|") == quarter.count("|") == eighth.count("|")
    assert curve[-3].endswith("| seeds | 4 tokens | 16 tokens |")
    assert curve[-1].endswith("| 2 | 38.0 (36.0 to 40.0) | 76.0 (72.0 to 80.0) |")
    missing = err.splitlines()
    assert missing[0] == (
        f"missing: {tmp_path}/eighth/2 lacks zeroshot.json, retrieve.json, rois.json: "
        "scripts/bootstrap_rows.py train eighth --seeds 2"
    )
    assert len(missing) == 1 + 2 * (len(table.ROWS) - 2)  # eight rows have neither seed


def test_another_teacher_is_told(table, tmp_path, capsys):
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    write_seed(tmp_path / "ema/1", 0.8, 0.5, 0.9, 20.0)
    content = (tmp_path / "ema/1/zeroshot.json").read_text()
    (tmp_path / "ema/1/zeroshot.json").write_text(content.replace("0.8", "0.9", 1))
    assert table.main(["table", "--rows", str(tmp_path), "--seeds", "1"]) == 0
    out, err = capsys.readouterr()
    assert "was it trained again?" in err
    assert "85.0 (80.0 to 90.0) % zero-shot" in out


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("zeroshot.json", "{", "zeroshot.json"),
        ("zeroshot.json", '{"models": [{"top_1": 0.8}]}', "'models' is not the teacher and the student; delete"),
        ("zeroshot.json", '{"models": [{"top_1": 0.8}, {"top_1": "x"}]}', "'top_1' is 'x'; give a number"),
        ("retrieve.json", '{"models": [{"image_to_text_r1": 0}, {"image_to_text_r1": 0}]}', "of the teacher is 0"),
        ("student/metrics.json", '{"result": {}}', "metrics.json: has no field 'num_tokens'"),
        (
            "student/metrics.json",
            json.dumps({"result": {"num_tokens": 16, "zero_shot": {TEXTS: {"teacher": 0, "student": 0.1}}}}),
            "accuracy on texts of the teacher is 0",
        ),
        ("rois.json", '{"area": 0.1, "steps": []}', "rois.json: 'steps' is no list of figures"),
        ("tokens.json", '{"models": [4]}', "tokens.json: 'models' is no list of figures; delete"),
    ],
)
def test_damaged_files_are_named(table, tmp_path, capsys, file, content, words):
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    (tmp_path / "quarter/1" / file).write_text(content)
    assert table.main(["table", "--rows", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert words in err


def test_no_row_at_all(table, tmp_path, capsys):
    assert table.main(["table", "--rows", str(tmp_path)]) == 2
    assert "no complete row there" in capsys.readouterr().err


CHANGES = {
    "quarter": set(),
    "eighth": {"student.num_tokens"},
    "at-once": {"stages"},
    "no-inheritance": {"student.inherit", "stages.1.learning_rates.late"},
    "late-trained": {"stages.1.learning_rates.late"},
    "fixed-grid": {"student.move_rois"},
    "tokens-loss": {"losses.tokens"},
    "relational-loss": {"losses.relational"},
    "elastic": {"stages.0.elastic", "stages.1.elastic"},
    "ema": {"ema"},
}


def differences(a: Any, b: Any, path: str = "") -> set[str]:
    """Where two nested values differ; lists of another length differ as a whole."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = {key: (a.get(key), b.get(key)) for key in a.keys() | b.keys()}
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = {str(index): pair for index, pair in enumerate(zip(a, b, strict=True))}
    else:
        return set() if a == b else {path.removeprefix(".")}
    return set().union(*(differences(*pair, f"{path}.{key}") for key, pair in pairs.items()))


def test_rows_change_what_they_say_and_no_more(table):
    from encoder.bootstrapping.recipe import BootstrapRecipe

    assert list(CHANGES) == list(table.ROWS)
    base = load_recipe(BootstrapRecipe, ROOT / RECIPE)
    assert TEXTS in base.zero_shot
    always = {"teacher", "output", "trainer.seed", "trainer.per_device_train_batch_size"}
    for row, changes in CHANGES.items():
        given = table.overrides(row, "7", "teacher", Path("rows"))
        changed = load_recipe(BootstrapRecipe, ROOT / RECIPE, given)
        assert differences(asdict(base), asdict(changed)) - always == changes, row
        assert changed.output == "rows/student"
        assert changed.trainer["seed"] == 7
        assert changed.trainer["per_device_train_batch_size"] == 96  # of the recipe's two processes
        assert sum(stage.steps for stage in changed.stages) == sum(stage.steps for stage in base.stages), row
        if row == "at-once":
            assert changed.stages[0].learning_rates == base.stages[-1].learning_rates


def test_what_is_done_is_not_done_again(table, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(table.subprocess, "run", lambda command, **_: calls.append(command))
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    (tmp_path / "quarter/1/rois.json").unlink()
    assert table.main(["train", "quarter", "ema=0.5", "--rows", str(tmp_path), "--seeds", "1", "2"]) == 0
    assert [command[3] if "-m" in command else command[0] for command in calls] == [
        "rois",
        "scripts/bootstrap.sh",
        *("zeroshot", "retrieve", "rois", "zeroshot"),
    ]
    assert "ema=0.5" in calls[1]
