"""Images of tables: anything that `datasets` reads, local or on the Hugging Face hub, without a download ahead."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from data.errors import InputError, translated
from data.files import check_file
from data.sources import Given, LabeledImages, register_source
from data.streams import ImageStream, stream_of

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
"""Extension of a table → what `datasets` calls its format; all others are taken for parquet."""


@register_source("images", "datasets")
def open_images_of(address: str, given: Given) -> ImageStream:
    """The images of ``NAME_OR_PATH[:SPLIT[:COLUMN]]``.

    NAME is a dataset of the Hugging Face hub, ``NAME@CONFIG`` one of its configurations; PATH a table (parquet, CSV,
    TSV, JSON, Arrow), several with ``*`` and ``?``, a folder that `datasets.load_dataset` understands (tables,
    images, tars), or one written by ``save_to_disk``. A column of texts may hold paths, which begin in the table's
    folder, or base64.

    Raises:
        InputError: if there is no such dataset, split or column.
    """
    rows, folder, place, column = open_split(address, "NAME_OR_PATH[:SPLIT[:COLUMN]]", 1)
    column = _image_column(rows, column, address, place)
    return stream_of(_encoded(rows, column, []), column, f"datasets:{address}", given, folder)


@register_source("labeled", "datasets")
def open_labeled_of(address: str, given: Given) -> LabeledImages:
    """The images of ``NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]]`` and their labels.

    As `open_images_of`; LABEL is the first column of class labels by default. The names of classes are None where the
    data set does not know them.

    Raises:
        InputError: if there is no such dataset, split or column.
    """
    rows, folder, place, column, label = open_split(address, "NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]]", 2)
    column = _image_column(rows, column, address, place)
    features = _columns(rows, address)
    if not label:
        labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        if not labels:
            raise InputError(
                f"datasets:{address}: no column is known to hold class labels; name it: datasets:{place}:{column}:LABEL"
            )
        label = labels[0]
    _check_column(features, label, address)
    names = features[label].names if isinstance(features.get(label), datasets.ClassLabel) else None
    stream = ImageStream(_encoded(rows, column, [label]), column, f"datasets:{address}", given.bad, label, folder)
    return LabeledImages(stream, names)


def open_split(address: str, form: str, columns: int, streaming: bool = True) -> tuple[Any, ...]:
    """The rows that an address names, their folder, its NAME:SPLIT, and ``columns`` names of columns ("": none)."""
    name, split, *named = [*address.split(":"), *[""] * (columns + 1)]
    if not name or any(named[columns:]):
        raise InputError(f"datasets:{address}: give datasets:{form}")
    splits, folder = _load(name, streaming)
    if not split:
        split = "train" if "train" in splits or len(splits) != 1 else next(iter(splits))
    if split not in splits:
        raise InputError(f"datasets:{address}: has no split {split!r}; name one of {', '.join(splits)}")
    return splits[split], folder, f"{name}:{split}", *named[:columns]


def _columns(rows: datasets.IterableDataset, address: str) -> Mapping[str, Any]:
    """The columns by name: what they hold, or what the first row has, since of a CSV no more is known before."""
    if rows.features is not None:
        return dict(rows.features)
    with translated(f"datasets:{address}: cannot be read", "fix it"):
        return dict(next(iter(rows), {}))


def _image_column(rows: datasets.IterableDataset, column: str, address: str, place: str) -> str:
    """The column that is named, or else the first that holds images."""
    features = _columns(rows, address)
    if column:
        _check_column(features, column, address)
        return column
    columns = [key for key, feature in features.items() if _holds_images(feature)]
    if not columns:
        raise InputError(f"datasets:{address}: no column is known to hold images; name it: datasets:{place}:COLUMN")
    return columns[0]


def _check_column(features: Mapping[str, Any], column: str, address: str) -> None:
    if features and column not in features:
        raise InputError(f"datasets:{address}: has no column {column!r}; name one of {', '.join(features)}")


def _encoded(rows: datasets.IterableDataset, column: str, others: list[str]) -> datasets.IterableDataset:
    """The rows with these columns only, their images not decoded."""
    features = rows.features or {}
    rows = rows.select_columns([column, *others])
    if column in features and _holds_images(features[column]):
        encoded = datasets.Image(decode=False)
        rows = rows.cast_column(column, datasets.List(encoded) if _is_list(features[column]) else encoded)
    return rows


def _load(name: str, streaming: bool) -> tuple[dict[str, Any], Path | None]:
    """Split → rows, a `datasets.IterableDataset` or else a `datasets.Dataset`; the folder where their paths begin."""
    address = name
    options: dict[str, Any] = {"streaming": streaming}
    folder: Path | None = None
    files = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    if os.path.isdir(name):
        folder = Path(name).absolute()
        is_saved = any(os.path.exists(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json"))
        if is_saved:
            with translated(f"datasets:{address}", "save it again"):
                saved = datasets.load_from_disk(name)
            parts = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
            if not streaming:
                return dict(parts), folder
            shards = {key: part.to_iterable_dataset(max(len(part.cache_files), 1)) for key, part in parts.items()}
            return shards, folder
    elif files:
        for file in files:
            check_file(file, "table")
        folder = Path(files[0]).absolute().parent
        kinds = {FORMATS.get(os.path.splitext(file)[1].lower(), "parquet") for file in files}
        if len(kinds) > 1:
            raise InputError(f"datasets:{address}: are tables of several kinds, {', '.join(sorted(kinds))}; name one")
        name, options["data_files"] = kinds.pop(), files
        if all(file.lower().endswith(".tsv") for file in files):
            options["sep"] = "\t"
    else:
        name, _, config = name.partition("@")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
            raise InputError(f"datasets:{address}: there is no such file or folder; check the path")
        if config:
            options["name"] = config
    with translated(f"datasets:{address}: cannot be read", "check the name and the connection"):
        return dict(datasets.load_dataset(name, **options)), folder


def _is_list(feature: Any) -> bool:
    return isinstance(feature, (datasets.List, datasets.LargeList))


def _holds_images(feature: Any) -> bool:
    return isinstance(feature.feature if _is_list(feature) else feature, datasets.Image)
