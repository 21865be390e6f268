"""Conversations about images, of a JSON file in LLaVA's format or of a table, as dicts of the project's one format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from data.bad_samples import BadSamples, SkippingDataset
from data.errors import InputError
from data.grounding import PLACE
from data.messages import Conversation, Message, Part
from data.records import Records, folder_of, open_records
from data.references import locate, open_reference, why_missing
from data.samples import PLACEHOLDER, Sample, Turn, label, parse, read_sample
from data.sources import Given, register_source

_LOOKED_UP = 100  # samples of which the images' existence is checked when a source is opened


class Conversations(SkippingDataset[Conversation]):
    """The conversations of one source, as dicts of the project's one format.

    ``{"id": str, "images": [PIL RGB, ...], "messages": [{"role": "system" | "user" | "assistant", "content": parts}]}``
    where a part is ``{"type": "image"}``, ``{"type": "text", "text": str}`` or, of what a sample's ``objects`` hold,
    ``{"type": "place", "place": (x1, y1, x2, y2) or (x, y), "image": int}`` in fractions of that image.

    Samples are read on request. One that is not of the form that `load_conversations` documents, has a bad or missing
    image or an empty turn is replaced as `SkippingDataset` says. Built by `load_conversations`.

    Args:
        source: what to call the source in errors.
        records: its samples.
        image_folder: where its images are.
        bad: the record of bad samples.
    """

    def __init__(self, source: str, records: Records, image_folder: Path, bad: BadSamples | None = None) -> None:
        super().__init__(bad)
        self.source, self.image_folder = source, image_folder
        self.records, self.texts = records, records.without_media()

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> Conversation:
        record = self.records[index]
        sample = read_sample(record)
        if sample.is_video:
            return self._load_video(str(record.get("id", index)), sample)
        images = [open_reference(reference, self.image_folder) for reference in sample.images]
        messages = to_messages(sample.turns, [image.size for image in images])
        return {"id": str(record.get("id", index)), "images": images, "messages": messages}

    def _load_video(self, name: str, sample: Sample) -> Conversation:
        from data.videos import read_frames  # numpy and Pillow wait until there is one

        place = locate(sample.images[0], self.image_folder)
        assert isinstance(place, Path)  # a video is named
        images = read_frames(place)
        shown = PLACEHOLDER * len(images)
        turns = [turn._replace(text=turn.text.replace(PLACEHOLDER, shown)) for turn in sample.turns]
        return {"id": name, "images": images, "messages": to_messages(turns, [image.size for image in images])}

    def name(self, index: int) -> str:
        return f"{self.source}: {label(self.texts[index], index)}"

    def words(self, index: int) -> list[str]:
        """The texts of sample ``index``, as far as it can be understood, with `PLACEHOLDER` for each image."""
        return [turn.text for turn in parse(self.texts[index])[0].turns]

    @cached_property
    def faults(self) -> dict[int, str]:
        """Samples whose structure is bad, and why: every one is looked at, unless that means to read its images."""
        if self.texts is not self.records:
            return {}
        problems = (parse(record)[1] for record in self.records)
        return {index: found[0].text for index, found in enumerate(problems) if found}


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
    ``system`` beside the turns, as the first of them. An image is what `data.references.locate` takes. As LLaVA-Video
    has it, ``video`` names a file instead, whose frames (`data.videos.read_frames`) stand where the one ``<image>`` or
    ``<video>`` is, else in front of the first question. Other media are not read, and a sample with a field or a mark
    of them is a bad one.

    Boxes and points are read as ms-swift has them: ``objects: {"ref": [names], "bbox": [[x1, y1, x2, y2] or [x, y],
    ...]}``, one for each ``<ref-object>`` and ``<bbox>`` in the words, in pixels of the image as `data.open_image`
    opens it, upright. ``"image_id": [numbers]`` says in which images they are, by default all in the first, and
    ``"bbox_type": "norm1"`` that they are fractions.

    Args:
        source: a file of JSON, a list or one sample a line; a table, ``.parquet``; or
            ``datasets:NAME_OR_PATH[:SPLIT]``, a data set with the columns of a sample. See `data.records.open_records`.
        image_folder: where images are; names may lead out of it (``../``) or be absolute. By default the file's own
            folder.
        bad: the record of bad samples to use; by default a new one.

    Raises:
        InputError: if there is no such file or folder; if it is no JSON, or not one sample has the right structure; if
            of a hundred looked up most have images, and not one exists.
    """
    source = os.fspath(source)
    conversations = Conversations(source, open_records(source), image_folder_of(source, image_folder), bad)
    _check_some(conversations)
    return conversations


@register_source("conversations", "json", "parquet")
def _open_file(address: str, given: Given) -> Conversations:
    return load_conversations(address, given.image_folder, given.bad)


@register_source("conversations", "datasets")
def _open_table(address: str, given: Given) -> Conversations:
    return load_conversations(f"datasets:{address}", given.image_folder, given.bad)


def _check_some(conversations: Conversations) -> None:
    """Raises InputError if not one sample has the right structure, or if most name images and none is there."""
    count, records = len(conversations), conversations.records
    if all(parse(record)[1] for record in records):
        reason = parse(records[0])[1][0].text
        raise InputError(f"{conversations.name(0)}: {reason} (as are all of {count} samples)")
    looked_up = range(0, count, -(-count // _LOOKED_UP) or 1)
    named = [sample.images for sample, problems in (parse(records[index]) for index in looked_up) if not problems]
    missing = [why_missing(name, conversations.image_folder) for images in named for name in images]
    if sum(map(bool, named)) > len(looked_up) / 2 and all(missing):
        raise InputError(
            f"{conversations.source}: none of its images is there, e.g. {missing[0]}; check the image folder"
        )


def image_folder_of(source: str, folder: str | os.PathLike[str] | None) -> Path:
    """The folder of a source's images, by default that of the file. Raises InputError if there is none."""
    if folder is None:
        return folder_of(source)
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: there is no such folder of images; check the path")
    return Path(folder)


def to_messages(turns: Sequence[Turn], sizes: Sequence[tuple[int, int]] = ()) -> list[Message]:
    """Turns as messages of chat templates.

    Args:
        sizes: width and height of each image, which places in pixels need.

    Raises:
        InputError: a turn without words and images; a place outside of its image.
    """
    messages: list[Message] = []
    for turn in turns:
        if turn.role == "assistant" and not any(message["role"] == "user" for message in messages):
            continue  # an answer to nothing, as LLaVA skips it
        content = _parts(turn.text)
        if turn.places:
            content = _placed(content, iter([place.part(sizes) for place in turn.places]))
        if not content:
            raise InputError(f"{turn.field} is empty; write the words or leave the sample out")
        messages.append({"role": turn.role, "content": content})
    return messages


def _parts(value: str) -> list[Part]:
    """The words with their placeholders as the parts of a message; empty text leaves no part."""
    pieces = value.split(PLACEHOLDER)
    image: Part = {"type": "image"}
    if len(pieces) == 1:
        texts = [value] if value.strip() else []
        return [{"type": "text", "text": text} for text in texts]
    if len(pieces) == 2:
        words = "".join(pieces).strip()
        return [image, {"type": "text", "text": words}] if words else [image]
    parts: list[Part] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append(image)
        if piece.strip("\n"):
            parts.append({"type": "text", "text": piece.strip("\n")})
    return parts


def _placed(parts: Sequence[Part], places: Iterator[Part]) -> list[Part]:
    """The parts with the next of the places for each `PLACE` in a text."""
    placed: list[Part] = []
    for part in parts:
        for number, text in enumerate(part.get("text", "").split(PLACE)):
            placed += [next(places)] if number else []
            placed += [{"type": "text", "text": text}] if text else []
        placed += [part] if part["type"] == "image" else []
    return placed
