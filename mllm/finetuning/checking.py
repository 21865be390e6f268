"""Instruction data before hours are spent on it: what is wrong with each sample of a file, and how long samples are."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.conversations import image_folder_of, to_messages
from data.errors import InputError, shorten
from data.grounding import PLACE
from data.records import open_records
from data.references import open_reference, why_missing
from data.samples import PLACEHOLDER, Problem, Sample, parse
from mllm.prompts import IGNORE, encode_messages

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

# type of problem -> what it is, in the order of a report
PROBLEMS = {
    "structure": "a field is missing or of another type",
    "not read": "media in a field or a form that is not read",
    "roles": "a speaker is unknown, or speaks out of turn",
    "placeholders": f"{PLACEHOLDER} and images do not agree",
    "empty": "a turn without words",
    "missing image": "there is no such file, or it lies elsewhere on the network",
    "broken image": "the file cannot be opened as an image",
    "objects": f"boxes and {PLACE} do not agree, or a box is none",
    "too long": "more tokens than allowed: skipped in training",
    "not trainable": "the chat template cannot render it, or cannot tell the target tokens",
}
_AT_A_TIME = 256  # samples whose images are opened side by side
_LONGEST_NAME = 4096  # of a file; what is longer is an image itself, and not kept
_Looked = Problem | tuple[int, int] | None


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
    repeated_ids: int = 0  # samples with the id of an earlier one, which training does not mind
    findings: list[Finding] = field(default_factory=list)
    values: dict[str, array[int]] = field(default_factory=dict)  # what is measured -> one value a sample

    @property
    def bad(self) -> int:
        """Is the number of samples with problems."""
        return len({finding.sample for finding in self.findings})

    def counts(self) -> dict[str, int]:
        """Problems of each kind that there are, in the order of PROBLEMS."""
        counts = {kind: sum(finding.kind == kind for finding in self.findings) for kind in PROBLEMS}
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
    progress: Callable[[int, float], None] | None = None,
) -> Report:
    """Look at every sample of a source, as `data.load_conversations` takes it.

    Args:
        path: the source.
        image_folder: where images are; by default the file's own folder.
        processor: a model's; with it, conversations are rendered, tokenized and masked as in training.
        max_length: tokens of a sample, its images' included.
        fast: images need only exist; only those that have boxes are opened.
        workers: threads that open images.
        progress: called with the number of samples, and how much of the source is done, from 0 to 1.

    Raises:
        InputError: a file that is none, no JSON, or without samples; no such folder.
    """
    source = os.fspath(path)
    folder = image_folder_of(source, image_folder)
    report, ids, known = Report(), set[str](), dict[tuple[str, bool], _Looked]()

    def look(asked: tuple[Any, bool]) -> _Looked:
        """What is known of an image that need not be opened, or must; of a name that comes again, it is remembered."""
        reference, exists = asked
        if not isinstance(reference, str) or len(reference) > _LONGEST_NAME:
            return _look_at(reference, folder, exists)
        if asked not in known:
            known[asked] = _look_at(reference, folder, exists)
        return known[asked]

    records = open_records(source)
    samples = enumerate(records)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(itertools.islice(samples, _AT_A_TIME)):
            parsed = {index: parse(record) for index, record in chunk}
            sound = {index: sample for index, (sample, problems) in parsed.items() if not problems}
            looked_at = pool.map(
                look,
                [
                    (image, each.is_video or (fast and not each.has_places))
                    for each in sound.values()
                    for image in each.images
                ],
            )
            for index, record in chunk:
                given = record.get("id") if isinstance(record, dict) else None
                identity = None if given is None else str(given)
                if identity is not None:
                    report.repeated_ids += identity in ids
                    ids.add(identity)
                problems = parsed[index][1]
                if index in sound:
                    found = list(itertools.islice(looked_at, len(sound[index].images)))
                    problems += [each for each in found if isinstance(each, Problem)]
                    sizes = [each for each in found if each is not None and not isinstance(each, Problem)]
                    problems += _check_turns(sound[index], sizes, processor, max_length, report)
                report.findings += [Finding(kind, index, identity, shorten(text)) for kind, text in problems]
            report.samples = chunk[-1][0] + 1
            if progress:
                progress(report.samples, report.samples / len(records))
    return report


def _look_at(reference: Any, folder: Path, exists: bool) -> _Looked:
    """What is wrong with an image, or its width and height; None for one that exists and was not opened."""
    if missing := why_missing(reference, folder):
        return Problem("missing image", missing)
    try:
        return None if exists else open_reference(reference, folder).size
    except InputError as problem:
        return Problem("broken image", str(problem))


def _check_turns(
    sample: Sample,
    sizes: Sequence[tuple[int, int]],
    processor: MLLMProcessor | None,
    max_length: int | None,
    report: Report,
) -> Iterator[Problem]:
    """Problems of a sample of sound structure that training would pass over; its measures go into the report.

    Args:
        sizes: width and height of the images; those of images with boxes are known, unless they are broken.
    """
    speakers = [turn.role for turn in sample.turns]
    if "assistant" in speakers[: speakers.index("user")]:
        yield Problem("roles", "begins with an answer to nothing, which training leaves out")
    if speakers[-1] == "user":
        yield Problem("roles", "ends with a question that nobody answers, which is no target")
    empty = [turn.field for turn in sample.turns if not turn.text.strip()]
    for place in empty:
        yield Problem("empty", f"{place} is empty; write the words or leave the sample out")
    report.measure("images", len(sample.images))
    report.measure("turns", len(sample.turns))
    if empty or (sample.has_places and len(sizes) < len(sample.images)):
        return
    try:
        messages = to_messages(sample.turns, sizes)
    except InputError as problem:
        yield Problem("objects", str(problem))
        return
    if processor is None or sample.is_video:  # how many frames it has is not known before it is decoded
        return
    placeholders = [processor.replace_image_token({}, number) for number in range(len(sample.images))]
    views = processor.views(sizes) if sample.has_places else ()
    try:
        encoded = encode_messages(processor, messages, placeholders, views=views)
    except InputError as problem:
        yield Problem("not trainable", str(problem))
        return
    length = len(encoded["input_ids"])
    report.measure("tokens", length)
    report.measure("target tokens", int((encoded["labels"] != IGNORE).sum()))
    if max_length is not None and length > max_length:
        yield Problem("too long", f"has {length} tokens, more than {max_length}; shorten it, or raise max_length")
