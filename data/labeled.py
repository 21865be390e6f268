"""Images with class labels, for zero-shot classification: a class per folder, any `datasets` source, or generated."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.bad_samples import BadSamples, EachOnce
from data.classes import natural_order
from data.errors import InputError, shorten
from data.image_sources import JUNK_FOLDERS, ImageFolder

logger = logging.getLogger(__name__)

LABELED_SOURCES = (
    "a folder with a folder per class, datasets:NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]], "
    "scenes:SPLIT:COUNT[:SIZE] (objects) or texts:SPLIT:COUNT[:SIZE] (words and numbers)"
)

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"})


class LabeledFolder(ImageFolder):
    """The images below a folder with a folder per class: ``{"image": PIL RGB, "label": index into classes}``.

    As torchvision's ``ImageFolder``: ``classes`` are the names of its folders, sorted, but numbers in them by their
    value; one without images counts.

    Raises:
        InputError: no such folder, no image, one that lies in no class's folder, or folders of splits or of one
            data set in place of those of classes.
    """

    def __init__(self, folder: str | os.PathLike[str], bad: BadSamples | None = None) -> None:
        super().__init__(folder, bad)
        names = (entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        self.classes = sorted(
            (name for name in names if not name.startswith(".") and name not in JUNK_FOLDERS), key=natural_order
        )
        numbers = {name: number for number, name in enumerate(self.classes)}
        parts = [os.path.relpath(file, self.folder).split(os.sep) for file in self.files]
        for file, path in zip(self.files, parts, strict=True):
            if len(path) == 1:
                raise InputError(f"{file}: lies in no class's folder; give a folder with a folder of images per class")
        _check_depth(self.folder, parts)
        self.labels = [numbers[path[0]] for path in parts]
        filled = {path[0] for path in parts}
        if empty := [name for name in self.classes if name not in filled]:
            found = f"{len(empty)} of {len(self.classes)} folders of classes hold no image"
            logger.warning("%s: %s: %s", folder, found, shorten(", ".join(empty), 100))

    def load(self, index: int) -> dict[str, Any]:
        return {**super().load(index), "label": self.labels[index]}


def _check_depth(folder: Path, parts: list[list[str]]) -> None:
    """Raise InputError if the folders of classes lie one level deeper: in folders of splits, or all in one folder."""
    tops = {path[0] for path in parts}
    depths = list(map(len, parts))
    splits = max(depths) > 2 and {top.casefold() for top in tops} <= _SPLITS
    if splits or (min(depths) > 2 and len(tops) == 1 < len({path[1] for path in parts})):
        inner = folder / min(tops)
        raise InputError(
            f"{folder}: {', '.join(sorted(tops))} are no classes but hold their folders; name e.g. {inner}"
        )


def open_labeled(
    source: str | os.PathLike[str], bad: BadSamples | None = None
) -> tuple[Dataset[Any], list[str] | None]:
    """Labeled images as a torch dataset of ``{"image": PIL RGB, "label": int or str}``, and the classes' names.

    Each image comes once; a bad one is recorded, and None in a map-style dataset, left out of a stream. Labels count
    the names; these are None for a column of bare numbers or of words.

    Args:
        source: one of ``LABELED_SOURCES``.
        bad: the record of bad images to use; by default a new one.

    Raises:
        InputError: for a source of another form, or one that is not there.
    """
    source = os.fspath(source)
    kind, _, rest = source.partition(":")
    bad = bad or BadSamples()
    if kind in ("scenes", "texts"):
        from data.synthetic import CLASS_NAMES, TEXT_NAMES, SceneTexts, ZeroShotScenes, scenes_source

        if source.count(":") > 3:
            raise InputError(f"{source}: shows one thing an image; give {kind}:SPLIT:COUNT[:SIZE]")
        split, count, config = scenes_source(source)
        if kind == "scenes":
            return ZeroShotScenes(split, count, config), list(CLASS_NAMES)
        return SceneTexts(split, count, config), list(TEXT_NAMES)
    if kind == "datasets":
        from data.image_tables import read_labeled_dataset
        from data.streams import ImageStream

        rows, column, label, names, place = read_labeled_dataset(rest)
        return ImageStream(rows, column, source, bad, label, place), names
    path = rest if kind == "folder" else source
    if kind != "folder" and not os.path.isdir(path):
        raise InputError(f"{source}: is no source of labeled images; give {LABELED_SOURCES}")
    folder = LabeledFolder(path, bad)
    return EachOnce(folder), folder.classes


def is_numbered(source: str) -> bool:
    """Whether a source of `open_labeled` numbers its classes itself; the order of folders is only how they sort."""
    return source.partition(":")[0] in ("datasets", "scenes", "texts")
