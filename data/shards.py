"""Images of webdataset tar shards, read as they come: which files are images is known from their names alone."""

from __future__ import annotations

import glob
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from itertools import groupby, islice
from math import prod
from typing import IO, Any

import datasets

from data.bad_samples import BadSamples
from data.errors import InputError, shorten, translated
from data.files import check_file
from data.image_folders import IMAGE_EXTENSIONS, counted
from data.limits import check_range
from data.sources import Given, LabeledImages, register_source
from data.streams import ImageStream, stream_of

logger = logging.getLogger(__name__)

MAX_SHARDS = 10**6
_MAX_BYTES = 2**30  # of one image
_LOOKED_AT = 10_000  # files of the first shard, to tell what is taken
_CHOICE = "?image="
_LABEL = "cls"  # the field of a file that holds a label


@register_source("images", "webdataset")
def open_shards(pattern: str, given: Given) -> ImageStream:
    """The images of webdataset tar shards; unreadable shards are recorded as bad samples.

    A file's *field* is its name behind the first dot that a word follows: ``jpg`` of ``a/0.jpg`` and of
    ``photo.2024.jpg``, ``mask.png`` of ``0.mask.png``. Taken are fields that are an image's extension, or those that
    are chosen; all other files are passed over, as are files whose names begin with a dot.

    Args:
        pattern: files or http(s) URLs; ``*`` and ``?`` match files, ``{000..127}`` and ``{a,b}`` count both. Behind
            them ``?image=FIELD`` chooses, with ``*`` and ``?`` and in either case; nothing is the field of a file
            without extension.

    Raises:
        InputError: if no file matches, or the extra is not installed.
    """
    return stream_of(_rows(pattern, given), "image", f"webdataset:{pattern}", given)


@register_source("labeled", "webdataset")
def open_labeled_shards(pattern: str, given: Given) -> LabeledImages:
    """The same images with the labels beside them: numbers or words in a file ``KEY.cls`` for ``KEY.jpg``.

    An image without one is a bad sample.
    """
    rows = _rows(pattern, given, labeled=True)
    return LabeledImages(ImageStream(rows, "image", f"webdataset:{pattern}", given.bad, label="label"), None)


def _rows(pattern: str, given: Given, labeled: bool = False) -> datasets.IterableDataset:
    """The encoded images of a pattern's shards, a row each."""
    try:
        import webdataset  # noqa: F401
        from braceexpand import braceexpand
    except ImportError as error:
        raise InputError(
            f"webdataset:{pattern}: shards need an extra: pip install 'sparseformer-mllm[webdataset]'"
        ) from error
    places, choice, field = pattern.rpartition(_CHOICE) if _CHOICE in pattern else (pattern, "", "")
    check_range(f"{shorten(f'webdataset:{pattern}', 100)}: shards", _count(places), 1, MAX_SHARDS)
    chosen = field.lower() if choice else None
    shards: list[str] = []
    with translated(f"webdataset:{pattern}"):
        parts = list(braceexpand(places))
    for part in parts:
        if "://" in part:
            if not re.match(r"https?://", part):
                raise InputError(f"webdataset:{pattern}: give files or http(s) URLs of tar shards")
            shards.append(part)
        else:
            found = sorted(glob.glob(part, recursive=True))
            if not found:
                raise InputError(f"webdataset:{pattern}: no file matches {part}; check the path")
            for path in found:
                check_file(path, "tar shard")
            shards += [os.path.abspath(path) for path in found]
    if "://" not in shards[0]:
        _tell(pattern, shards[0], chosen)
    choices = {"shards": shards, "bad": given.bad, "chosen": chosen, "labeled": labeled}
    return datasets.IterableDataset.from_generator(_read_shards, gen_kwargs=choices)


def _count(places: str) -> int:
    """At most how many shards the braces stand for, without writing them out."""
    counts = []
    for inside in re.findall(r"\{([^{}]*)\}", places):
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(\.\.-?\d+)?", inside[:100])
        counts.append(abs(int(ends[2]) - int(ends[1])) + 1 if ends else 1 + inside.count(",") + 26 * (".." in inside))
    return prod(counts)


def _tell(pattern: str, shard: str, chosen: str | None) -> None:
    """Log what is taken of the first shard and what is not; raise InputError if nothing is."""
    taken: Counter[str] = Counter()
    left: Counter[str] = Counter()
    try:
        with translated(shard), closing(_members(shard)) as members:
            for name, _ in islice(members, _LOOKED_AT):
                (taken if _is_taken(name, chosen) else left)[_kind(name)] += 1
    except InputError:
        pass  # it is met again, and recorded, in its turn
    others = f"{left.total()} other files ({counted(left)}); {_CHOICE}FIELD chooses others"
    if left and not taken:
        raise InputError(f"webdataset:{pattern}: {os.path.basename(shard)} has no image, but {others}")
    if left:
        images = f"{taken.total()} images ({counted(taken)})"
        logger.info("webdataset:%s: %s has %s, and %s", pattern, os.path.basename(shard), images, others)


def _read_shards(
    shards: list[str], bad: BadSamples, chosen: str | None, labeled: bool = False
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        count = 0
        try:
            with translated("is no whole tar shard"), closing(_members(shard)) as members:
                for row in _with_labels(members, shard, bad, chosen) if labeled else _images(members, shard, chosen):
                    count += 1
                    yield row
        except InputError as error:
            bad.add(shard, f"{error}; images of it that were read: {count}")


def _images(members: Iterable[tuple[str, IO[bytes]]], shard: str, chosen: str | None) -> Iterator[dict[str, Any]]:
    for name, file in members:
        if _is_taken(name, chosen):
            yield {"image": {"bytes": file.read(_MAX_BYTES), "path": f"{shard}/{name}"}}


def _with_labels(
    members: Iterable[tuple[str, IO[bytes]]], shard: str, bad: BadSamples, chosen: str | None
) -> Iterator[dict[str, Any]]:
    """Images with the label of their sample: files of one sample have one key and follow each other."""
    for _, files in groupby(members, lambda member: _key(member[0])):
        images: list[dict[str, Any]] = []
        label: int | str | None = None
        for name, file in files:
            if _field(name) == _LABEL:
                text = file.read(_MAX_BYTES).decode(errors="replace").strip()
                label = int(text) if text.isdecimal() else text
            images += _images([(name, file)], shard, chosen)
        for row in images:
            if label is None:
                bad.add(row["image"]["path"], f"has no label: there is no .{_LABEL} beside it")
            else:
                yield {**row, "label": label}


def _members(shard: str) -> Generator[tuple[str, IO[bytes]], None, None]:
    """Name and content of each file in a tar, compressed or not, in their order and without seeking."""
    with _open(shard) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name.removeprefix("./"), file


def _open(shard: str) -> IO[bytes]:
    if "://" not in shard:
        return open(shard, "rb")
    from webdataset.gopen import gopen

    stream: IO[bytes] = gopen(shard)
    return stream


def _field(name: str) -> str:
    """The extension of a name, with the words in front of it, in lower case; "" without a dot."""
    parts = os.path.basename(name).lower().split(".")[1:]
    first = len(parts) - 1
    while first > 0 and parts[first - 1].isidentifier():
        first -= 1
    return ".".join(parts[max(first, 0) :])


def _key(name: str) -> str:
    """A name without its field: that of its sample."""
    return name[: len(name) - len(_field(name))]


def _is_hidden(name: str) -> bool:
    return os.path.basename(name).startswith(".") or re.match(r"__[^/]*__(/|$)", name) is not None


def _is_taken(name: str, chosen: str | None) -> bool:
    if _is_hidden(name):
        return False
    field = _field(name)
    return f".{field}" in IMAGE_EXTENSIONS if chosen is None else fnmatchcase(field, chosen)


def _kind(name: str) -> str:
    """What a file is called in the log."""
    if _is_hidden(name):
        return "hidden"
    return f".{_field(name)}" if _field(name) else "no extension"
