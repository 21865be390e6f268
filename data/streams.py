"""Images as streams: what the rows of shards and tables hold, decoded one by one."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from data.bad_samples import BadSamples
from data.errors import InputError, translated
from data.images import open_image, to_rgb
from data.references import AddressError, is_reference, open_reference
from data.sources import Given


class ImageStream(IterableDataset):
    """The images of a column of a `datasets.IterableDataset`, decoded: ``{"image": PIL RGB}``. Bad ones are skipped.

    With ``label``, each also has the row's ``"label"``.

    Who reads what, without an image lost or read twice:

    - DataLoader workers divide the files (tar, parquet, ...) among them; workers beyond the number of files stay idle.
    - transformers.Trainer and accelerate divide any iterable dataset over the processes by themselves: either process
      0 reads for all (``dispatch_batches``, their default), or each reads everything and keeps its turn of the batches.
      For both, every process must hold the whole stream in the same order, as it is built.
    - A training loop without accelerate takes ``stream.split(rank, world_size)`` on each process: whole files if their
      number can be divided by ``world_size``, otherwise every ``world_size``-th image.

    The length is unknown, so the Trainer needs ``max_steps``. ``set_epoch``, which the Trainer calls, changes the order
    of the files, and that of the images if ``rows`` are shuffled.

    Args:
        rows: the encoded images: each a dict of bytes and path as `datasets.Image(decode=False)` gives it, a path,
            bytes, a PIL image, or a list of these.
        column: the column of ``rows`` that holds them.
        source: what to call the stream in errors.
        bad: the record of bad images.
        label: the column of ``rows`` that holds the labels; None: there are none.
        folder: where relative paths begin; None: in the working directory.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        column: str,
        source: str,
        bad: BadSamples | None = None,
        label: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.rows, self.column, self.source, self.label = rows, column, source, label
        self.folder = folder or Path()
        self.bad = bad or BadSamples()
        self._whole = True

    def split(self, rank: int, world_size: int) -> ImageStream:
        """The part of process ``rank`` of ``world_size``; only for training loops without accelerate."""
        from datasets.distributed import split_dataset_by_node

        part = copy.copy(self)
        part.rows = split_dataset_by_node(self.rows, rank=rank, world_size=world_size)
        part._whole = world_size == 1
        return part

    def with_own_epoch(self) -> ImageStream:
        """The same stream, whose epoch is set in this process alone: the workers of a DataLoader share the other's."""
        own = copy.copy(self)
        own.rows = self.rows.with_format(None)
        return own

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises InputError at the end if the whole stream held not one good image."""
        worker = get_worker_info()
        good = 0
        reader = f"reader {worker.id}" if worker else "reader 0"
        for number, row in enumerate(self._rows()):
            value = row.get(self.column)
            for stored in value if isinstance(value, list) else [value]:
                name = self._name(stored, f"row {number} of {reader}")
                try:
                    image = _open(stored, name, self.folder)
                except AddressError as error:
                    if not good:  # a column of addresses, not a stray one
                        raise InputError(f"{self.source}: {error}") from error
                    self.bad.add(name, str(error))
                    continue
                except InputError as error:
                    self.bad.add(name, str(error))
                    continue
                good += 1
                yield {"image": image} if self.label is None else {"image": image, "label": row[self.label]}
        # A worker or a process with a part of the stream cannot tell whether the others fare better.
        if not good and self._whole and (worker is None or worker.num_workers == 1):
            bad = self.bad.report()
            raise InputError(f"{self.source}: holds no good image" + (f" ({bad[1].strip()})" if bad else ""))

    def _rows(self) -> Iterator[dict[str, Any]]:
        rows = iter(self.rows)
        while True:
            # Unlike a tar's, the order of a broken table leaves nothing to go on with.
            with translated(f"{self.source}: cannot be read on", "fetch it again"):
                row = next(rows, None)
            if row is None:
                return
            yield row

    def _name(self, image: Any, place: str) -> str:
        """A name that stays the same from epoch to epoch, wherever there is one."""
        content, path = _content_and_path(image)
        if path and (os.path.isabs(path) or "://" in path):
            return path
        if content:
            # Tables often call all of their images alike, so the name alone does not tell them apart.
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()[:16]
            return f"{self.source}: {path or 'image'} with SHA-1 {digest}"
        return f"{self.source}: {path or place}"


def stream_of(
    rows: datasets.IterableDataset, column: str, source: str, given: Given, folder: Path | None = None
) -> ImageStream:
    """The stream of rows, in an order of its own if that is given; the arguments are those of `ImageStream`."""
    if given.shuffle_buffer:
        rows = rows.shuffle(seed=given.seed, buffer_size=given.shuffle_buffer)
    return ImageStream(rows, column, source, given.bad, folder=folder)


def _open(image: Any, name: str, folder: Path) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image, name=name)
    if not is_reference(image):
        raise InputError(f"{name}: holds no image; leave the row out")
    content, text = _content_and_path(image)
    # The address of a file in an archive, or on the hub; `open_reference` knows or refuses the others.
    if content is None and "://" in (text or "") and not re.match("(https?|file|data):", text or ""):
        with translated(f"{name}: cannot be fetched", "check the connection"), fsspec.open(text, "rb") as file:
            return open_image(file.read(), name=name)
    return open_reference(image, folder, name)


def _content_and_path(image: Any) -> tuple[bytes | None, str | None]:
    if isinstance(image, dict):
        return image.get("bytes"), image.get("path")
    return (image if isinstance(image, bytes) else None), (image if isinstance(image, str) else None)
