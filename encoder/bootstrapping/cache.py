"""A teacher's embeddings on disk, for images that it would see again in the very same view.

Two files that every process maps into memory: the rows, and a checksum of each. A row counts if its checksum fits, so
one that was cut off, or written by two processes at once, is no row: it is made again. Neither locks nor an order of
writing are needed. On a network file system each machine had better have a cache of its own.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset
from transformers import TrainingArguments

from data.errors import InputError
from encoder.evaluation.probing import describe_images, fingerprint
from encoder.teachers import Teacher


class EmbeddingCache:
    """Embeddings (E,) in float32 by the index of their image.

    Args:
        folder: made if it does not exist. What is in it must be of the same teacher, images and views; see
            `encoder.evaluation.probing.fingerprint`.
        count: number of images.
        width: E.
    """

    def __init__(self, folder: Path, count: int, width: int):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = _map(self.folder / "embeddings.f32", (count, width), np.float32)
        self.sums = _map(self.folder / "checksums.u32", (count,), np.uint32)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows (B, E), and which of them are known, (B,) bool; the others are whatever lies there."""
        rows, sums = np.asarray(self.rows[indices]), self.sums[indices]
        known = [_checksum(row) == int(expected) for row, expected in zip(rows, sums, strict=True)]
        return torch.from_numpy(rows), torch.tensor(known)

    def write(self, indices: Sequence[int], rows: Tensor) -> None:
        """Keep rows (B, E)."""
        values = rows.detach().to("cpu", torch.float32).numpy()
        self.rows[indices] = values
        self.sums[indices] = [_checksum(row) for row in values]


def open_cache(
    folder: str | Path, teacher: Teacher, sources: Sequence[str], images: Any, training: TrainingArguments
) -> EmbeddingCache:
    """The cache of this teacher's embeddings of these images, below ``folder``, which may hold others too.

    Args:
        sources, images: as the recipe names them, and opened.
        training: how exactly the teacher computes.

    Raises:
        InputError: the images come as a stream, which does not tell which they are.
    """
    if isinstance(images, IterableDataset):
        raise InputError(f"teacher_cache: {sources[0]} is a stream, whose images have no index; leave it out")
    precision = f"bf16={training.bf16} fp16={training.fp16}"
    parts = images.datasets if isinstance(images, ConcatDataset) else [images]
    described = [describe_images(source, part) for source, part in zip(sources, parts, strict=True)]
    key = fingerprint(teacher.tower, teacher.image_processor, precision, *described)
    return EmbeddingCache(Path(folder) / key, len(images), teacher.embed_dim)


class CachedTeacher:
    """A teacher that looks at an image once.

    Args:
        teacher: on the device of its images.
        cache: of its embeddings.
    """

    # Neither bfloat16 nor another batch makes so great a relative difference; other images and weights do.
    TOLERANCE = 0.05

    def __init__(self, teacher: Teacher, cache: EmbeddingCache):
        self.teacher, self.cache = teacher, cache
        self.checked = False

    def __call__(self, pixel_values: Tensor, indices: Sequence[int]) -> Tensor:
        """Images (B, 3, H, W) and their indices -> (B, E).

        Raises:
            InputError: the first rows found are not what the teacher makes of these images.
        """
        rows, known = self.cache.read(indices)
        if known.any() and not self.checked:
            theirs = self.teacher(pixel_values[known.to(pixel_values.device)]).float().cpu()
            if (rows[known] - theirs).norm() > self.TOLERANCE * theirs.norm():
                raise InputError(f"teacher_cache: {self.cache.folder} holds embeddings of other images; delete it")
            self.checked = True
        if not known.all():
            # All of the batch: another size could round otherwise than in a run that was not interrupted here.
            rows = self.teacher(pixel_values).float().cpu()
            unknown = [index for index, found in zip(indices, known.tolist(), strict=True) if not found]
            self.cache.write(unknown, rows[~known])
        return rows.to(pixel_values.device)


def _checksum(row: np.ndarray) -> int:
    """CRC-32 of a row, but never 0, which a file holds where nothing was written."""
    return zlib.crc32(row.tobytes()) or 1


def _map(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap:
    """A file of this shape, zeros where it is new. Any number of processes may do so at once."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(file, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    finally:
        os.close(file)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
