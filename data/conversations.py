"""Conversations in LLaVA's instruction format: a JSON list, or one JSON object a line, and a folder of pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.bad_samples import BadSamples, SkippingDataset
from data.errors import InputError
from data.files import check_file, reading
from data.images import open_image

PLACEHOLDER = "<image>"
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
"""The format's names of the speakers → the roles of chat templates."""

_WHITE_SPACE = re.compile(r"[ \t\r\n]*")
_LOOKED_UP = 100  # pictures whose existence is checked when a file is opened


class Conversations(SkippingDataset):
    """The conversations of one file, as dicts of the project's one format.

    ``{"id": str, "images": [PIL RGB, ...], "messages": [{"role": "system" | "user" | "assistant", "content": parts}]}``
    where a part is ``{"type": "image"}`` or ``{"type": "text", "text": str}``.

    The file is checked once, when it is opened; then only the place of each sample in it is kept, and samples are read
    from it on request (so it must not change meanwhile). Samples with a bad or missing picture, or with an empty turn,
    are replaced as `SkippingDataset` says. Built by `load_conversations`.
    """

    def __init__(self, path: Path, image_folder: Path, spans: np.ndarray, bad: BadSamples | None = None) -> None:
        super().__init__(bad)
        self.path, self.image_folder = path, image_folder
        self.spans = spans  # (number of samples, 2) int64: first byte and end of each

    def __len__(self) -> int:
        return len(self.spans)

    def record(self, index: int) -> dict[str, Any]:
        """Sample ``index`` as it is in the file."""
        start, end = map(int, self.spans[index])
        with open(self.path, "rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            return json.loads(text)
        except ValueError as error:
            raise InputError(
                f"{self.path}: has changed since it was opened; leave it alone while it is in use"
            ) from error

    def load(self, index: int) -> dict[str, Any]:
        record = self.record(index)
        messages = to_messages(record["conversations"], self.name(index))
        images = [open_image(self.image_folder / name) for name in image_names(record)]
        return {"id": str(record.get("id", index)), "images": images, "messages": messages}

    def name(self, index: int) -> str:
        return f"{self.path}: {_label(self.record(index), index)}"


def load_conversations(
    path: str | os.PathLike[str], image_folder: str | os.PathLike[str] | None = None, bad: BadSamples | None = None
) -> Conversations:
    """Opens a file of conversations in LLaVA's format and checks its structure.

    Each sample is ``{"id", "image", "conversations": [{"from": "human" | "gpt" | "system", "value": str}, ...]}``. The
    optional ``image`` is one name or a list; the n-th ``<image>`` in the human's words stands for the n-th name. As in
    LLaVA's own training code, a conversation that begins with an answer loses it, and where a turn has one picture, the
    picture goes in front of the words, wherever it stood; several pictures stay in their places. The line breaks next
    to a placeholder go: the chat template sets its own.

    Args:
        path: ``.jsonl``, one sample a line, or else ``.json``, a list.
        image_folder: where pictures are; names may lead out of it (``../``) or be absolute. By default the file's own
            folder.
        bad: the record of bad samples to use; by default a new one.

    Raises:
        InputError: with the file, the sample and the field, for what is not of this form; if there is no such file or
            folder; if of a hundred pictures looked up not one exists.
    """
    path = Path(path)
    folder = path.parent if image_folder is None else Path(image_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures; check the path")
    spans: list[tuple[int, int]] = []
    with_pictures: list[int] = []
    for index, (start, end, record) in enumerate(read_records(path)):
        _check(record, path, index)
        spans.append((start, end))
        if record.get("image"):
            with_pictures.append(index)
    if not spans:
        raise InputError(f"{path}: holds no conversation; name a file that does")
    conversations = Conversations(path, folder, np.array(spans, np.int64), bad)
    looked_up = with_pictures[:: -(-len(with_pictures) // _LOOKED_UP) or 1]
    files = [folder / name for index in looked_up for name in image_names(conversations.record(index))]
    if files and not any(os.path.exists(file) for file in files):
        raise InputError(f"{path}: none of its pictures is there, e.g. {files[0]}; check the picture folder")
    return conversations


def read_records(path: Path) -> Iterator[tuple[int, int, Any]]:
    """(first byte, end, sample) of each sample; one is held in memory at a time, beside the text of a JSON list.

    Raises:
        InputError: no such file, or one that is no JSON of this kind.
    """
    try:
        check_file(path, "file of conversations")
        with reading(path, "file of conversations"):
            yield from _lines(path) if path.suffix.lower() == ".jsonl" else _elements(path)
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply; give a list of conversations") from error


def _lines(path: Path) -> Iterator[tuple[int, int, Any]]:
    end = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if not line.strip():
                continue
            if start == 0 and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                raise InputError(f"{path}: is a JSON list, not one object a line; name the file .json")
            text = line.decode("utf-8-sig")
            try:
                record = json.loads(text)
            except ValueError as error:
                reason = getattr(error, "msg", error)  # a number of too many digits is a ValueError only
                raise InputError(f"{path}: line {number} is no JSON ({reason}); mend the line") from error
            yield start, end, record


def _elements(path: Path) -> Iterator[tuple[int, int, Any]]:
    text = path.read_bytes().decode("utf-8")
    decoder = json.JSONDecoder()
    ascii_only = text.isascii()
    position = _skip(text, 1 if text.startswith("\ufeff") else 0)
    if text[position : position + 1] != "[":
        raise InputError(f"{path}: is no list of conversations; give a JSON list, or name the file .jsonl")
    counted, offset = 0, 0  # characters and bytes before `counted`
    position = _skip(text, position + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        try:
            record, end = decoder.raw_decode(text, position)
        except ValueError as error:
            raise InputError(f"{path}: is no JSON ({error}); mend it there") from error
        offset += position - counted if ascii_only else len(text[counted:position].encode())
        size = end - position if ascii_only else len(text[position:end].encode())
        yield offset, offset + size, record
        offset, counted = offset + size, end
        position = _skip(text, end)
        closed = text[position : position + 1] == "]"
        if not closed:
            if text[position : position + 1] != ",":
                raise InputError(f"{path}: is cut off or lacks a comma after character {end}; mend it there")
            position = _skip(text, position + 1)
    if _skip(text, position + 1) != len(text):
        raise InputError(f"{path}: goes on after its list ended, at character {position + 1}; mend it there")


def _skip(text: str, position: int) -> int:
    """The next position that is no white space."""
    match = _WHITE_SPACE.match(text, position)
    return match.end() if match else position


def _check(record: Any, path: Path, index: int) -> None:
    """Raises InputError unless the sample has the structure that `load_conversations` documents."""
    for problem in structural_problems(record):
        if not isinstance(record, dict):
            raise InputError(f"{path}: sample {index} {problem.text}")
        raise InputError(f"{path}: {_label(record, index)}: {problem.text}")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a sample: its kind, and the field, what is wrong with it and the fix."""

    kind: str
    text: str


def structural_problems(record: Any) -> Iterator[Problem]:
    """What keeps a file with this sample from being opened, as far as the sample can be understood."""
    if not isinstance(record, dict):
        yield Problem("structure", "is no object; give {'id', 'image', 'conversations'}")
        return
    names, turns = record.get("image"), record.get("conversations")
    named = names is None or isinstance(names, str) or (isinstance(names, list) and all(map(_is_text, names)))
    if not named:
        yield Problem("structure", "image is neither a file name nor a list of file names; give one of them")
    if not isinstance(turns, list) or not turns:
        yield Problem("structure", "conversations is missing, empty or no list; give the turns of the conversation")
        return
    placeholders = 0
    previous = ""
    answered, understood = False, True
    for number, turn in enumerate(turns):
        field = f"conversations[{number}]"
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or role not in ROLES:
            yield Problem("roles", f"{field}.from is {role!r}; give one of {', '.join(ROLES)}")
            understood = False
        if not isinstance(value, str):
            yield Problem("structure", f"{field}.value is no text; give the words of the turn")
            understood = False
            continue
        if role == "system" and number > 0:
            yield Problem("roles", f"{field}.from is 'system' after the first turn; put it first")
        if role == previous:
            yield Problem("roles", f"{field}.from is {role!r} twice in a row; let human and gpt take turns")
        found = value.count(PLACEHOLDER)
        if found and role in ("gpt", "system"):
            yield Problem(
                "placeholders",
                f"{field}.value has {PLACEHOLDER} in the words of {role!r}; only a human shows pictures",
            )
        placeholders += found
        answered = answered or (role == "gpt" and previous == "human")
        previous = role if isinstance(role, str) else ""
    if not understood:
        return
    if not answered:
        yield Problem("roles", "conversations has no answer of 'gpt' to a 'human'; leave the sample out")
    if named and placeholders != len(image_names(record)):
        yield Problem(
            "placeholders",
            f"image names {len(image_names(record))} pictures for {placeholders} {PLACEHOLDER}; match them",
        )


def to_messages(turns: list[dict[str, str]], name: str) -> list[dict[str, Any]]:
    """Turns of sound structure as messages of chat templates.

    Raises:
        InputError: a turn without words and pictures.
    """
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        if turn["from"] == "gpt" and not any(message["role"] == "user" for message in messages):
            continue  # an answer to nothing, as LLaVA skips it
        content = _parts(turn["value"])
        if not content:
            raise InputError(f"{name}: conversations[{number}].value is empty; write the words or leave the sample out")
        messages.append({"role": ROLES[turn["from"]], "content": content})
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


def image_names(record: dict[str, Any]) -> list[str]:
    """The pictures of a sample of sound structure, as it names them."""
    names = record.get("image") or []
    return [names] if isinstance(names, str) else names


def _label(record: dict[str, Any], index: int) -> str:
    return f"sample {index} (id {record['id']!r})" if "id" in record else f"sample {index}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
