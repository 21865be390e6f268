"""The samples of a JSON file, found by their bytes: a JSON list, or one JSON object a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.files import check_file, reading

_WHITE_SPACE = re.compile(r"[ \t\r\n]*")


class JsonRecords:
    """The samples of one file, read from it on request (so it must not change meanwhile).

    Args:
        path: the file.
        spans: (number of samples, 2) int64: first byte and end of each.
    """

    def __init__(self, path: Path, spans: np.ndarray) -> None:
        self.path, self.spans = path, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Any:
        """Sample ``index`` as it is in the file. Raises InputError if the file has changed."""
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
                raise InputError(f"{path}: line {number} is no JSON ({reason}); fix the line") from error
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
            raise InputError(f"{path}: is no JSON ({error}); fix it there") from error
        offset += position - counted if ascii_only else len(text[counted:position].encode())
        size = end - position if ascii_only else len(text[position:end].encode())
        yield offset, offset + size, record
        offset, counted = offset + size, end
        position = _skip(text, end)
        closed = text[position : position + 1] == "]"
        if not closed:
            if text[position : position + 1] != ",":
                raise InputError(f"{path}: is cut off or lacks a comma after character {end}; fix it there")
            position = _skip(text, position + 1)
    if _skip(text, position + 1) != len(text):
        raise InputError(f"{path}: goes on after its list ended, at character {position + 1}; fix it there")


def _skip(text: str, position: int) -> int:
    """The next position that is no white space."""
    match = _WHITE_SPACE.match(text, position)
    return match.end() if match else position
