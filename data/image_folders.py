"""Images of a folder, without labels or with a folder per class."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from data.bad_samples import BadSamples, EachOnce, SkippingDataset
from data.classes import natural_order
from data.errors import InputError, shorten
from data.images import open_image
from data.sources import Given, LabeledImages, register_source

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".j2k"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".ico"}
)
JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""What archives, network drives and systems leave beside the images of a folder."""
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"})


class ImageFolder(SkippingDataset):
    """Every image below a folder, at any depth, in the order of their paths: ``{"image": PIL RGB}``.

    Files are taken by extension (``IMAGE_EXTENSIONS``, in either case). Names that begin with a dot and
    ``JUNK_FOLDERS`` are left out. Links are followed, each real folder once. Bad images are replaced as
    `SkippingDataset` says.

    Raises:
        InputError: if there is no such folder, or no image in it.
    """

    def __init__(self, folder: str | os.PathLike[str], bad: BadSamples | None = None) -> None:
        super().__init__(bad)
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: there is no such folder of images; check the path")
        # Plain strings: a million Path objects would take most of a GiB.
        self.files, left = _images_below(str(self.folder))
        others = f"{left.total()} other files ({counted(left)})"
        if not self.files:
            raise InputError(
                f"{self.folder}: holds no image (*.jpg, *.png, ...){f', but {others}' if left else ''}; "
                "name the folder that does"
            )
        if left:
            logger.info("%s: %d images, and %s, which are left out", self.folder, len(self.files), others)

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> dict[str, Any]:
        return {"image": open_image(self.files[index])}

    def name(self, index: int) -> str:
        return self.files[index]


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


@register_source("images", "folder")
def _open_folder(address: str, given: Given) -> ImageFolder:
    return ImageFolder(address, given.bad)


@register_source("labeled", "folder")
def _open_labeled_folder(address: str, given: Given) -> LabeledImages:
    folder = LabeledFolder(address, given.bad)
    return LabeledImages(EachOnce(folder), folder.classes, numbered=False)


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


def counted(kinds: Counter[str]) -> str:
    """``12 .txt, 3 .heic``, and so on: the five most frequent kinds of files."""
    frequent = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:5]
    listed = [f"{count} {kind}" for kind, count in frequent]
    return ", ".join([*listed, "..."] if len(kinds) > 5 else listed)


def _images_below(folder: str) -> tuple[list[str], Counter[str]]:
    """The images, and how many files of which extension are none."""
    files: list[str] = []
    left: Counter[str] = Counter()
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in JUNK_FOLDERS)
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                left["hidden"] += 1
            elif extension in IMAGE_EXTENSIONS:
                files.append(os.path.join(parent, name))
            else:
                left[extension or "no extension"] += 1
    return sorted(files), left
