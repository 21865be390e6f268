"""POPE (arXiv 2305.10355): is an object in the picture? Asked for random, popular and adversarial objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from data.benchmarks.base import (
    SHORT_ANSWER,
    Answer,
    Benchmark,
    GroundTruth,
    Key,
    Pair,
    Result,
    register_benchmark,
    unanswered,
)
from data.errors import InputError
from data.json_objects import is_blank, read_objects, take, take_answer, take_id

_FILE = re.compile(r".*_pope_(\w+)\.json")  # coco_pope_adversarial.json


@register_benchmark
class POPE(Benchmark):
    """POPE.

    The published files number their questions again in each category, and LLaVA's numbers them through. So an answer is
    paired by category, image and question where these are known, and else by its id if only one question has that.
    Some of the published files hold a question twice; it counts once.
    """

    name = "pope"
    title = "POPE"
    metric = "F1, mean over categories"
    instruction = SHORT_ANSWER

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From the folder of ``coco_pope_CATEGORY.json``, or one file, JSON lines that may name their "category"."""
        if not path.is_dir():
            return self._read_file(path)
        files = sorted(file for file in path.iterdir() if _FILE.fullmatch(file.name))
        if not files:
            raise InputError(f"{path}: holds no file coco_pope_*.json; name the folder that does")
        return [truth for file in files for truth in self._read_file(file, several=True)]

    def _read_file(self, file: Path, several: bool = False) -> list[GroundTruth]:
        named = _FILE.fullmatch(file.name)
        truths = []
        for where, record in read_objects(file):
            question_id = take_id(record, "question_id", where)
            text, image = take(record, "text", str, where).strip(), take(record, "image", str, where)
            label = take_answer(record, "label", str, where).strip().lower()
            if label not in ("yes", "no"):
                raise InputError(f"{where}: 'label' is {label!r}; give yes or no")
            category = named[1] if named else "all"
            if not is_blank(record.get("category")):
                category = take(record, "category", str, where)
            keys: tuple[Key, ...] = (
                ("content", category, image, text),
                ("image", image, text),
                ("asked", str(question_id), text),
                ("text", text),
                ("id", str(question_id)),
            )
            truths.append(GroundTruth(f"{category}/{question_id}" if several else question_id, label, keys, category))
        return truths

    def keys(self, answer: Answer) -> list[Key]:
        """By content if the image is known. Or else by id, unless the prompt shows that another question is meant."""
        by_id: Key = ("id", str(answer.question_id))
        if answer.prompt is None:
            return [by_id]
        text = self.question_of(answer.prompt)
        if answer.image:
            return [("content", answer.category, answer.image, text), ("image", answer.image, text)]
        return [("asked", str(answer.question_id), text), ("text", text), by_id]

    def score(self, pairs: Sequence[Pair]) -> Result:
        """Per category accuracy, precision, recall and F1 of "yes", and the share of yes in the predictions."""
        by_category: dict[str, list[tuple[str, str | None]]] = {}
        items = []
        for truth, text in pairs:
            said = None if text is None else yes_or_no(text)
            by_category.setdefault(truth.category, []).append((truth.value, said))
            items.append((truth.question_id, 100.0 * (said == truth.value)))
        groups = {category: yes_no_measures(said) for category, said in by_category.items()}
        overall = sum(group["F1"] for group in groups.values()) / len(groups)
        return Result(overall, items, groups, unanswered(pairs))


def yes_or_no(text: str) -> str:
    """An answer as POPE takes it: "no" if a word of its first sentence is No, no or not, and otherwise "yes"."""
    words = text.split(".", 1)[0].replace(",", "").split()
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def yes_no_measures(pairs: Sequence[tuple[str, str | None]]) -> dict[str, float]:
    """Measures in percent of (truth, prediction or None); 0 where there is nothing to divide by.

    A missing prediction is the wrong one: where the truth is no, it lowers the precision as a yes would, so that nobody
    gains by leaving questions out. It is no part of the share of yes.
    """
    said = [prediction for _, prediction in pairs if prediction is not None]
    found = sum(truth == prediction == "yes" for truth, prediction in pairs)
    wanted = sum(truth == "yes" for truth, _ in pairs)
    yes = sum(prediction == "yes" or (prediction is None and truth == "no") for truth, prediction in pairs)
    return {
        "n": len(pairs),
        "accuracy": _percent(sum(truth == prediction for truth, prediction in pairs), len(pairs)),
        "precision": _percent(found, yes),
        "recall": _percent(found, wanted),
        "F1": _percent(2 * found, yes + wanted),
        "share of yes": _percent(said.count("yes"), len(said)),
    }


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
