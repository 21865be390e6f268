"""A teacher's representations on disk for the images of a recipe, whose views must be fixed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, IterableDataset
from transformers import TrainingArguments

from data import InputError
from data.image_sources import ImageFolder
from encoder.bootstrapping import EmbeddingCache, fingerprint
from encoder.teachers import Teacher


def open_cache(
    folder: str | Path, teacher: Teacher, sources: Sequence[str], images: Any, training: TrainingArguments
) -> EmbeddingCache:
    """The cache of this teacher's representations of these images, below ``folder``, which may hold others too.

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
    described = [_describe(source, part) for source, part in zip(sources, parts, strict=True)]
    key = fingerprint(teacher, precision, *described)
    return EmbeddingCache(Path(folder) / key, len(images), teacher.embed_dim)


def _describe(source: str, images: Any) -> str:
    """What differs if the images do: of a folder, the files with their sizes and times; else the recipe's line."""
    if not isinstance(images, ImageFolder):
        return source
    stats = [os.stat(file) for file in images.files]
    return "\n".join(
        f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(images.files, stats, strict=True)
    )
