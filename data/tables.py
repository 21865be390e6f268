"""Conversations in tables: parquet files and whatever else `datasets` reads, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.utils.logging import CRITICAL, get_verbosity, set_verbosity

from data.errors import InputError
from data.image_tables import open_split
from data.samples import CONVERSATION_FIELDS


class TableRecords:
    """The rows of a table as they are stored: media are dicts of bytes and path, at any depth, and not decoded.

    Args:
        rows: the table.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index].to_pylist()[0])


def open_table(source: str) -> tuple[TableRecords, TableRecords]:
    """The rows of ``FILE.parquet`` or ``datasets:NAME_OR_PATH[:SPLIT]``, and the same without columns of media.

    Raises:
        InputError: if there is no such data set or split, or no column of it holds conversations.
    """
    with _quiet():
        rows, *_ = open_split(source.removeprefix("datasets:"), "NAME_OR_PATH[:SPLIT]", 0, streaming=False)
    if not set(CONVERSATION_FIELDS) & set(rows.column_names):
        raise InputError(
            f"{source}: has no column {' or '.join(CONVERSATION_FIELDS)}, but {', '.join(rows.column_names)}"
        )
    media = (datasets.Image, datasets.Audio, datasets.Video, datasets.List, datasets.LargeList)
    features = rows.features.items()
    words = [name for name, feature in features if name in CONVERSATION_FIELDS or not isinstance(feature, media)]
    return TableRecords(rows), TableRecords(rows.select_columns(words))


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
