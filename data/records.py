"""Samples as they are stored: of a JSON file, or of any table that `datasets` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.exceptions import DatasetGenerationError
from datasets.utils.logging import CRITICAL, get_verbosity, set_verbosity

from data.errors import InputError, translated
from data.files import check_file, read_records
from data.image_tables import open_split
from data.samples import CONVERSATION_FIELDS

NOUN = "file of conversations"
_AT_ONCE = 100  # rows, of which some hold images
_DATASETS = "datasets:"
_MEDIA = (datasets.Image, datasets.Audio, datasets.Video, datasets.List, datasets.LargeList)


class Records:
    """The rows of a table, read on request; media are dicts of bytes and path, at any depth, and not decoded.

    `datasets` maps a table into memory, so that all processes of a machine share what they read of it.

    Args:
        rows: the table.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.item(self.rows[index].to_pylist()[0])

    def __iter__(self) -> Iterator[Any]:
        for rows in self.rows.iter(_AT_ONCE):
            yield from map(self.item, rows.to_pylist())

    def item(self, row: dict[str, Any]) -> Any:
        """The sample that a row holds."""
        return row

    def without_media(self) -> Records:
        """The same without columns of media, or itself if it has none."""
        features = self.rows.features.items()
        words = [name for name, kind in features if name in CONVERSATION_FIELDS or not isinstance(kind, _MEDIA)]
        return self if len(words) == len(features) else Records(self.rows.select_columns(words))


class JsonRecords(Records):
    """The items of a JSON file, whatever they are: a table of their texts."""

    def item(self, row: dict[str, Any]) -> Any:
        return json.loads(row["json"])


def open_records(source: str) -> Records:
    """Opens ``FILE.json``, ``FILE.jsonl``, ``FILE.parquet`` or ``datasets:NAME_OR_PATH[:SPLIT]``.

    A JSON file may be a list or have one item a line. It is read once, whole, and its items kept in the cache of
    `datasets`, where every later process finds them until the file changes. Arrow's own reader is of no use: it wants
    one type in a column, and samples have ids of numbers and texts, one image or a list.

    Raises:
        InputError: there is no such file, data set or split; it is no JSON; no column holds conversations.
    """
    with _quiet():
        if is_table(source):
            rows, *_ = open_split(source.removeprefix(_DATASETS), "NAME_OR_PATH[:SPLIT]", 0, streaming=False)
            if not set(CONVERSATION_FIELDS) & set(rows.column_names):
                fields, columns = " or ".join(CONVERSATION_FIELDS), ", ".join(rows.column_names)
                raise InputError(f"{source}: has no column {fields}, but {columns}")
            if not len(rows):
                raise InputError(f"{source}: is empty; name a table that holds at least one row")
            return Records(rows)
        return JsonRecords(_index(source))


def is_table(source: str) -> bool:
    """Whether a source is a table that `datasets` reads, and no JSON file."""
    return source.startswith(_DATASETS) or source.lower().endswith(".parquet")


def folder_of(source: str) -> Path:
    """The folder that a source is, or lies in."""
    place = Path(source.removeprefix(_DATASETS).partition(":")[0])
    return place if place.is_dir() else place.parent


def _index(source: str) -> datasets.Dataset:
    check_file(source, NOUN)
    status = os.stat(source)
    state = {"path": os.path.abspath(source), "size": status.st_size, "changed": status.st_mtime_ns}
    features = datasets.Features({"json": datasets.Value("large_string")})
    with translated(f"{source}: cannot be kept in {datasets.config.HF_DATASETS_CACHE}", "set HF_DATASETS_CACHE"):
        try:
            return datasets.Dataset.from_generator(_texts, features, gen_kwargs=state)
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None


def _texts(path: str, size: int, changed: int) -> Iterator[dict[str, str]]:
    """The items of a JSON file; `datasets` names what it keeps by the arguments."""
    return ({"json": json.dumps(record)} for _, record in read_records(path, NOUN))


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of `datasets` on stderr, and no words on an error that is ours to name."""
    level, bars = get_verbosity(), are_progress_bars_disabled()
    set_verbosity(CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        set_verbosity(level)
        if not bars:
            enable_progress_bars()
