"""A teacher's representations on disk for the pictures of a recipe, whose views must be fixed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, IterableDataset
from transformers import TrainingArguments

from data import InputError
from data.image_sources import PictureFolder
from encoder.bootstrapping import RepresentationCache, fingerprint
from encoder.teachers import Teacher


def open_cache(
    folder: str | Path, teacher: Teacher, sources: Sequence[str], pictures: Any, training: TrainingArguments
) -> RepresentationCache:
    """The cache of this teacher's representations of these pictures, below ``folder``, which may hold others too.

    Args:
        sources, pictures: as the recipe names them, and opened.
        training: how exactly the teacher computes.

    Raises:
        InputError: the pictures come as a stream, which does not tell which they are.
    """
    if isinstance(pictures, IterableDataset):
        raise InputError(f"teacher_cache: {sources[0]} is a stream, whose pictures have no index; leave it out")
    precision = f"bf16={training.bf16} fp16={training.fp16}"
    parts = pictures.datasets if isinstance(pictures, ConcatDataset) else [pictures]
    described = [_describe(source, part) for source, part in zip(sources, parts, strict=True)]
    key = fingerprint(teacher, precision, *described)
    return RepresentationCache(Path(folder) / key, len(pictures), teacher.embed_dim)


def _describe(source: str, pictures: Any) -> str:
    """What differs if the pictures do: of a folder, the files with their sizes and times; else the recipe's line."""
    if not isinstance(pictures, PictureFolder):
        return source
    stats = [os.stat(file) for file in pictures.files]
    return "\n".join(
        f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(pictures.files, stats, strict=True)
    )
