"""The results of many evaluations as one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.errors import InputError, shorten
from data.json_objects import read_object, take

Row = dict[str, Any]
_LARGEST = 1e15  # more is no score, no number of questions, no time
_COLUMNS = {  # field of result.json → heading
    "model": "model",
    "benchmark": "benchmark",
    "overall": "score",
    "metric": "what the score is",
    "count": "questions",
    "tokens_per_image": "tokens/image",
    "seconds_per_question": "s/question",
}


def collect(folders: Iterable[Path]) -> list[Row]:
    """What every ``result.json`` at or below the folders says in the table's fields, by model and benchmark.

    Raises:
        InputError: no such folder, no result in any, or a file that is none.
    """
    folders = list(folders)
    files = set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder; name an --out of `mllm eval`")
        files |= set(folder.rglob("result.json"))
    if not files:
        raise InputError(f"{', '.join(map(str, folders))}: no result.json there; `mllm eval` writes it when it is done")
    rows = []
    for file in sorted(files):
        content = read_object(file, "the result.json of `mllm eval`")
        rows.append({"folder": str(file.parent), **_fields(content, str(file))})
    return sorted(rows, key=lambda row: (row["model"], row["benchmark"], row["folder"]))


def _fields(content: Row, where: str) -> Row:
    """The table's fields of a result; a score may be None."""
    texts = {name: take(content, name, str, where) for name in ("model", "benchmark", "metric")}
    numbers = {name: take(content, name, object, where) for name in _COLUMNS if name not in texts}
    for name, value in numbers.items():
        number = isinstance(value, int | float) and abs(value) < _LARGEST  # which NaN is not
        if not number and not (value is None and name == "overall"):
            raise InputError(f"{where}: {name!r} is {shorten(repr(value), 40)}; give a number")
    return {name: {**texts, **numbers}[name] for name in _COLUMNS}


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, a blank score being one that only a server can tell."""
    lines = [list(_COLUMNS.values()), ["---", "---", "---:", "---", "---:", "---:", "---:"]]
    for row in rows:
        overall, seconds = row["overall"], row["seconds_per_question"]
        shown = {
            **row,
            "overall": "" if overall is None else f"{overall:.2f}",
            "seconds_per_question": f"{seconds:.3f}",
        }
        lines.append([str(shown[name]).replace("|", r"\|") for name in _COLUMNS])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
