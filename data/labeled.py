"""Images with class labels, for zero-shot classification: a class per folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from data.bad_samples import BadSamples, EachOnce
from data.classes import natural_order
from data.errors import InputError, shorten
from data.image_sources import JUNK_FOLDERS, ImageFolder
from data.sources import Given, LabeledImages, register_source

logger = logging.getLogger(__name__)

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


@register_source("labeled", "folder")
def _open_folder(address: str, given: Given) -> LabeledImages:
    folder = LabeledFolder(address, given.bad)
    return LabeledImages(EachOnce(folder), folder.classes, numbered=False)
