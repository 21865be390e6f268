"""Objects in JSON files and their fields: what is malformed is one line that names the file, the place and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from data.errors import InputError, shorten
from data.files import read_json, read_records

Record = dict[str, Any]
Value = TypeVar("Value")
Id = int | str

_KINDS = {str: "a text", list: "a list", dict: "an object", int: "a whole number", object: "a number"}


def read_object(path: Path, expected: str) -> Record:
    """A JSON file that holds one object; ``expected`` is the published file that the message names."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: is no JSON object with something in it; name {expected}")
    return content


def each_object(path: Path, noun: str, parts: Record | list[Any]) -> Iterator[tuple[str, Id, Record]]:
    """(where it stands, its name or number, it) of each part of a file, which must be an object; one there must be."""
    if not parts:
        raise InputError(f"{path}: holds no {noun}; fetch the file again")
    for name, record in parts.items() if isinstance(parts, dict) else enumerate(parts, 1):
        where = f"{path}: {noun} {name}"
        if not isinstance(record, dict):
            raise InputError(f"{where}: is no object; fetch the file again")
        yield where, name, record


def read_objects(path: Path) -> Iterator[tuple[str, Record]]:
    """(Where it stands, for messages; it) of each object of a file, as `data.files.read_records` finds them.

    Raises:
        InputError: no JSON, something else than objects, nothing at all.
    """
    for where, record in read_records(path):
        if not isinstance(record, dict):
            raise InputError(f'{where}: is no JSON object; give one such as {{"question_id": 1, ...}}')
        yield where, record


def take(record: Record, name: str, kind: type[Value], where: str) -> Value:
    """The field ``name`` of an object, which must be of type ``kind``. Raises InputError saying ``where``."""
    if name not in record:
        raise InputError(f"{where}: has no field {name!r}; there are {', '.join(map(str, record)) or 'none'}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where}: {name!r} is {shorten(repr(value), 40)}; give {_KINDS[kind]}")
    return value


def take_id(record: Record, name: str, where: str) -> Id:
    """The field ``name`` of an object, an id: a number or a text; 1.0, as tables write a column of numbers, is 1."""
    value = record.get(name)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else take(record, name, str, where)


def take_answer(record: Record, name: str, kind: type[Value], where: str) -> Value:
    """The field ``name`` of an annotation, which holds what is right. Raises InputError if it is blank or as `take`."""
    if is_blank(record.get(name)):
        raise InputError(
            f"{where}: has no field {name!r} that is filled; fetch the file again, "
            "or leave out --annotations if the answers of this split are not public"
        )
    return take(record, name, kind, where)


def is_blank(value: Any) -> bool:
    """Whether a field is there but empty: null, NaN (as tables write an empty cell), or a text without a letter."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
