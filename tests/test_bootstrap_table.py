"""The rows of docs/bootstrapping.md: what each changes in the tiny recipe, and the table made of their files."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from encoder.training.recipes import load_recipe

ROOT = Path(__file__).parents[1]
RECIPE = "scripts/recipes/tiny/bootstrap.yaml"


@pytest.fixture(scope="module")
def table():
    """scripts/bootstrap_table.py as a module."""
    spec = importlib.util.spec_from_file_location("bootstrap_table", ROOT / "scripts/bootstrap_table.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclass looks for it
    spec.loader.exec_module(module)
    return module


def write_seed(folder: Path, zero_shot: float, recall: float, cosine: float, after: float) -> None:
    """What scripts/bootstrap_row.sh writes, of a teacher with 80% and 50%."""
    folder.mkdir(parents=True)
    models = [{"model": "teacher", "top_1": 0.8}, {"model": "student", "top_1": zero_shot}]
    (folder / "zeroshot.json").write_text(json.dumps({"images": 10, "models": models}))
    models = [{"image_to_text_r1": 0.5, "text_to_image_r1": 0.4}, {"image_to_text_r1": recall, "text_to_image_r1": 0.4}]
    (folder / "retrieve.json").write_text(json.dumps({"models": models}))
    (folder / "report.txt").write_text(
        f"some line\nstudent x: 16 tokens against 65, held-out cosine to its teacher {cosine:.4f}\n"
        "student x: 4 tokens against 65, held-out cosine to its teacher 0.1000\n"
        "zero-shot accuracy on synthetic:test:9:classes=texts: teacher 40.0%, student 30.0% (75.0% of it)\n"
    )
    steps = [{"before": 0.10, "after": 0.105}, {"before": 0.11, "after": after / 100}]
    (folder / "rois.json").write_text(json.dumps({"area": 0.125, "steps": steps}))
    models = [{"tokens": 4, "top_1": zero_shot / 2}, {"tokens": 16, "top_1": zero_shot}]
    (folder / "tokens.json").write_text(json.dumps({"models": models}))


def test_means_and_spread(table, tmp_path, capsys):
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    write_seed(tmp_path / "quarter/2", 0.72, 0.45, 0.92, 23.0)
    write_seed(tmp_path / "eighth/1", 0.4, 0.25, 0.8, 13.0)
    (tmp_path / "eighth/2").mkdir()
    shutil.copy(tmp_path / "eighth/1/report.txt", tmp_path / "eighth/2/report.txt")
    assert table.main(["--rows", str(tmp_path), "--seeds", "1", "2"]) == 0
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
        "SEEDS=2 scripts/bootstrap_row.sh eighth"
    )
    assert len(missing) == 1 + 2 * (len(table.ROWS) - 2)  # eight rows have neither seed


def test_another_teacher_is_told(table, tmp_path, capsys):
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    write_seed(tmp_path / "ema/1", 0.8, 0.5, 0.9, 20.0)
    content = (tmp_path / "ema/1/zeroshot.json").read_text()
    (tmp_path / "ema/1/zeroshot.json").write_text(content.replace("0.8", "0.9", 1))
    assert table.main(["--rows", str(tmp_path), "--seeds", "1"]) == 0
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
        ("report.txt", "nothing", "report.txt: has no line such as"),
        (
            "report.txt",
            "16 tokens against 65, held-out cosine to its teacher 0.9\n:classes=texts: teacher 0.0%, student 1.0% (",
            "accuracy on texts of the teacher is 0",
        ),
        ("rois.json", '{"area": 0.1, "steps": []}', "rois.json: 'steps' is no list of figures"),
        ("tokens.json", '{"models": [4]}', "tokens.json: 'models' is no list of figures; delete"),
    ],
)
def test_damaged_files_are_named(table, tmp_path, capsys, file, content, words):
    write_seed(tmp_path / "quarter/1", 0.8, 0.5, 0.9, 20.0)
    (tmp_path / "quarter/1" / file).write_text(content)
    assert table.main(["--rows", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert words in err


def test_no_row_at_all(table, tmp_path, capsys):
    assert table.main(["--rows", str(tmp_path)]) == 2
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


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """Row -> the overrides that scripts/bootstrap_row.sh gives; nothing is trained."""
    root = tmp_path_factory.mktemp("rows")
    for name in ("scripts/bootstrap_row.sh", RECIPE):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name, body in (("scripts/bootstrap.sh", 'printf "%s\\n" "$@"'), ("bin/mllm", "true")):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (root / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": "set"}

    def read(row: str) -> subprocess.CompletedProcess:
        command = ["bash", str(root / "scripts/bootstrap_row.sh"), row]
        return subprocess.run(command, capture_output=True, text=True, env={**environment, "SEEDS": "7"})

    return read


def differences(a: Any, b: Any, path: str = "") -> set[str]:
    """Where two nested values differ; lists of another length differ as a whole."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = {key: (a.get(key), b.get(key)) for key in a.keys() | b.keys()}
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = {str(index): pair for index, pair in enumerate(zip(a, b, strict=True))}
    else:
        return set() if a == b else {path.removeprefix(".")}
    return set().union(*(differences(*pair, f"{path}.{key}") for key, pair in pairs.items()))


def test_rows_change_what_they_say_and_no_more(overrides, table):
    from encoder.bootstrapping.recipe import BootstrapRecipe

    refused = overrides("nothing")
    assert refused.returncode == 2
    assert re.search(r"there are ([\w\s-]+)\n", refused.stderr)[1].split() == list(CHANGES) == list(table.ROWS)
    base = load_recipe(BootstrapRecipe, ROOT / RECIPE)
    always = {"teacher", "output", "trainer.seed", "trainer.per_device_train_batch_size"}
    for row, changes in CHANGES.items():
        done = overrides(row)
        assert done.returncode == 0, done.stderr
        recipe, *given, resume = done.stdout.splitlines()
        assert (recipe, resume) == (RECIPE, "--resume")
        changed = load_recipe(BootstrapRecipe, ROOT / RECIPE, given)
        assert differences(asdict(base), asdict(changed)) - always == changes, row
        assert changed.output == f"runs/rows/{row}/7/student"
        assert changed.trainer["seed"] == 7
        assert changed.trainer["per_device_train_batch_size"] == 96  # of the recipe's two processes
        assert sum(stage.steps for stage in changed.stages) == sum(stage.steps for stage in base.stages), row
        if row == "at-once":
            assert changed.stages[0].learning_rates == base.stages[-1].learning_rates
