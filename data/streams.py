"""Pictures as streams: webdataset shards and anything that `datasets` reads, without a download ahead."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import fsspec
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from data.bad_samples import BadSamples
from data.errors import InputError
from data.images import open_image, to_rgb
from data.pictures import PICTURE_EXTENSIONS


class PictureStream(IterableDataset):
    """The pictures of a column of a `datasets.IterableDataset`, decoded: ``{"image": PIL RGB}``. Bad ones are skipped.

    With ``label``, each also has the row's ``"label"``.

    Who reads what, without a picture lost or read twice:

    - DataLoader workers divide the files (tar, parquet, ...) among them; workers beyond the number of files stay idle.
    - transformers.Trainer and accelerate divide any iterable dataset over the processes by themselves: either process
      0 reads for all (``dispatch_batches``, their default), or each reads everything and keeps its turn of the batches.
      For both, every process must hold the whole stream in the same order, as it is built.
    - A training loop without accelerate takes ``stream.split(rank, world_size)`` on each process: whole files if their
      number can be divided by ``world_size``, otherwise every ``world_size``-th picture.

    The length is unknown, so the Trainer needs ``max_steps``. ``set_epoch``, which the Trainer calls, changes the order
    of the files, and that of the pictures if ``rows`` are shuffled.

    Args:
        rows: the encoded pictures: each a dict of bytes and path as `datasets.Image(decode=False)` gives it, a path,
            bytes, a PIL image, or a list of these.
        column: the column of ``rows`` that holds them.
        source: what to call the stream in errors.
        bad: the record of bad pictures.
        label: the column of ``rows`` that holds the labels; None: there are none.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        column: str,
        source: str,
        bad: BadSamples | None = None,
        label: str | None = None,
    ) -> None:
        self.rows, self.column, self.source, self.label = rows, column, source, label
        self.bad = bad or BadSamples()
        self._whole = True

    def split(self, rank: int, world_size: int) -> PictureStream:
        """The part of process ``rank`` of ``world_size``; only for training loops without accelerate."""
        from datasets.distributed import split_dataset_by_node

        rows = split_dataset_by_node(self.rows, rank=rank, world_size=world_size)
        part = PictureStream(rows, self.column, self.source, self.bad, self.label)
        part._whole = world_size == 1
        return part

    def with_own_epoch(self) -> PictureStream:
        """The same stream, whose epoch is set in this process alone: the workers of a DataLoader share the other's."""
        own = PictureStream(self.rows.with_format(None), self.column, self.source, self.bad, self.label)
        own._whole = self._whole
        return own

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises InputError at the end if the whole stream held not one good picture."""
        worker = get_worker_info()
        good = 0
        reader = f"reader {worker.id}" if worker else "reader 0"
        for number, row in enumerate(self._rows()):
            value = row.get(self.column)
            for picture in value if isinstance(value, list) else [value]:
                name = self._name(picture, f"row {number} of {reader}")
                try:
                    image = _open(picture, name)
                except InputError as error:
                    self.bad.add(name, str(error))
                    continue
                good += 1
                yield {"image": image} if self.label is None else {"image": image, "label": row[self.label]}
        # A worker or a process with a part of the stream cannot tell whether the others fare better.
        if not good and self._whole and (worker is None or worker.num_workers == 1):
            bad = self.bad.report()
            raise InputError(f"{self.source}: holds no good picture" + (f" ({bad[1].strip()})" if bad else ""))

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self.rows
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            # Unlike a tar's, the order of a broken table leaves nothing to go on with.
            raise InputError(f"{self.source}: cannot be read on ({_one_line(error)}); fetch it again") from error

    def _name(self, picture: Any, place: str) -> str:
        """A name that stays the same from epoch to epoch, wherever there is one."""
        content, path = _content_and_path(picture)
        if path and (os.path.isabs(path) or "://" in path):
            return path
        if content:
            # Tables often call all of their pictures alike, so the name alone does not tell them apart.
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()[:16]
            return f"{self.source}: {path or 'picture'} with SHA-1 {digest}"
        return f"{self.source}: {path or place}"


def read_shards(pattern: str, bad: BadSamples) -> tuple[datasets.IterableDataset, str]:
    """The rows and the column of pictures of webdataset tar shards; unreadable shards are recorded as bad samples.

    Args:
        pattern: files or http(s) URLs; ``*`` and ``?`` match files, ``{000..127}`` and ``{a,b}`` count both.

    Raises:
        InputError: if no file matches, or the extra is not installed.
    """
    try:
        import webdataset  # noqa: F401
        from braceexpand import braceexpand
    except ImportError as error:
        raise InputError(
            f"webdataset:{pattern}: shards need an extra: pip install 'sparseformer-mllm[webdataset]'"
        ) from error
    shards: list[str] = []
    for part in braceexpand(pattern):
        if "://" in part:
            if not re.match(r"https?://", part):
                raise InputError(f"webdataset:{pattern}: give files or http(s) URLs of tar shards")
            shards.append(part)
        else:
            found = sorted(glob.glob(part, recursive=True))
            if not found:
                raise InputError(f"webdataset:{pattern}: no file matches {part}; check the path")
            shards += [os.path.abspath(path) for path in found]
    rows = datasets.IterableDataset.from_generator(_read_shards, gen_kwargs={"shards": shards, "bad": bad})
    return rows, "image"


def read_dataset(address: str) -> tuple[datasets.IterableDataset, str]:
    """The rows and the column of pictures of ``NAME_OR_PATH[:SPLIT[:COLUMN]]``, still encoded.

    NAME is a dataset of the Hugging Face hub, ``NAME@CONFIG`` one of its configurations; PATH a parquet file, a folder
    that `datasets.load_dataset` understands (parquet, pictures, tars), or one written by ``save_to_disk``.

    Raises:
        InputError: if there is no such dataset, split or column.
    """
    rows, place, column = open_split(address, "NAME_OR_PATH[:SPLIT[:COLUMN]]", 1)
    column = _picture_column(rows, column, address, place)
    return _encoded(rows, column, []), column


def read_labelled_dataset(address: str) -> tuple[datasets.IterableDataset, str, str, list[str] | None]:
    """The rows of ``NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]]``, the columns of pictures and labels, the classes' names.

    As `read_dataset`; LABEL is the first column of class labels by default. The names are None where the data set does
    not know them.

    Raises:
        InputError: if there is no such dataset, split or column.
    """
    rows, place, column, label = open_split(address, "NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]]", 2)
    column = _picture_column(rows, column, address, place)
    features = rows.features or {}
    if not label:
        labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        if not labels:
            raise InputError(
                f"datasets:{address}: no column is known to hold class labels; name it: datasets:{place}:{column}:LABEL"
            )
        label = labels[0]
    _check_column(features, label, address)
    names = features[label].names if isinstance(features.get(label), datasets.ClassLabel) else None
    return _encoded(rows, column, [label]), column, label, names


def open_split(address: str, form: str, columns: int, streaming: bool = True) -> tuple[Any, ...]:
    """The rows that an address names, its NAME:SPLIT, and the ``columns`` column names that may follow ("": none)."""
    name, split, *named = [*address.split(":"), *[""] * (columns + 1)]
    if not name or any(named[columns:]):
        raise InputError(f"datasets:{address}: give datasets:{form}")
    splits = _load(name, streaming)
    if not split:
        split = "train" if "train" in splits or len(splits) != 1 else next(iter(splits))
    if split not in splits:
        raise InputError(f"datasets:{address}: has no split {split!r}; name one of {', '.join(splits)}")
    return splits[split], f"{name}:{split}", *named[:columns]


def _picture_column(rows: datasets.IterableDataset, column: str, address: str, place: str) -> str:
    """The column that is named, or else the first that holds pictures."""
    features = rows.features or {}
    if column:
        _check_column(features, column, address)
        return column
    columns = [key for key, feature in features.items() if _holds_pictures(feature)]
    if not columns:
        raise InputError(f"datasets:{address}: no column is known to hold pictures; name it: datasets:{place}:COLUMN")
    return columns[0]


def _check_column(features: Mapping[str, Any], column: str, address: str) -> None:
    if features and column not in features:
        raise InputError(f"datasets:{address}: has no column {column!r}; name one of {', '.join(features)}")


def _encoded(rows: datasets.IterableDataset, column: str, others: list[str]) -> datasets.IterableDataset:
    """The rows with these columns only, their pictures not decoded."""
    features = rows.features or {}
    rows = rows.select_columns([column, *others])
    if column in features and _holds_pictures(features[column]):
        encoded = datasets.Image(decode=False)
        rows = rows.cast_column(column, datasets.List(encoded) if _is_list(features[column]) else encoded)
    return rows


def _read_shards(shards: list[str], bad: BadSamples) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import tarfile_samples

    for shard in shards:

        def skip(error: Exception, shard: str = shard) -> bool:
            bad.add(shard, f"is no whole tar shard ({error.args[0] if error.args else type(error).__name__})")
            return True

        for sample in tarfile_samples([{"url": shard}], handler=skip):
            fields = [key for key in sample if f".{key.rpartition('.')[2]}" in PICTURE_EXTENSIONS]
            for key in fields:
                yield {"image": {"bytes": sample[key], "path": f"{shard}/{sample['__key__']}.{key}"}}
            if not fields:
                bad.add(f"{shard}/{sample['__key__']}", "has no picture (.jpg, .png, ...)")


def _load(name: str, streaming: bool) -> dict[str, Any]:
    """Split → rows, as a `datasets.IterableDataset` if streaming, else as a `datasets.Dataset`."""
    address = name
    options: dict[str, Any] = {"streaming": streaming}
    if os.path.exists(name):
        is_saved = any(os.path.exists(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json"))
        if is_saved:
            saved = datasets.load_from_disk(name)
            parts = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
            if not streaming:
                return dict(parts)
            return {key: part.to_iterable_dataset(max(len(part.cache_files), 1)) for key, part in parts.items()}
        if os.path.isfile(name):
            name, options["data_files"] = "parquet", name
    else:
        name, _, config = name.partition("@")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
            raise InputError(f"datasets:{address}: there is no such file or folder; check the path")
        if config:
            options["name"] = config
    try:
        return dict(datasets.load_dataset(name, **options))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"datasets:{address}: cannot be read ({_one_line(error)}); check the name and the connection"
        ) from error


def _is_list(feature: Any) -> bool:
    return isinstance(feature, (datasets.List, datasets.LargeList))


def _holds_pictures(feature: Any) -> bool:
    return isinstance(feature.feature if _is_list(feature) else feature, datasets.Image)


def _open(picture: Any, name: str) -> Image.Image:
    if isinstance(picture, Image.Image):
        return to_rgb(picture, name=name)
    content, path = _content_and_path(picture)
    if content is not None:
        return open_image(content, name=name)
    if not path:
        raise InputError(f"{name}: holds no picture; leave the row out")
    if "://" not in path:
        return open_image(path)
    try:
        with fsspec.open(path, "rb") as file:
            return open_image(file.read(), name=name)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: cannot be fetched ({_one_line(error)}); check the connection") from error


def _content_and_path(picture: Any) -> tuple[bytes | None, str | None]:
    if isinstance(picture, dict):
        return picture.get("bytes"), picture.get("path")
    return (picture if isinstance(picture, bytes) else None), (picture if isinstance(picture, str) else None)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
