"""Conversations in tables: parquet files and whatever else `datasets` reads, row by row."""

from __future__ import annotations

from dataclasses import replace

import datasets

from data.errors import InputError
from data.image_tables import open_split
from data.samples import CONVERSATION_FIELDS


def open_table(source: str) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows of ``FILE.parquet`` or ``datasets:NAME_OR_PATH[:SPLIT]``, media not decoded, and these without media.

    Raises:
        InputError: if there is no such data set or split, or no column of it holds conversations.
    """
    rows, *_ = open_split(source.removeprefix("datasets:"), "NAME_OR_PATH[:SPLIT]", 0, streaming=False)
    if not set(CONVERSATION_FIELDS) & set(rows.column_names):
        raise InputError(
            f"{source}: has no column {' or '.join(CONVERSATION_FIELDS)}, but {', '.join(rows.column_names)}"
        )
    words = []
    for column, feature in rows.features.items():
        several = isinstance(feature, (datasets.List, datasets.LargeList))
        one = feature.feature if several else feature
        if isinstance(one, (datasets.Image, datasets.Audio, datasets.Video)):
            encoded = replace(one, decode=False)
            rows = rows.cast_column(column, datasets.List(encoded) if several else encoded)
        else:
            words.append(column)
    return rows, rows.select_columns(words)
