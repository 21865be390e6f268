"""Answers read from files, and each put beside the truth that it is compared with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data.benchmarks.base import Answer, Benchmark, GroundTruth, Key, Pair
from data.errors import InputError
from data.json_objects import Record, is_blank, read_objects, take, take_id

logger = logging.getLogger(__name__)


def read_answers(path: Path) -> list[Answer]:
    """Answers in LLaVA's format (one JSON object a line with "question_id" and "text"), or as uploaded to a server.

    Uploads are JSON lists with "question_id" and "answer" (VQAv2) or "questionId" and "prediction" (GQA).

    Raises:
        InputError: it is malformed or empty.
    """
    return [_answer(record, where) for where, record in read_objects(path)]


def _answer(record: Record, where: str) -> Answer:
    for id_name, text_name in (("question_id", "text"), ("question_id", "answer"), ("questionId", "prediction")):
        if id_name in record and text_name in record:
            break
    else:
        raise InputError(f"{where}: has not both 'question_id' and 'text'; there are {', '.join(record) or 'none'}")
    metadata = {} if is_blank(record.get("metadata")) else take(record, "metadata", dict, where)
    return Answer(
        take_id(record, id_name, where),
        None if "error" in metadata else take(record, text_name, str, where),
        None if is_blank(record.get("prompt")) else take(record, "prompt", str, where),
        str(metadata.get("category") or ""),
        str(metadata.get("image") or ""),
        where,
    )


def merge(truths: Iterable[GroundTruth]) -> list[GroundTruth]:
    """The truths, one that stands there several times counting once, and going by the keys of all.

    Raises:
        InputError: a question stands there twice with different answers.
    """
    merged: dict[Key, GroundTruth] = {}
    for truth in truths:
        first = merged.setdefault(truth.keys[0], truth)
        if first is truth:
            continue
        if first.value != truth.value:
            raise InputError(
                f"annotations: questions {first.question_id} and {truth.question_id} are the same, "
                f"but their answers are {first.value} and {truth.value}; drop the wrong one"
            )
        keys = tuple(dict.fromkeys((*first.keys, *truth.keys)))
        merged[truth.keys[0]] = replace(first, keys=keys, repeats=first.repeats + truth.repeats)
    return list(merged.values())


def pair(
    benchmark: Benchmark, truths: Sequence[GroundTruth], answers: Iterable[Answer], asked_only: bool = False
) -> list[Pair]:
    """Each truth with its answer, found by what the answer says of its question, never by its place.

    Args:
        truths: may repeat each other, see `merge`; then so may the answers, of which the first counts.
        asked_only: leave out truths that no answer names (not even one without text): a part of them was asked.
            Otherwise a warning counts them.
    Raises:
        InputError: a question is answered twice, an answer fits several questions, or no answer fits any.
    """
    truths = merge(truths)
    places: dict[Key, list[int]] = {}
    for place, truth in enumerate(truths):
        for key in truth.keys:
            places.setdefault(key, []).append(place)
    found: dict[int, list[Answer]] = {}
    strangers = 0
    for answer in answers:
        fitting: list[int] = next((places[key] for key in benchmark.keys(answer) if key in places), [])
        if len(fitting) > 1:
            raise InputError(
                f"{answer.where}: question {answer.question_id} fits {len(fitting)} annotations; "
                "drop what stands there twice, or name the questions that were asked with --questions FILE (pope)"
            )
        if not fitting:
            strangers += 1
            continue
        same = found.setdefault(fitting[0], [])
        if len(same) == truths[fitting[0]].repeats or answer.question_id in (other.question_id for other in same):
            raise InputError(
                f"{answer.where}: question {answer.question_id} is answered a second time, "
                f"first at {same[0].where}; drop one of them"
            )
        same.append(answer)
    if not found:
        raise InputError(f"none of the {strangers} answers belongs to a question of the annotations; check both files")
    if strangers:
        logger.info("%d answers belong to no question that is scored", strangers)
    if len(found) < len(truths) and not asked_only:
        missing = len(truths) - len(found)
        logger.warning("%d of %d questions have no answer and count as wrong", missing, len(truths))
    return [
        (truth, found[place][0].text if place in found else None)
        for place, truth in enumerate(truths)
        if place in found or not asked_only
    ]
