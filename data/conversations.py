"""Conversations about images, of a JSON file in LLaVA's format or of a table, as dicts of the project's one format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.bad_samples import BadSamples, SkippingDataset
from data.errors import InputError
from data.records import JsonRecords, read_records
from data.references import locate, open_reference
from data.samples import PLACEHOLDER, Turn, label, parse, read_sample
from data.sources import Given, register_source

_DATASETS = "datasets:"
_LOOKED_UP = 100  # images whose existence is checked when a file is opened


class Records(Protocol):
    """Samples as they are stored."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Conversations(SkippingDataset):
    """The conversations of one source, as dicts of the project's one format.

    ``{"id": str, "images": [PIL RGB, ...], "messages": [{"role": "system" | "user" | "assistant", "content": parts}]}``
    where a part is ``{"type": "image"}`` or ``{"type": "text", "text": str}``.

    Samples are read on request. One that is not of the form that `load_conversations` documents, has a bad or missing
    image or an empty turn is replaced as `SkippingDataset` says. Built by `load_conversations`.

    Args:
        source: what to call the source in errors.
        records: its samples.
        image_folder: where its images are.
        bad: the record of bad samples.
        texts: the same samples without their images, where that is quicker to read.
        faults: samples that are known to be bad already, and why.
    """

    def __init__(
        self,
        source: str,
        records: Records,
        image_folder: Path,
        bad: BadSamples | None = None,
        texts: Records | None = None,
        faults: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(bad)
        self.source, self.image_folder, self.faults = source, image_folder, faults or {}
        self.records, self.texts = records, texts or records

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Any:
        """Sample ``index`` as it is stored."""
        return self.records[index]

    def load(self, index: int) -> dict[str, Any]:
        record = self.record(index)
        sample = read_sample(record)
        messages = to_messages(sample.turns)
        images = [open_reference(reference, self.image_folder) for reference in sample.images]
        return {"id": str(record.get("id", index)), "images": images, "messages": messages}

    def name(self, index: int) -> str:
        return f"{self.source}: {label(self.record(index), index)}"

    def words(self, index: int) -> list[str]:
        """The texts of sample ``index``, as far as it can be understood, with `PLACEHOLDER` for each image."""
        return [turn.text for turn in parse(self.texts[index])[0].turns]


def load_conversations(
    source: str | os.PathLike[str], image_folder: str | os.PathLike[str] | None = None, bad: BadSamples | None = None
) -> Conversations:
    """Opens conversations in LLaVA's format, or in one of its common variants.

    Each sample is ``{"id", "image", "conversations": [{"from": "human" | "gpt" | "system", "value": str}, ...]}``. The
    optional ``image`` is one name or a list; the n-th ``<image>`` in the human's words stands for the n-th name. As in
    LLaVA's own training code, a conversation that begins with an answer loses it, and where a turn has one image, the
    image goes in front of the words, wherever it stood; several images stay in their places. The line breaks next
    to a placeholder go: the chat template sets its own.

    Also read: the turns as ``messages`` of ``{"role": "user" | "assistant" | "system", "content"}``, the content a text
    or a list of parts; ``images`` for ``image``, which go in front of the first question where no placeholder is; a
    ``system`` beside the turns, as the first of them. An image is what `data.references.locate` takes. Other media are
    not read, and a sample with a field or a mark of them is a bad one.

    The structure of a file is checked once, when it is opened; then only the place of each sample in it is kept. Of a
    table only the columns are checked.

    Args:
        source: a file: ``.jsonl``, one sample a line; ``.parquet``; or else ``.json``, a list. Or
            ``datasets:NAME_OR_PATH[:SPLIT]``, a data set that `datasets` reads, with the columns of a sample.
        image_folder: where images are; names may lead out of it (``../``) or be absolute. By default the file's own
            folder.
        bad: the record of bad samples to use; by default a new one.

    Raises:
        InputError: if there is no such file or folder; if it is no list of samples, or not one of them can be used; if
            most have images, and of a hundred looked up not one exists.
    """
    source = os.fspath(source)
    folder = image_folder_of(source, image_folder)
    if is_table(source):
        from data.tables import open_table

        rows, texts = open_table(source)
        return Conversations(source, rows, folder, bad, texts)
    path = Path(source)
    spans: list[tuple[int, int]] = []
    with_images: list[int] = []
    faults: dict[int, str] = {}
    for index, (start, end, record) in enumerate(read_records(path)):
        spans.append((start, end))
        sample, problems = parse(record)
        if problems:
            faults[index] = problems[0].text
        elif sample.images:
            with_images.append(index)
    if not spans:
        raise InputError(f"{path}: holds no conversation; name a file that does")
    conversations = Conversations(source, JsonRecords(path, np.array(spans, np.int64)), folder, bad, faults=faults)
    if len(faults) == len(spans):
        raise InputError(f"{conversations.name(0)}: {faults[0]} (as are all of {len(spans)} samples)")
    looked_up = with_images[:: -(-len(with_images) // _LOOKED_UP) or 1]
    named = (name for index in looked_up for name in parse(conversations.record(index))[0].images)
    missing = [why_missing(name, folder) for name in named]
    if len(with_images) > len(spans) / 2 and all(missing):
        raise InputError(f"{path}: none of its images is there, e.g. {missing[0]}; check the image folder")
    return conversations


@register_source("conversations", "json", "parquet")
def _open_file(address: str, given: Given) -> Conversations:
    return load_conversations(address, given.image_folder, given.bad)


@register_source("conversations", "datasets")
def _open_table(address: str, given: Given) -> Conversations:
    return load_conversations(_DATASETS + address, given.image_folder, given.bad)


def each_record(source: str) -> Iterator[tuple[float, Any]]:
    """Every sample of a source as it is stored, and how much of the source is behind it, from 0 to 1."""
    if is_table(source):
        from data.tables import open_table

        rows, _ = open_table(source)
        yield from (((index + 1) / len(rows), rows[index]) for index in range(len(rows)))
    else:
        size = os.path.getsize(source)
        yield from ((end / size, record) for _, end, record in read_records(Path(source)))


def is_table(source: str) -> bool:
    """Whether a source is a table that `datasets` reads, and no JSON file."""
    return source.startswith(_DATASETS) or source.lower().endswith(".parquet")


def image_folder_of(source: str, folder: str | os.PathLike[str] | None) -> Path:
    """The folder of a source's images, by default that of the file. Raises InputError if there is none."""
    if folder is None:
        place = Path(source.removeprefix(_DATASETS).partition(":")[0])
        return place if place.is_dir() else place.parent
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: there is no such folder of images; check the path")
    return Path(folder)


def why_missing(reference: Any, folder: Path) -> str | None:
    """Says that an image that a sample names is not there, without opening it; None if it is."""
    try:
        place = locate(reference, folder)
    except InputError as error:
        return str(error)
    return None if isinstance(place, bytes) or os.path.isfile(place) else f"{place}: there is no such image"


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as messages of chat templates.

    Raises:
        InputError: a turn without words and images.
    """
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if turn.role == "assistant" and not any(message["role"] == "user" for message in messages):
            continue  # an answer to nothing, as LLaVA skips it
        content = _parts(turn.text)
        if not content:
            raise InputError(f"{turn.field} is empty; write the words or leave the sample out")
        messages.append({"role": turn.role, "content": content})
    return messages


def _parts(value: str) -> list[dict[str, str]]:
    """The words with their placeholders as the parts of a message; empty text leaves no part."""
    pieces = value.split(PLACEHOLDER)
    image = {"type": "image"}
    if len(pieces) == 1:
        texts = [value] if value.strip() else []
        return [{"type": "text", "text": text} for text in texts]
    if len(pieces) == 2:
        words = "".join(pieces).strip()
        return [image, {"type": "text", "text": words}] if words else [image]
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append(dict(image))
        if piece.strip("\n"):
            parts.append({"type": "text", "text": piece.strip("\n")})
    return parts
