#!/usr/bin/env python
"""The tables of docs/bootstrapping.md, of what scripts/bootstrap_row.sh wrote: scripts/bootstrap_table.py [--rows DIR]

Figures are means over the seeds, with the smallest and the largest where there are several; those of zero-shot and
retrieval in percent of what the teacher has on the same images. Rows and seeds that are missing are named on stderr.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import read_text
from data.json_objects import read_object, take

ROWS = {  # of scripts/bootstrap_row.sh: what they change
    "quarter": "¼ of the tokens, two stages",
    "eighth": "⅛ of the tokens",
    "at-once": "all at once",
    "no-inheritance": "nothing inherited",
    "late-trained": "last third trained too",
    "fixed-grid": "RoIs stay on the grid",
    "tokens-loss": "loss on tokens too",
    "relational-loss": "relational loss too",
    "elastic": "random number of tokens",
    "ema": "average of the weights",
}
FILES = ("zeroshot.json", "retrieve.json", "report.txt", "rois.json")
CURVE = "tokens.json"  # of the rows that were asked with fewer tokens too
WITH_CURVE = ("quarter", "elastic")
SHARES = {  # heading -> file and figure in it
    "objects, % of teacher": ("zeroshot.json", "top_1"),
    "R@1 image to text, % of teacher": ("retrieve.json", "image_to_text_r1"),
    "R@1 text to image, % of teacher": ("retrieve.json", "text_to_image_r1"),
}
COSINE = re.compile(r"(\d+) tokens against \d+, held-out cosine to its teacher (-?\d+\.\d+)")
TEXTS = re.compile(r":classes=texts: teacher (\d+\.\d+)%, student (\d+\.\d+)%")
WRITTEN = "what scripts/bootstrap_row.sh wrote"
AGAIN = "delete it and run scripts/bootstrap_row.sh again"  # which makes what is missing, and trains nothing twice

Figures = dict[str, float]  # of one seed, or of the teacher, by heading


def read_seed(folder: Path) -> tuple[Figures, Figures]:
    """One seed's figures, and its teacher's: in percent, but for the cosine and the number of tokens.

    Raises:
        InputError: a file that is none of `scripts/bootstrap_row.sh`.
    """
    student: Figures = {}
    teacher: Figures = {}
    tokens, cosine = _found(COSINE, folder / "report.txt")[0]  # its own number comes first
    student["tokens"] = float(tokens)
    for heading, (file, name) in SHARES.items():
        theirs, ours = (100 * _number(model, name, folder / file) for model in _two_models(folder / file))
        teacher[heading] = theirs
        student[heading] = _share(ours, theirs, f"{folder / file}: {name}")
    theirs, ours = map(float, _found(TEXTS, folder / "report.txt")[0])
    student["texts, % of teacher"] = _share(ours, theirs, f"{folder / 'report.txt'}: accuracy on texts")
    student["cosine"] = float(cosine)
    path = folder / "rois.json"
    last = _objects(path, "steps")[-1]
    for when in ("before", "after"):
        student[f"points on objects {when}, %"] = 100 * _number(last, when, path)
    teacher["area"] = 100 * _number(read_object(path, WRITTEN), "area", path)
    return student, teacher


def read_curve(folder: Path) -> Figures:
    """Zero-shot accuracy of one seed in percent, by number of tokens.

    Raises:
        InputError: a file that is none of `scripts/bootstrap_row.sh`.
    """
    path = folder / CURVE
    models = _objects(path, "models")
    return {f"{_number(model, 'tokens', path):g} tokens": 100 * _number(model, "top_1", path) for model in models}


def _share(ours: float, theirs: float, what: str) -> float:
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


def _found(pattern: re.Pattern[str], path: Path) -> list[tuple[str, ...]]:
    """The groups of all matches."""
    found = [match.groups() for match in pattern.finditer(read_text(path))]
    if not found:
        raise InputError(f"{path}: has no line such as {pattern.pattern!r}; {AGAIN}")
    return found


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
                    f"{folder} lacks {', '.join(lacking)}: SEEDS={seed} scripts/bootstrap_row.sh {row}"
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
        lines.append([f"`{row}`", ROWS[row], str(len(seeds)), *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _digits(column: str) -> int:
    return {"tokens": 0, "cosine": 4}.get(column, 1)


def _spread(values: Sequence[float], digits: int) -> str:
    mean, low, high = (f"{x:.{digits}f}" for x in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=Path, default=Path("runs/rows"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"], metavar="SEED", help="default: 1 2 3")
    args = parser.parse_args(argv)
    try:
        found = collect(args.rows, args.seeds)
        if not found.students:
            raise InputError(f"{args.rows}: no complete row there; scripts/bootstrap_row.sh quarter makes the first")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for line in found.missing:
        sys.stderr.write(f"missing: {line}\n")
    teacher = {column: _spread([each[column] for each in found.teachers], 1) for column in found.teachers[0]}
    if any(each != found.teachers[0] for each in found.teachers):
        sys.stderr.write("warning: the teacher does not have the same figures everywhere; was it trained again?\n")
    zero_shot, *retrieval = (teacher[heading] for heading in SHARES)
    sys.stdout.write(
        f"The teacher has {zero_shot} % zero-shot and {' and '.join(retrieval)} % R@1 (image to text, text to image); "
        f"objects cover {teacher['area']} % of the area.\n\n{as_markdown(found.students)}"
    )
    if found.curves:
        sys.stdout.write(f"\nZero-shot accuracy in % by number of tokens:\n\n{as_markdown(found.curves)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
