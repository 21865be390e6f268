"""The classes of zero-shot classification: read from a file, and matched to what a source calls its labels."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import InputError, shorten
from data.files import csv_rows, read_json, read_text

logger = logging.getLogger(__name__)

_WNID = re.compile(r"n\d{8}")
_WNID_LINE = re.compile(r"(n\d{8})[\s,:;]+(\S.*)")  # "n01440764 tench, Tinca tinca"
_FIRST_WORD = re.compile(r"([^\s,:;]+)[\s,:;]+(\S.*)")
_CODE = re.compile(r"(\D*)\d+")  # n01440764, class_3, 007
_HEADINGS = frozenset(
    {"id", "idx", "index", "label", "labels", "class", "classes", "key", "code", "number", "wnid", "synset", "folder"}
    | {"name", "names", "category", "word", "words", "title", "description"}
)
_SHOWN = 3  # labels that the log shows with their classes

Row = tuple[str, list[str]]
"""Where a class stands in its file, for messages, and its cells."""


@dataclass(frozen=True)
class ClassTable:
    """The classes that a user gives: a row each, with words and perhaps keys.

    Attributes:
        source: what messages call it: the file.
        columns: of equal length. Numbers, where a column holds them, are in ascending order.
    """

    source: str
    columns: list[list[str]]

    def words(self, key: int = 0) -> list[str]:
        """What a template is filled with: the first column of words that is not the column ``key``, if there is one."""
        wordy = [number for number, column in enumerate(self.columns) if not all(map(_is_key, column))]
        others = [number for number in wordy if number != key]
        return self.columns[(others or wordy or [key])[0]]

    def numbers(self) -> list[int] | None:
        """The number of each row, where a column besides the words numbers them."""
        for column in self.columns if len(self.columns) > 1 else []:
            found = [int(cell) for cell in column if cell.isdecimal()]
            if len(set(found)) == len(column):
                return found
        return None


@dataclass(frozen=True)
class Classes:
    """The classes' words, and which of them an image's label means.

    Attributes:
        rows: label -> index into ``words``; a label is a number or a name.
    """

    words: list[str]
    rows: Mapping[int | str, int]

    def of(self, label: Any) -> int:
        """The class that an image's label means. Raises InputError if it means none."""
        if isinstance(label, (int, str)) and label in self.rows:
            return self.rows[label]
        if isinstance(label, str):
            raise InputError(f"--classes: {label!r}, the label of an image, is none of the {len(self.words)} classes")
        numbers = [number for number in self.rows if isinstance(number, int)]
        raise InputError(
            f"label {label!r} of an image: is no number from {min(numbers)} to {max(numbers)}; "
            "check the source's labels"
        )


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file without the white space around them; empty ones are left out.

    Raises:
        InputError: the file cannot be read, holds no line, or one twice. ``what`` is what a line is: "template" ...
    """
    rows = _lines(read_text(path))
    if not rows:
        raise InputError(f"{path}: is empty; write one {what} a line")
    lines = [cells[0] for _, cells in rows]
    _check_unique(lines, rows, path, what)
    return lines


def read_class_table(path: str | os.PathLike[str]) -> ClassTable:
    """The classes of a file.

    | file | what it holds |
    |---|---|
    | text | a class a line: its words; key, tab, words; or WordNet's id, blank, words. Empty lines are left out |
    | ``.csv`` | key and words in any order, with a heading or without |
    | JSON | a list of words; key -> words; number -> [key, words]; words -> number |

    Raises:
        InputError: the file cannot be read, is empty or of another form; a class is blank or stands there twice.
    """
    text = read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        rows = _json_rows(read_json(path), path)
    elif os.path.splitext(path)[1].lower() == ".csv":
        rows = [(f"line {number}", cells) for number, cells in csv_rows(text, path)]
    else:
        rows = _lines(text)
        split = [_WNID_LINE.fullmatch(cells[0]) for _, cells in rows]
        if "\t" in text:
            rows = [(place, cells[0].split("\t")) for place, cells in rows]
        elif all(split):
            rows = [(place, list(match.groups())) for (place, _), match in zip(rows, split, strict=True) if match]
    rows = [(place, [cell.strip() for cell in cells]) for place, cells in rows]
    if len(rows) > 1 and len(rows[0][1]) > 1 and all(map(_is_heading, rows[0][1])):
        del rows[0]
    return _table(path, rows)


def _table(path: str | os.PathLike[str], rows: list[Row]) -> ClassTable:
    if not rows:
        raise InputError(f"{path}: is empty; write one class a line")
    first, width = rows[0][0], len(rows[0][1])
    for place, cells in rows:
        if len(cells) != width:
            raise InputError(f"{path}: {place} has {len(cells)} columns, {first} has {width}; give every class as many")
        if not all(cells):
            raise InputError(f"{path}: {place} leaves a class or its key blank; fill it in or drop it")
    columns = [list(column) for column in zip(*(cells for _, cells in rows), strict=True)]
    if all(len(set(column)) < len(column) for column in columns):
        _check_unique(columns[0], rows, path, "class")
    table = ClassTable(os.fspath(path), columns)
    if numbers := table.numbers():  # {"10": ..., "2": ...}
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        table = ClassTable(table.source, [[column[row] for row in order] for column in columns])
    word, count = Counter(table.words()).most_common(1)[0]
    if count > 1:
        logger.warning("%s: %d classes are called %r and cannot be told apart", path, count, word)
    return table


def _lines(text: str) -> list[Row]:
    """The lines of a text that are not empty, a cell each."""
    return [(f"line {number}", [line.strip()]) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _json_rows(content: Any, path: str | os.PathLike[str]) -> list[Row]:
    keyed = isinstance(content, dict)
    rows: list[Row] = []
    for key, value in content.items() if keyed else enumerate(content, 1):
        cells = [*([key] if keyed else []), *(value if isinstance(value, list) else [value])]
        for cell in cells:
            if not isinstance(cell, (str, int)) or isinstance(cell, bool):
                held = shorten(repr(cell), 40)
                raise InputError(f"{path}: entry {key!r} holds {held}; give a list of classes, or an object KEY: class")
        rows.append((f"entry {key!r}", list(map(str, cells))))
    return rows


def _check_unique(words: Sequence[str], rows: Sequence[Row], path: str | os.PathLike[str], what: str) -> None:
    found: dict[str, str] = {}
    for word, (place, _) in zip(words, rows, strict=True):
        if word in found:
            first, second = found[word].removeprefix("line "), place.removeprefix("line ")
            raise InputError(f"{path}: lines {first} and {second} are the same {what} {word!r}; leave one out")
        found[word] = place


def match_classes(given: ClassTable | None, names: Sequence[str] | None, numbered: bool = False) -> Classes:
    """Finds which class each label of the images means: by key or name, or by position where that is certain.

    Args:
        given: the classes that the user names, if any.
        names: what the images' source calls its labels, if it knows: label n is the n-th. They are looked up among
            the keys and words of ``given``; without it they are the classes, underscores read as spaces.
        numbered: whether the source itself numbers its labels; folders are merely sorted.

    Raises:
        InputError: neither is known, or they do not match.
    """
    if given is None:
        if names is None:
            raise InputError("--classes: the images' labels have no names; give a file of classes, one a line")
        return Classes([name.replace("_", " ") for name in names], {number: number for number in range(len(names))})
    if names is None:  # a column of numbers or of words
        words = given.words()
        rows: dict[int | str, int] = {name: row for column in given.columns for row, name in enumerate(column)}
        rows.update(zip(given.numbers() or range(len(words)), range(len(words)), strict=True))
        return Classes(words, rows)
    for table in (given, _cut(given, names)):
        for key, column in enumerate(table.columns):
            if found := _by_name(column, names):
                return _logged(given, "by name", names, table.words(key), found)
    return _logged(given, "by position", names, given.words(), _by_position(given, names, numbered))


def _cut(table: ClassTable, names: Sequence[str]) -> ClassTable:
    """A table of one column with its lines cut behind the first word, where a key may stand: "3 tench".

    It may only where all names hold a number: "red car" of a folder "red" is no key and "car".
    """
    cut = [_FIRST_WORD.fullmatch(line) for line in table.columns[0]]
    if len(table.columns) > 1 or not all(cut) or not all(re.search(r"\d", name) for name in names):
        return table
    return ClassTable(table.source, [[match[1] for match in cut if match], [match[2] for match in cut if match]])


def _by_name(keys: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The row of each name, if all are there: as they are written, or else as `_plain` writes them."""
    for form in (str, _plain):
        rows = {form(key): row for row, key in enumerate(keys)}
        found = [rows[form(name)] for name in names if form(name) in rows]
        if len(rows) == len(keys) and len(found) == len(names) == len(set(found)):
            return found
    return None


def _by_position(given: ClassTable, names: Sequence[str], numbered: bool) -> list[int]:
    """The row of each name by the order of both, which means something for numbers, and for codes as WordNet's are."""
    words = given.words()
    numbers = [int(name) for name in names if name.isdecimal()]
    keyed = any(column != words and (numbers or not all(map(str.isdecimal, column))) for column in given.columns)
    if len(numbers) == len(names) == len(set(numbers)) and 0 in numbers and max(numbers) < len(words) and not keyed:
        return numbers
    places = {_plain(word): row for row, word in enumerate(words)}
    known = {_plain(cell) for column in given.columns for cell in column}
    missing = next((name for name in names if _plain(name) not in known), names[0])
    fix = f"name all of them, or write KEY, tab, words on each line, with {names[0]} as a KEY"
    if len(words) != len(names) and not keyed:
        raise InputError(
            f"--classes {given.source}: there are {len(words)}, the images have {len(names)}, "
            f"and {missing!r} is none of those given; {fix}"
        )
    found = [(number, places[_plain(name)]) for number, name in enumerate(names) if _plain(name) in places]
    moved = sum(number != row for number, row in found)
    codes = len({match[1] if (match := _CODE.fullmatch(name)) else name for name in names}) == 1
    sure = list(names) == sorted(names, key=natural_order) if codes else numbered
    if keyed or moved > len(found) / 2 or not sure:
        raise InputError(f"--classes {given.source}: {missing!r}, a label of the images, is none of those given; {fix}")
    return list(range(len(names)))


def natural_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key by which names sort with the numbers in them as numbers: 2 before 10."""
    pieces = re.split(r"(\d+)", name)
    numbers = [int(digits) for digits in pieces[1::2]] + [0]
    return list(zip(pieces[::2], numbers, strict=True)), name


def _logged(given: ClassTable, way: str, names: Sequence[str], words: list[str], rows: list[int]) -> Classes:
    shown = [f"{name} is {words[row]!r}" for name, row in list(zip(names, rows, strict=True))[:_SHOWN]]
    more = ", ..." if len(names) > _SHOWN else ""
    logger.info("%s: classes are matched %s: %s%s", given.source, way, ", ".join(shown), more)
    return Classes(words, dict(enumerate(rows)))


def _plain(name: str) -> str:
    """A name without what differs between folders and words: case, underscores, zeros in front of a number."""
    return str(int(name)) if name.isdecimal() else " ".join(name.casefold().replace("_", " ").split())


def _is_key(cell: str) -> bool:
    """Whether it is a number or an id of WordNet, and no words."""
    return cell.isdecimal() or _WNID.fullmatch(cell) is not None


def _is_heading(cell: str) -> bool:
    return set(re.split(r"[\W_]+", cell.casefold())) <= _HEADINGS
