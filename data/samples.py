"""One sample of instruction data: the forms that are read, and what is wrong with a sample that has none of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.errors import InputError, shorten
from data.grounding import PLACE, RecordedPlace, ground
from data.messages import Message, Part
from data.references import is_reference

PLACEHOLDER = "<image>"
VIDEO = "<video>"  # for the frames of the sample's video, as `PLACEHOLDER` is where there is a video
CONVERSATION_FIELDS = ("conversations", "messages", "conversation")
IMAGE_FIELDS = ("image", "images")

ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
"""LLaVA's names of the speakers → the roles of chat templates."""

_ROLES = {**ROLES, "user": "user", "assistant": "assistant"}  # the same where turns are role and content

# Fields of media that are not read. Those of images are often mere notes beside an image that is.
_VIDEO_AND_AUDIO = {"videos", "video_path", "audio", "audios", "audio_path", "speech", "sound"}
_OTHER_IMAGES = {"image_path", "image_paths", "image_file", "image_files", "img", "imgs", "img_path", "image"}
_OTHER_IMAGES |= {"image_url", "image_urls", "img_url", "image_bytes", "image_base64"}
_NOT_READ = _VIDEO_AND_AUDIO | _OTHER_IMAGES
_MEDIA = {*IMAGE_FIELDS, "video", *_NOT_READ}
# What stands for media in the words of other formats. In the words of an answer these are prose, on HTML say, as are
# those of images where `PLACEHOLDER` says where the images are.
_VIDEO_OR_AUDIO_MARK = re.compile(r"<\|?(video|audio|speech)(_?pad)?(_?\d+)?\|?>")
_OTHER_IMAGE_MARK = re.compile(r"<img>[^<]*</img>|<\|image(_pad|_\d+)?\|>|<image[_ ]?\d+>|<ImageHere>")


class Problem(NamedTuple):
    """What is wrong with a sample: its kind, and the field, what is wrong with it and the fix."""

    kind: str
    text: str


class Turn(NamedTuple):
    """What a speaker says, with `PLACEHOLDER` for each image; the role is that of chat templates."""

    role: str
    text: str
    field: str  # that holds the words
    places: tuple[RecordedPlace, ...] = ()  # one for each `PLACE` in the text; without any, that is words like others


@dataclass
class Sample:
    """A sample's images as it names them (`data.references`), and its turns; a video is its only image."""

    images: list[Any]
    turns: list[Turn]
    is_video: bool = False

    @property
    def has_places(self) -> bool:
        return any(turn.places for turn in self.turns)


def read_sample(record: Any) -> Sample:
    """Reads a sample of a form that `data.load_conversations` documents. Raises InputError for its first problem."""
    sample, problems = parse(record)
    if problems:
        raise InputError(problems[0].text)
    return sample


def parse(record: Any) -> tuple[Sample, list[Problem]]:
    """Returns a sample, as far as it can be understood, and all that is wrong with its structure.

    It is called for every sample of a file before anything else happens, so it is quick where nothing is wrong.
    """
    sample = Sample([], [])
    return sample, [Problem(kind, shorten(text)) for kind, text in _parse(record, sample)]


def label(record: Any, index: int) -> str:
    """What to call a sample in a line for the user."""
    named = isinstance(record, dict) and "id" in record
    return f"sample {index} (id {shorten(repr(record['id']), 80)})" if named else f"sample {index}"


def to_record(name: str, images: Sequence[str], messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation as a sample in LLaVA's format, which `parse` understands, its places as ``objects``.

    Args:
        name: the sample's id.
        images: the names of the images that its image parts stand for.
    """
    speakers = {role: speaker for speaker, role in ROLES.items()}
    turns, places = [], list[Part]()
    for message in messages:
        pieces: list[str] = []  # LLaVA writes a line break between a placeholder and the words
        for shown, group in itertools.groupby(message["content"], lambda part: part["type"] == "image"):
            parts = list(group)
            places += [part for part in parts if part["type"] == "place"]
            pieces += [PLACEHOLDER] * len(parts) if shown else ["".join(part.get("text", PLACE) for part in parts)]
        turns.append({"from": speakers[message["role"]], "value": "\n".join(pieces)})
    record: dict[str, Any] = {"id": name, **({"image": list(images)} if images else {}), "conversations": turns}
    if places:
        boxes = [[round(value, 6) for value in part["place"]] for part in places]
        numbers = [part["image"] for part in places]
        record["objects"] = {"ref": [], "bbox": boxes, "bbox_type": "norm1", "image_id": numbers}
    return record


def turns_field(record: dict[str, Any]) -> str:
    """The field that holds the turns, or should."""
    for name in CONVERSATION_FIELDS:
        if record.get(name) is not None:
            return name
    return CONVERSATION_FIELDS[0]


def _parse(record: Any, sample: Sample) -> Iterator[Problem]:
    """Fills in the sample; what cannot be understood is a problem."""
    if not isinstance(record, dict):
        yield Problem("structure", "is no object; give {'id', 'image', 'conversations'}")
        return
    unread = _unread(record)
    if unread:
        text = f"{', '.join(unread)} is not read; name images as 'image', or leave the sample out"
        yield Problem("not read", text)
    yield from _parse_images(record, sample)
    name, system = turns_field(record), record.get("system")
    turns = record.get(name)
    if isinstance(turns, dict) and all(isinstance(column, list) for column in turns.values()):
        # `datasets` hands out a sequence of structs as a struct of sequences
        turns = [dict(zip(turns, turn, strict=True)) for turn in zip(*turns.values(), strict=False)]
    if not isinstance(turns, list) or not turns:
        yield Problem("structure", f"{name} is missing, empty or no list; give the turns of the conversation")
        return
    if isinstance(system, str) and system:
        sample.turns.append(Turn("system", system, "system"))
    elif system:
        yield Problem("structure", "system is no text; give the words of the system turn")
    expected = len(sample.turns) + len(turns)
    for number, turn in enumerate(turns):
        yield from _parse_turn(turn if isinstance(turn, dict) else {}, f"{name}[{number}]", number, sample)
    if len(sample.turns) != expected:
        return  # what else is wrong would only follow from what was not understood
    roles = [turn.role for turn in sample.turns]
    if ("user", "assistant") not in itertools.pairwise(roles):
        yield Problem("roles", f"{name} has no answer of 'gpt' to a 'human'; leave the sample out")
    if record.get("objects"):
        try:
            grounded = ground(record["objects"], [turn.text for turn in sample.turns], len(sample.images))
        except InputError as problem:
            yield Problem("objects", str(problem))
            return
        sample.turns = [
            turn._replace(text=text, places=places) for turn, (text, places) in zip(sample.turns, grounded, strict=True)
        ]
    if not unread:  # or else that is what placeholders and marks stand for
        yield from _match_images(record, sample)


def _unread(record: dict[str, Any]) -> list[str]:
    """The fields of media of a sample that are not read."""
    if _NOT_READ.isdisjoint(record):
        return []
    fields = _VIDEO_AND_AUDIO if any(map(record.get, IMAGE_FIELDS)) else _NOT_READ
    return [name for name in record if name in fields and record[name]]


def _parse_images(record: dict[str, Any], sample: Sample) -> Iterator[Problem]:
    for name in IMAGE_FIELDS:
        images = record.get(name)
        if not images:
            continue
        images = images if isinstance(images, list) else [images]
        if not all(map(is_reference, images)):
            yield Problem("structure", f"{name} is neither a file name nor a list of file names; give one of them")
        elif sample.images and sample.images != images:
            yield Problem("structure", "image and images do not name the same; keep one of them")
        else:
            sample.images = list(images)
    if video := record.get("video"):
        if isinstance(video, str) and not sample.images:
            sample.images, sample.is_video = [video], True
        else:
            yield Problem("structure", "video is no file name, or there are images beside it; keep one of them")


def _parse_turn(turn: dict[str, Any], place: str, number: int, sample: Sample) -> Iterator[Problem]:
    """Adds a turn to the sample if its speaker and words are understood."""
    said_by, said, roles = ("role", "content", _ROLES) if "role" in turn else ("from", "value", ROLES)
    speaker, content = turn.get(said_by), turn.get(said)
    role = roles.get(speaker) if isinstance(speaker, str) else None
    if not _MEDIA.isdisjoint(turn) and (media := [name for name in turn if name in _MEDIA and turn[name]]):
        yield Problem("not read", f"{place}.{media[0]} is not read; name images as 'image', beside the turns")
    if role is None:
        yield Problem("roles", f"{place}.{said_by} is {speaker!r}; give one of {', '.join(roles)}")
    if isinstance(content, list):
        content = yield from _join(content, f"{place}.{said}", sample)
    elif not isinstance(content, str):
        yield Problem("structure", f"{place}.{said} is no text; give the words of the turn")
    if role is None or not isinstance(content, str):
        return
    if role == "system" and number > 0:
        yield Problem("roles", f"{place}.{said_by} is 'system' after the first turn; put it first")
    if sample.turns and role == sample.turns[-1].role:
        yield Problem("roles", f"{place}.{said_by} is {speaker!r} twice in a row; let human and gpt take turns")
    if role != "user" and PLACEHOLDER in content:
        text = f"{place}.{said} has {PLACEHOLDER} in the words of {speaker!r}; only a human shows images"
        yield Problem("placeholders", text)
    if sample.is_video and role == "user":
        content = content.replace(VIDEO, PLACEHOLDER)
    sample.turns.append(Turn(role, content, f"{place}.{said}"))


def _join(parts: list[Any], place: str, sample: Sample) -> Generator[Problem, None, str | None]:
    """Returns a message's parts of text and images as one text; an image that a part names is added to the sample's."""
    texts = []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        named = [part[key] for key in ("image", "image_url", "url", "path") if part.get(key)] if kind else []
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url") and all(map(is_reference, named)):
            texts.append(PLACEHOLDER)
            sample.images += named
        else:
            yield Problem("not read", f"{place}[{number}] of type {kind!r} is not read; give parts of text and image")
            return None
    return "".join(texts)


def _match_images(record: dict[str, Any], sample: Sample) -> Iterator[Problem]:
    """Finds the places of the images in the words."""
    asked = "\n".join([turn.text for turn in sample.turns if turn.role == "user"])
    places = sum([turn.text.count(PLACEHOLDER) for turn in sample.turns])
    mark = "<" in asked and (_VIDEO_OR_AUDIO_MARK.search(asked) or (not places and _OTHER_IMAGE_MARK.search(asked)))
    if mark:
        text = f"{mark.group()} in the words of a human is not read; write {PLACEHOLDER} for images, or leave it out"
        yield Problem("not read", text)
    elif asked and sample.images and not places and not record.get("image"):  # as TRL takes `images`, and a video
        first = [turn.role for turn in sample.turns].index("user")
        text = PLACEHOLDER * len(sample.images) + "\n" + sample.turns[first].text
        sample.turns[first] = sample.turns[first]._replace(text=text)
    elif places != len(sample.images):
        text = f"image names {len(sample.images)} images for {places} {PLACEHOLDER}; match them"
        yield Problem("placeholders", text)
