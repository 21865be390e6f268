"""The soft accuracies of VQAv2 (arXiv 1612.00837) and TextVQA (arXiv 1904.08920), as their official evaluators compute.

An answer is right to the degree to which the annotators agree with it. Both compare normalized answers, in ways that
differ in details on which scores depend; the official code's typing errors are part of the metric and kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

# Typing errors of the official code: the first group was to be a look-behind, and re.UNICODE is given as the count.
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_MOST_PERIODS = int(re.UNICODE)  # 32
_COMMA = re.compile(r"(\d)(\,)(\d)")


@cache
def _words() -> dict[str, Any]:
    """contractions and numbers (what is written → what it becomes), articles and punctuation (what goes)."""
    file = resources.files("data.benchmarks").joinpath("vqa_normalization.json")
    return json.loads(file.read_text(encoding="utf-8"))


def vqav2_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How well a prediction agrees with the answers (ten of them), in [0, 1].

    For each answer min(1, matches among the others / 3), averaged. Where all answers are the same, they and the
    prediction are compared as they are written: "Yes" is wrong if all wrote "yes".
    """
    prediction, *answers = (_one_line(text) for text in (prediction, *answers))
    if len(set(answers)) > 1:
        prediction, *answers = (_strip_words(_strip_punctuation(text)) for text in (prediction, *answers))
    return _agreement(prediction, answers)


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The same of TextVQA, in [0, 1]: both sides are normalized always, by `normalize_answer`."""
    return _agreement(normalize_answer(prediction), [normalize_answer(answer) for answer in answers])


def normalize_answer(text: str) -> str:
    """An answer as TextVQA's evaluator compares it; LLaVA and others also write VQAv2's uploads with it."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _strip_words(_strip_punctuation(_one_line(text)))


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    matches = answers.count(prediction)
    # Seen from an answer that matches, one match less is among the others.
    among_others = [matches - (answer == prediction) for answer in answers]
    return sum(min(1.0, others / 3) for others in among_others) / len(answers)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _strip_punctuation(text: str) -> str:
    """A mark next to a blank anywhere goes, as all do if a comma stands between digits; others become blanks."""
    result = text
    thousands = _COMMA.search(text) is not None
    for mark in _words()["punctuation"]:
        result = result.replace(mark, "" if thousands or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def _strip_words(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes back in contractions."""
    numbers, contractions = _words()["numbers"], _words()["contractions"]
    words = [numbers.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _words()["articles"])
