"""Images without labels, for bootstrapping: from a folder, shards, any `datasets` source, or generated."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.bad_samples import BadSamples, SkippingDataset
from data.errors import InputError
from data.images import open_image

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".j2k"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".ico"}
)
JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""What archives, network drives and systems leave beside the images of a folder."""

SOURCES = (
    "a folder, folder:PATH, webdataset:GLOB[?image=FIELD], datasets:NAME_OR_PATH[:SPLIT[:COLUMN]] "
    "or scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]"
)


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


def open_images(
    source: str | os.PathLike[str], *, bad: BadSamples | None = None, shuffle_buffer: int = 0, seed: int = 0
) -> Dataset[dict[str, Any]]:
    """Images as a torch dataset of ``{"image": PIL RGB}``.

    | source | what | dataset |
    |---|---|---|
    | ``PATH`` or ``folder:PATH`` | every image below a folder | map-style, `ImageFolder` |
    | ``scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]`` | generated, see `scenes_source` | map-style |
    | ``webdataset:GLOB[?image=FIELD]`` | tar shards: files or URLs, see `data.shards` | `data.streams.ImageStream` |
    | ``datasets:NAME_OR_PATH[:SPLIT[:COLUMN]]`` | local, or on the Hugging Face hub | `data.streams.ImageStream` |

    SPLIT is train or the only one by default, COLUMN the first that holds images; a hub NAME may be ``NAME@CONFIG``.
    Streams are read as they come, nothing is downloaded ahead. `data.streams.ImageStream` says how they are divided
    over processes and DataLoader workers. Bad images are skipped and recorded in the dataset's ``bad``.

    Args:
        source: see the table.
        bad: the record of bad images to use; by default a new one.
        shuffle_buffer: for streams, the number of (encoded) images to draw at random from, and shards in random
            order; 0 leaves the order. Map-style datasets are shuffled by their sampler.
        seed: of the stream's order; each epoch has an order of its own.

    Raises:
        InputError: for a source of another form, or one that is not there.
    """
    source = os.fspath(source)
    kind, _, rest = source.partition(":")
    if kind == "folder":
        return ImageFolder(rest, bad)
    if kind == "scenes":
        from data.synthetic import SceneImages, scenes_source

        return SceneImages(*scenes_source(source))
    if kind in ("webdataset", "datasets"):
        from data.image_tables import read_dataset
        from data.shards import read_shards
        from data.streams import ImageStream

        bad = bad or BadSamples()
        folder = None
        if kind == "webdataset":
            rows, column = read_shards(rest, bad)
        else:
            rows, column, folder = read_dataset(rest)
        if shuffle_buffer:
            rows = rows.shuffle(seed=seed, buffer_size=shuffle_buffer)
        return ImageStream(rows, column, source, bad, folder=folder)
    if os.path.isdir(source):
        return ImageFolder(source, bad)
    raise InputError(f"{source}: is no source of images; give {SOURCES}")


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
