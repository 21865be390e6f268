#!/usr/bin/env python
"""The tables of docs/bootstrapping.md: rows that are trained one by one, then the tables of what they came to.

    scripts/bootstrap_rows.py train ROW [key=value ...]
    scripts/bootstrap_rows.py table

`train` bootstraps the tiny teacher (scripts/train_clip.sh scripts/recipes/tiny/teacher.yaml) with each seed into
DIR/ROW/SEED/student, and scores teacher and student there with mllm zeroshot, retrieve and rois. What is finished is
left alone. A run is one process with the whole batch, so several rows can run side by side, with OMP_NUM_THREADS=1 as
many as there are cores.

In the tables figures are means over the seeds, with the smallest and the largest where there are several; those of
zero-shot and retrieval in percent of what the teacher has on the same images. Rows and seeds that are missing are named
on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.json_objects import read_object, take
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.training.recipes import load_recipe

ROOT = Path(__file__).parents[1]
RECIPE = "scripts/recipes/tiny/bootstrap.yaml"
PROCESSES = 2  # with which the recipe is launched
LATE = "stages.1.learning_rates.late=5.0e-4"
ROWS: dict[str, tuple[str, list[str]]] = {  # what is different, in words and as overrides of the recipe
    "quarter": ("¼ of the tokens, two stages", []),
    "eighth": ("⅛ of the tokens", ["student.num_tokens=8"]),
    "at-once": ("all at once", []),  # see `overrides`
    "no-inheritance": ("nothing inherited", ["student.inherit=false", LATE]),
    "late-trained": ("last third trained too", [LATE]),
    "fixed-grid": ("RoIs stay on the grid", ["student.move_rois=false"]),
    "tokens-loss": ("loss on tokens too", ["losses.tokens=1.0"]),
    "relational-loss": ("relational loss too", ["losses.relational=1.0"]),
    "elastic": ("random number of tokens", ["stages.0.elastic=[4,16]", "stages.1.elastic=[4,16]"]),
    "ema": ("average of the weights", ["ema=0.99"]),
}
IMAGES = "synthetic:test:1000:size=64"
TEXTS = "synthetic:test:1000:classes=texts"  # of the recipe's zero_shot
METRICS = "student/metrics.json"
FILES = ("zeroshot.json", "retrieve.json", METRICS, "rois.json")
CURVE = "tokens.json"  # of the rows that were asked with fewer tokens too
WITH_CURVE = ("quarter", "elastic")
PERCENTAGES = {  # heading -> file and figure in it
    "objects, % of teacher": ("zeroshot.json", "top_1"),
    "R@1 image to text, % of teacher": ("retrieve.json", "image_to_text_r1"),
    "R@1 text to image, % of teacher": ("retrieve.json", "text_to_image_r1"),
}
WRITTEN = "what scripts/bootstrap_rows.py train wrote"
AGAIN = "delete it and run scripts/bootstrap_rows.py train again"  # which makes what is missing alone

Figures = dict[str, float]  # of one seed, or of the teacher, by heading


def overrides(row: str, seed: str, teacher: str, folder: Path) -> list[str]:
    """What a row gives `mllm bootstrap` beside the recipe."""
    recipe = load_recipe(BootstrapRecipe, ROOT / RECIPE)
    batch = PROCESSES * recipe.trainer["per_device_train_batch_size"]
    changed = list(ROWS[row][1])
    if row == "at-once":
        steps, rates = sum(stage.steps for stage in recipe.stages), recipe.stages[-1].learning_rates
        changed.append(f"stages={json.dumps([{'name': 'all', 'steps': steps, 'learning_rates': rates}])}")
    given = [f"teacher={teacher}", f"output={folder / 'student'}", f"trainer.seed={seed}"]
    return [*given, f"trainer.per_device_train_batch_size={batch}", *changed]


def train(row: str, seeds: Sequence[str], teacher: str, rows: Path, more: Sequence[str]) -> None:
    """Trains and scores a row, as far as that is not done."""
    for seed in seeds:
        folder = rows / row / seed
        student, metrics = str(folder / "student"), folder / METRICS
        if not metrics.is_file() or not read_object(metrics, WRITTEN).get("result"):
            command = ["scripts/bootstrap.sh", RECIPE, *overrides(row, seed, teacher, folder), *more, "--resume"]
            subprocess.run(command, cwd=ROOT, env={**os.environ, "PROCESSES": "1"}, check=True)
        both = ["--model", teacher, "--model", student]
        parts = {
            "zeroshot.json": ["zeroshot", IMAGES, *both],
            "retrieve.json": ["retrieve", IMAGES, *both],
            "rois.json": ["rois", "--model", student],
        }
        if row in WITH_CURVE:  # with how few tokens it can do
            few = [word for count in (4, 6, 8, 12, 16) for word in ("--tokens", str(count))]
            parts[CURVE] = ["zeroshot", IMAGES, "--model", student, *few]
        for file, words in parts.items():
            if not (folder / file).is_file():
                command = [sys.executable, "-m", "mllm", *words, "--json", str(folder / file)]
                subprocess.run(command, cwd=ROOT, check=True)


def read_seed(folder: Path) -> tuple[Figures, Figures]:
    """One seed's figures, and its teacher's: in percent, but for the cosine and the number of tokens.

    Raises:
        InputError: a file that `train` did not write.
    """
    student: Figures = {}
    teacher: Figures = {}
    path = folder / METRICS
    result = take(read_object(path, WRITTEN), "result", dict, str(path))
    student["tokens"] = _number(result, "num_tokens", path)
    for heading, (file, name) in PERCENTAGES.items():
        theirs, ours = (100 * _number(model, name, folder / file) for model in _two_models(folder / file))
        teacher[heading] = theirs
        student[heading] = _percentage(ours, theirs, f"{folder / file}: {name}")
    texts = take(take(result, "zero_shot", dict, str(path)), TEXTS, dict, str(path))
    theirs, ours = (_number(texts, name, path) for name in ("teacher", "student"))
    student["texts, % of teacher"] = _percentage(ours, theirs, f"{path}: accuracy on texts")
    student["cosine"] = _number(result, "cosine", path)
    path = folder / "rois.json"
    last = _objects(path, "steps")[-1]
    for when in ("before", "after"):
        student[f"points on objects {when}, %"] = 100 * _number(last, when, path)
    teacher["area"] = 100 * _number(read_object(path, WRITTEN), "area", path)
    return student, teacher


def read_curve(folder: Path) -> Figures:
    """Zero-shot accuracy of one seed in percent, by number of tokens.

    Raises:
        InputError: a file that `train` did not write.
    """
    path = folder / CURVE
    models = _objects(path, "models")
    return {f"{_number(model, 'tokens', path):g} tokens": 100 * _number(model, "top_1", path) for model in models}


def _percentage(ours: float, theirs: float, what: str) -> float:
    """In percent of what the teacher has."""
    if not theirs:
        raise InputError(f"{what} of the teacher is 0, of which there is no percentage; train it")
    return 100 * ours / theirs


def _two_models(path: Path) -> list[dict[str, Any]]:
    """Teacher and student."""
    models = _objects(path, "models")
    if len(models) != 2:
        raise InputError(f"{path}: 'models' is not the teacher and the student; {AGAIN}")
    return models


def _objects(path: Path, name: str) -> list[dict[str, Any]]:
    found = take(read_object(path, WRITTEN), name, list, str(path))
    if not found or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path}: {name!r} is no list of figures; {AGAIN}")
    return found


def _number(figures: dict[str, Any], name: str, path: Path) -> float:
    value = take(figures, name, object, str(path))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{path}: {name!r} is {value!r}; give a number")
    return value


@dataclass
class Found:
    """Figures of the seeds that are complete, by row; of their teachers; and what is missing, a line each."""

    students: dict[str, list[Figures]] = field(default_factory=dict)
    curves: dict[str, list[Figures]] = field(default_factory=dict)
    teachers: list[Figures] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def collect(rows: Path, seeds: Sequence[str]) -> Found:
    """Read what there is."""
    found = Found()
    for row in ROWS:
        for seed in seeds:
            folder = rows / row / seed
            files = (*FILES, CURVE) if row in WITH_CURVE else FILES
            lacking = [file for file in files if not (folder / file).is_file()]
            if lacking:
                found.missing.append(
                    f"{folder} lacks {', '.join(lacking)}: scripts/bootstrap_rows.py train {row} --seeds {seed}"
                )
                continue
            student, teacher = read_seed(folder)
            found.students.setdefault(row, []).append(student)
            found.teachers.append(teacher)
            if row in WITH_CURVE:
                found.curves.setdefault(row, []).append(read_curve(folder))
    return found


def as_markdown(found: dict[str, list[Figures]]) -> str:
    """A line for each row, its figures as "mean (smallest to largest)"."""
    columns = list(next(iter(found.values()))[0])
    lines = [["row", "what is different", "seeds", *columns], ["---", "---", *["---:"] * (len(columns) + 1)]]
    for row, seeds in found.items():
        cells = [_spread([figures[column] for figures in seeds], _digits(column)) for column in columns]
        lines.append([f"`{row}`", ROWS[row][0], str(len(seeds)), *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _digits(column: str) -> int:
    return {"tokens": 0, "cosine": 4}.get(column, 1)


def _spread(values: Sequence[float], digits: int) -> str:
    mean, low, high = (f"{x:.{digits}f}" for x in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main(argv: list[str] | None = None) -> int:
    """Trains a row or prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train", "table"))
    parser.add_argument("row", nargs="?", choices=list(ROWS), help="to train")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value of the recipe")
    parser.add_argument("--rows", type=Path, default=Path("runs/rows"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"], metavar="SEED", help="default: 1 2 3")
    parser.add_argument("--teacher", default="runs/tiny/teacher", metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(argv)
    if (args.action == "train") == (args.row is None):
        parser.error("train needs a row, table none")
    if args.action == "train":
        train(args.row, args.seeds, args.teacher, args.rows, args.overrides)
        return 0
    try:
        found = collect(args.rows, args.seeds)
        if not found.students:
            raise InputError(f"{args.rows}: no complete row there; scripts/bootstrap_rows.py train ROW makes one")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for line in found.missing:
        sys.stderr.write(f"missing: {line}\n")
    teacher = {column: _spread([each[column] for each in found.teachers], 1) for column in found.teachers[0]}
    if any(each != found.teachers[0] for each in found.teachers):
        sys.stderr.write("warning: the teacher does not have the same figures everywhere; was it trained again?\n")
    zero_shot, *retrieval = (teacher[heading] for heading in PERCENTAGES)
    sys.stdout.write(
        f"The teacher has {zero_shot} % zero-shot and {' and '.join(retrieval)} % R@1 (image to text, text to image); "
        f"objects cover {teacher['area']} % of the area.\n\n{as_markdown(found.students)}"
    )
    if found.curves:
        sys.stdout.write(f"\nZero-shot accuracy in % by number of tokens:\n\n{as_markdown(found.curves)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
