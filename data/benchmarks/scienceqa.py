"""ScienceQA-IMG (arXiv 2209.09513): school questions with options; those that come with an image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data.benchmarks.base import OPTION_LETTER, Benchmark, GroundTruth, register_benchmark
from data.benchmarks.choices import option_letter
from data.errors import InputError
from data.json_objects import Record, each_object, read_object, read_objects, take, take_answer, take_id

_LETTERS = "ABCDE"


@register_benchmark
class ScienceQA(Benchmark):
    """The questions of ScienceQA's test split that have an image."""

    name = "scienceqa"
    title = "ScienceQA-IMG"
    metric = "accuracy, questions with an image"
    instruction = OPTION_LETTER

    def records(self, file: Path) -> Iterable[tuple[str, Record]]:
        """From LLaVA's ``llava_test_CQM-A.json``, a list of conversations; those without an image are left out."""
        for where, record in read_objects(file):
            turns = take(record, "conversations", list, where)
            if not turns or not isinstance(turns[0], dict):
                raise InputError(f"{where}: 'conversations' must begin with the question; fetch the file again")
            if record.get("image") is not None:
                text = take(turns[0], "value", str, f"{where}: conversations[0]")
                yield where, {"question_id": take_id(record, "id", where), "image": record["image"], "text": text}

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From ``problems.json`` or its folder: what has an image and is of split test; categories are subjects."""
        path = path / "problems.json" if path.is_dir() else path
        truths = []
        for where, question_id, record in each_object(path, "question", read_object(path, "problems.json")):
            if record.get("image") is None or record.get("split", "test") != "test":
                continue
            letters = _LETTERS[: len(take(record, "choices", list, where))]
            answer = take_answer(record, "answer", int, where)
            if not 0 <= answer < len(letters):
                raise InputError(f"{where}: 'answer' is {answer}, but it has {len(letters)} choices; fetch it again")
            value = (letters, letters[answer])
            truths.append(GroundTruth(question_id, value, (("id", question_id),), str(record.get("subject") or "")))
        if not truths:
            raise InputError(f"{path}: no question of split test has an image; name the published problems.json")
        return truths

    def grade(self, text: str, value: tuple[str, str]) -> float:
        letters, right = value
        return option_letter(text, letters) == right
