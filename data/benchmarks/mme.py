"""MME (arXiv 2306.13394): two questions to be answered with yes or no about each image, one of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.benchmarks.base import (
    SHORT_ANSWER,
    Answer,
    Benchmark,
    GroundTruth,
    Key,
    Pair,
    Question,
    Result,
    register_benchmark,
    unanswered,
)
from data.errors import InputError
from data.files import read_text, write_whole

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_YES_NO = "Please answer yes or no."


class Asked(NamedTuple):
    """A question as it is published; ``file`` is that of the questions about its image."""

    label: str
    file: str
    question: str


@register_benchmark
class MME(Benchmark):
    """MME. Both questions about an image have one id, CATEGORY/IMAGE: they are told apart by their words."""

    name = "mme"
    title = "MME"
    metric = "points for perception, 200 a category"
    instruction = SHORT_ANSWER

    def question_of(self, prompt: str) -> str:
        """Without either instruction and with single blanks: files differ in them."""
        return " ".join(prompt.replace(self.instruction, " ").replace(_YES_NO, " ").split())

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From the folder ``MME_Benchmark_release_version``: in each category, one text file of two lines an image."""
        if not path.is_dir():
            raise InputError(
                f"{path}: is no folder; name MME_Benchmark_release_version, with a folder for each category"
            )
        truths = []
        for category in (*PERCEPTION, *COGNITION):
            folder = path / category
            nested = folder / "questions_answers_YN"
            for file in sorted((nested if nested.is_dir() else folder).glob("*.txt")):
                truths += self._read_file(file, category)
        if not truths:
            raise InputError(f"{path}: holds no questions such as {PERCEPTION[0]}/*.txt; name the folder that does")
        return truths

    def _read_file(self, file: Path, category: str) -> list[GroundTruth]:
        truths = []
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            question, _, label = line.strip().partition("\t")
            label = label.strip().lower()
            if label not in ("yes", "no"):
                raise InputError(f"{file}: line {number} is no question, tab, Yes or No; fetch the file again")
            key: Key = ("content", category, file.stem, self.question_of(question))
            truths.append(GroundTruth(f"{category}/{file.stem}", Asked(label, file.name, question), (key,), category))
        return truths

    def keys(self, answer: Answer) -> list[Key]:
        if answer.prompt is None:
            raise InputError(f"{answer.where}: has no 'prompt', by which the two questions of an image are told apart")
        path = PurePosixPath(str(answer.question_id))
        return [("content", path.parts[0] if path.parts else "", path.stem, self.question_of(answer.prompt))]

    def score(self, pairs: Sequence[Pair]) -> Result:
        """Per category accuracy, accuracy⁺ (both questions of an image right), and their sum in points."""
        images: dict[str, dict[str, list[bool]]] = {}
        items = []
        for truth, text in pairs:
            right = text is not None and yes_no_other(text) == truth.value.label
            images.setdefault(truth.category, {}).setdefault(truth.value.file, []).append(right)
            items.append((truth.question_id, 100.0 * right))
        groups: dict[str, dict[str, float]] = {}
        for category, by_image in images.items():
            answers = [right for both in by_image.values() for right in both]
            accuracy = 100 * sum(answers) / len(answers)
            both_right = 100 * sum(map(all, by_image.values())) / len(by_image)
            groups[category] = {
                "n": len(answers),
                "accuracy": accuracy,
                "accuracy+": both_right,
                "points": accuracy + both_right,
            }
        sums = {}
        for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION)):
            members = [groups[category] for category in categories if category in groups]
            sums[name] = {measure: sum(each[measure] for each in members) for measure in ("n", "points")}
        return Result(sums["perception"]["points"], items, {**groups, **sums}, unanswered(pairs))

    def write_upload(
        self, folder: Path, questions: Sequence[Question], texts: Sequence[str | None], pairs: Sequence[Pair] = ()
    ) -> Path | None:
        """For the official ``calculation.py``: a folder of CATEGORY.txt, lines of file, question, truth and answer."""
        if not pairs:
            return None
        out = folder / "mme_results"
        out.mkdir(exist_ok=True)
        lines: dict[str, list[str]] = {}
        for truth, text in pairs:
            said = " ".join((text or "").split())
            label, file, question = truth.value
            lines.setdefault(truth.category, []).append(f"{file}\t{question}\t{label.capitalize()}\t{said}\n")
        for category, content in lines.items():
            write_whole(out / f"{category}.txt", "".join(content).encode(errors="backslashreplace"))
        return out


def yes_no_other(text: str) -> str:
    """An answer as the official script takes it: by its first four letters in lower case."""
    found = re.search("yes|no", text.strip().lower()[:4])
    return found.group() if found else "other"
