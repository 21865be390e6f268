"""MMBench (arXiv 2307.06281): multiple choice over twenty abilities."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.benchmarks.base import (
    OPTION_LETTER,
    Benchmark,
    GroundTruth,
    Pair,
    Question,
    Result,
    mean_result,
    register_benchmark,
    unanswered,
)
from data.benchmarks.choices import option_letter
from data.errors import InputError, translated
from data.files import csv_rows, read_text, write_whole
from data.json_objects import Id, Record

if TYPE_CHECKING:
    from PIL import Image

_LETTERS = "ABCD"
_ROTATION = 1_000_000  # added to the index of a question whose options are rotated
_LONGEST_REFERENCE = 64  # characters; what is shorter is no image but the index of the row that holds it
# What the upload leaves out, as LLaVA's does; the options stay.
_LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")

Row = dict[str, str]


@register_benchmark
class MMBench(Benchmark):
    """MMBench. The dev split's answers are public; those of test are scored by the server, from the spreadsheet."""

    name = "mmbench"
    title = "MMBench"
    metric = "accuracy, all rotations right"
    instruction = OPTION_LETTER
    needs: ClassVar[tuple[str, ...]] = ("questions",)

    def records(self, file: Path) -> Iterable[tuple[str, Record]]:
        """From the published table, ``mmbench_dev_20230712.tsv``, which holds the images too."""
        rows = _read_rows(file)
        contents = {row["index"]: row["image"] for row in rows}
        for row in rows:
            if len(row["image"]) <= _LONGEST_REFERENCE:
                row["image"] = contents.get(row["image"], "")
            yield f"{file}: image of index {row['index']}", row

    def read_question(self, record: Record, where: str, images: Path) -> Question:
        opened = partial(_open, record.pop("image"), where)  # the only long field; what remains is for the upload
        hint = record.get("hint", "")
        lines = [] if _is_none(hint) else [hint]
        lines += [record["question"], *(f"{letter}. {record[letter]}" for letter in _options(record))]
        category = record.get("category", "")
        return Question(int(record["index"]), "\n".join(lines), "", opened, category, record)

    def own_ground_truth(self, questions: Sequence[Question]) -> list[GroundTruth] | None:
        """From the column answer, which is there in the dev split, and not in that of test, or blank."""
        truths = [_truth(question.fields) for question in questions if not _is_none(question.fields.get("answer", ""))]
        return truths or None

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        rows = _read_rows(path)
        if _is_none(rows[0].get("answer", "")):
            raise InputError(
                f"{path}: has no column 'answer' that is filled; its server scores it, from the spreadsheet"
            )
        return [_truth(row) for row in rows]

    def score(self, pairs: Sequence[Pair]) -> Result:
        """A question counts as right if it is in all of its rotations. Answers must name a letter.

        The official server does the same, but has a language model read answers that name none.
        """
        hits: dict[int, list[bool]] = {}
        categories: dict[int, GroundTruth] = {}
        items = []
        for truth, text in pairs:
            right = text is not None and option_letter(text, truth.value[0]) == truth.value[1]
            question = int(truth.question_id) % _ROTATION
            hits.setdefault(question, []).append(right)
            categories.setdefault(question, truth)
            items.append((truth.question_id, 100.0 * right))
        questions: list[Pair] = [(truth, None) for truth in categories.values()]
        whole = mean_result(questions, [float(all(rotations)) for rotations in hits.values()])
        single = {"n": len(items), "accuracy": sum(score for _, score in items) / len(items)}
        return Result(whole.overall, items, {**whole.groups, "each rotation": single}, unanswered(pairs))

    def write_upload(
        self, folder: Path, questions: Sequence[Question], texts: Sequence[str | None], pairs: Sequence[Pair] = ()
    ) -> Path:
        """The spreadsheet: the table without its images, and the column prediction behind the options."""
        columns = [name for name in questions[0].fields if name not in _LEFT_OUT]
        place = 1 + max(columns.index(name) for name in ("question", *_LETTERS) if name in columns)
        columns.insert(place, "prediction")
        rows: list[Sequence[str | Id]] = [columns]
        for question, text in zip(questions, texts, strict=True):
            row = {**question.fields, "index": question.question_id, "prediction": text or ""}
            rows.append([row[name] for name in columns])
        return write_whole(folder / "upload.xlsx", _spreadsheet(rows))


def _spreadsheet(rows: Iterable[Sequence[str | Id]]) -> bytes:
    """An .xlsx file with one sheet; an empty text is an empty cell."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet()

    def cell(value: str | Id) -> WriteOnlyCell | Id | None:
        if not isinstance(value, str) or not value:
            return value or None
        text = value.encode(errors="replace").decode()  # half a surrogate pair is no character
        made = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub(" ", text))
        made.data_type = "s"  # also where it begins as a formula does
        return made

    for row in rows:
        sheet.append([cell(value) for value in row])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _read_rows(file: Path) -> list[Row]:
    names, *lines = [cells for _, cells in csv_rows(read_text(file), file, "\t")] or [[]]
    for name in ("index", "question", "image", "A", "B"):
        if name not in names:
            raise InputError(f"{file}: has no column {name!r}; name MMBench's table, with tabs between its columns")
    rows = []
    for number, line in enumerate(lines, 1):
        if len(line) != len(names):
            raise InputError(f"{file}: row {number} has {len(line)} of {len(names)} columns; fetch the file again")
        row = dict(zip(names, line, strict=True))
        if not row["index"].isdecimal():
            raise InputError(f"{file}: row {number}: 'index' is {row['index']!r}; give a whole number")
        if len(_options(row)) < 2:
            raise InputError(f"{file}: row {number}: has fewer than two options; fill columns A and B")
        rows.append(row)
    if not rows:
        raise InputError(f"{file}: holds no question; fetch it again")
    if not all(_is_none(row.get("answer", "")) for row in rows):  # or else they are not public
        for number, row in enumerate(rows, 1):
            if row["answer"] not in tuple(_options(row)):
                where = f"{file}: row {number}, index {row['index']}"
                raise InputError(f"{where}: 'answer' is {row['answer']!r}; give one of {', '.join(_options(row))}")
    return rows


def _truth(row: Mapping[str, str]) -> GroundTruth:
    value = (_options(row), row["answer"])
    return GroundTruth(int(row["index"]), value, (("id", row["index"]),), row.get("category", ""))


def _options(row: Mapping[str, str]) -> str:
    """The letters of the options that a question has."""
    filled = [not _is_none(row.get(letter, "")) for letter in _LETTERS]
    return _LETTERS[: filled.index(False) if False in filled else len(filled)]


def _is_none(text: str) -> bool:
    return text.strip().lower() in ("", "nan", "none")


def _open(image: str, name: str) -> Image.Image:
    from data.images import open_image

    with translated(f"{name}: is no base64", "fetch the table again"):
        content = base64.b64decode(image, validate=True)
    return open_image(content, name=name)
