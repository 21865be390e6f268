"""Instruction data before hours are spent on it: what is wrong with each sample of a file, and how long samples are."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.conversations import PLACEHOLDER, Problem, image_names, read_records, structural_problems, to_messages
from data.errors import InputError
from data.images import open_image
from mllm.prompts import IGNORE, encode_messages

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

# kind of problem -> what it is, in the order of a report
KINDS = {
    "structure": "a field is missing or of another type: the file cannot be opened for training",
    "roles": "a speaker is unknown, or speaks out of turn",
    "placeholders": f"{PLACEHOLDER} and pictures do not agree",
    "empty": "a turn without words",
    "duplicate id": "another sample has the same id",
    "missing picture": "there is no such file",
    "broken picture": "the file cannot be opened as a picture",
    "too long": "more tokens than allowed: skipped in training",
    "not trainable": "the chat template cannot render it, or cannot tell what is to be learned",
}
_AT_A_TIME = 256  # samples whose pictures are opened side by side


@dataclass(frozen=True)
class Finding:
    """A problem of one sample, by its number in the file from 0, and its id if it has one."""

    kind: str
    sample: int
    id: str | None
    reason: str


@dataclass
class Report:
    """What `check_conversations` found. Statistics are over the samples of sound structure."""

    samples: int = 0
    findings: list[Finding] = field(default_factory=list)
    values: dict[str, array[int]] = field(default_factory=dict)  # what is measured -> one value a sample

    def counts(self) -> dict[str, int]:
        """Problems of each kind that there are, in the order of KINDS."""
        counts = {kind: sum(finding.kind == kind for finding in self.findings) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}

    def statistics(self) -> dict[str, dict[str, float]]:
        """min, median, p95, max and the total of what was measured."""
        result = {}
        for name, values in self.values.items():
            if len(values):
                least, median, p95, most = np.percentile(values, [0, 50, 95, 100]).tolist()
                result[name] = {"min": least, "median": median, "p95": p95, "max": most, "total": sum(values)}
        return result

    def measure(self, name: str, value: int) -> None:
        self.values.setdefault(name, array("q")).append(value)


def check_conversations(
    path: str | os.PathLike[str],
    image_folder: str | os.PathLike[str] | None = None,
    processor: MLLMProcessor | None = None,
    max_length: int | None = None,
    fast: bool = False,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at every sample of a file in LLaVA's format, as `data.load_conversations` takes it.

    Args:
        path: ``.jsonl``, or else ``.json``.
        image_folder: where pictures are; by default the file's own folder.
        processor: a model's; with it, conversations are rendered, tokenised and masked as in training.
        max_length: tokens of a sample, its pictures' included.
        fast: pictures need only exist.
        workers: threads that open pictures.
        progress: called with the number of samples and of bytes that are done.

    Raises:
        InputError: a file that is none, no JSON, or without samples; no such folder.
    """
    path = Path(path)
    folder = path.parent if image_folder is None else Path(image_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures; check the path")
    report, ids, pictures = Report(), dict[str, int](), dict[str, Problem | None]()
    records = enumerate(read_records(path))
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(itertools.islice(records, _AT_A_TIME)):
            problems = {index: list(structural_problems(record)) for index, (_, _, record) in chunk}
            sound = {index: record for index, (_, _, record) in chunk if not problems[index]}
            new = {file for record in sound.values() for file in _files(record, folder)} - pictures.keys()
            names = sorted(new)
            pictures.update(zip(names, pool.map(_missing if fast else _unusable, names), strict=True))
            for index, (_, _, record) in chunk:
                given = record.get("id") if isinstance(record, dict) else None
                identity = None if given is None else str(given)
                if identity is not None and ids.setdefault(identity, index) != index:
                    problems[index].append(Problem("duplicate id", f"is the id of sample {ids[identity]} too"))
                if index in sound:
                    looked_at = (pictures[file] for file in _files(record, folder))
                    problems[index] += [problem for problem in looked_at if problem]
                    problems[index] += _check_turns(record, processor, max_length, report)
                report.findings += [Finding(each.kind, index, identity, each.text) for each in problems[index]]
            report.samples = chunk[-1][0] + 1
            if progress:
                progress(report.samples, chunk[-1][1][1])
    if not report.samples:
        raise InputError(f"{path}: holds no conversation; name a file that does")
    return report


def _files(record: dict[str, Any], folder: Path) -> list[str]:
    return [str(folder / name) for name in image_names(record)]


def _missing(file: str) -> Problem | None:
    return None if os.path.isfile(file) else Problem("missing picture", f"{file}: there is no such picture")


def _unusable(file: str) -> Problem | None:
    try:
        open_image(file)
    except InputError as problem:
        return _missing(file) or Problem("broken picture", str(problem))
    return None


def _check_turns(
    record: dict[str, Any], processor: MLLMProcessor | None, max_length: int | None, report: Report
) -> Iterator[Problem]:
    """Problems of a sample of sound structure that training would pass over; its measures go into the report."""
    turns = record["conversations"]
    speakers = [turn["from"] for turn in turns]
    first = speakers.index("human")
    if "gpt" in speakers[:first]:
        yield Problem("roles", "begins with an answer to nothing, which training leaves out")
    if speakers[-1] == "human":
        yield Problem("roles", "ends with a question that nobody answers: it teaches nothing")
    empty = [number for number, turn in enumerate(turns) if not turn["value"].strip()]
    for number in empty:
        yield Problem("empty", f"conversations[{number}].value is empty; write the words or leave the sample out")
    report.measure("pictures", len(image_names(record)))
    report.measure("turns", len(turns))
    if processor is None or empty:
        return
    placeholders = [processor.replace_image_token({}, number) for number in range(len(image_names(record)))]
    try:
        encoded = encode_messages(processor, to_messages(turns, "sample"), placeholders)
    except InputError as problem:
        yield Problem("not trainable", str(problem))
        return
    length = len(encoded["input_ids"])
    report.measure("tokens", length)
    report.measure("learned tokens", int((encoded["labels"] != IGNORE).sum()))
    if max_length is not None and length > max_length:
        yield Problem("too long", f"has {length} tokens, more than {max_length}; shorten it, or raise max_length")
