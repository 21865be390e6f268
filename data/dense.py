"""Images with a class for every pixel, or a box for every object: folders of ADE20K and Cityscapes, files of COCO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.bad_samples import BadSamples, SkippingDataset
from data.errors import InputError, translated
from data.files import read_json, read_text
from data.images import open_image
from data.limits import check_range
from data.sources import DenseImages, Given, register_source

IGNORE = 255
"""The value of pixels that do not count."""
_ADE_SPLITS = {"train": "training", "validation": "validation"}
# Cityscapes' 19 classes that count, and the numbers that its labelIds give them.
_CITYSCAPES = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19},
    **{"traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26},
    **{"truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
_CITYSCAPES_SPLITS = {"train": "train", "validation": "val"}


class MaskFiles(SkippingDataset[dict[str, Any]]):
    """Images and masks in files: ``{"image": PIL RGB, "mask": PIL L}``, `IGNORE` where pixels do not count.

    Args:
        pairs: an image's file, and its mask's. table: (256,), the class of each value that masks hold.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], table: np.ndarray, bad: BadSamples) -> None:
        super().__init__(bad)
        self.pairs, self.table = pairs, table.astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> dict[str, Any]:
        image, place = open_image(self.pairs[index][0]), self.pairs[index][1]
        with translated(str(place), "fetch it again"), Image.open(place) as opened:
            mask = np.asarray(opened)
        if mask.ndim != 2 or mask.shape != image.size[::-1]:
            raise InputError(f"{place}: is no mask of one number for each pixel of {self.pairs[index][0].name}")
        return {"image": image, "mask": Image.fromarray(self.table[np.minimum(mask, IGNORE)])}

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])


def _paired(folder: Path, images: Sequence[Path], mask_of: Callable[[Path], Path]) -> list[tuple[Path, Path]]:
    if not images:
        raise InputError(f"{folder}: holds no images in the place where this data set has them; check the path")
    pairs = [(image, mask_of(image)) for image in images]
    if missing := next((mask for _, mask in pairs if not mask.is_file()), None):
        raise InputError(f"{missing}: there is no such mask; fetch the annotations too")
    return pairs


def _split(address: str, scheme: str, splits: dict[str, str]) -> tuple[Path, str]:
    folder, _, split = address.rpartition(":")
    if not folder or split not in splits:
        raise InputError(f"{scheme}:{address}: write {scheme}:FOLDER:SPLIT with a split of {', '.join(splits)}")
    return Path(folder), splits[split]


@register_source("segmented", "ade20k")
def _open_ade20k(address: str, given: Given) -> DenseImages:
    """``FOLDER:SPLIT``: images/training, annotations/training, objectInfo150.txt; 0 does not count, classes from 1."""
    folder, split = _split(address, "ade20k", _ADE_SPLITS)
    rows = [line.split("\t") for line in read_text(folder / "objectInfo150.txt").splitlines()[1:] if line.strip()]
    names = [row[-1].split(",")[0].strip() for row in rows]
    images = sorted((folder / "images" / split).glob("*.jpg"))
    pairs = _paired(folder, images, lambda image: folder / "annotations" / split / f"{image.stem}.png")
    table = np.full(256, IGNORE)
    table[1 : len(names) + 1] = np.arange(len(names))
    return DenseImages(MaskFiles(pairs, table, given.bad), names)


@register_source("segmented", "cityscapes")
def _open_cityscapes(address: str, given: Given) -> DenseImages:
    """``FOLDER:SPLIT``: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png."""
    folder, split = _split(address, "cityscapes", _CITYSCAPES_SPLITS)
    images = sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))

    def mask_of(image: Path) -> Path:
        name = image.name.replace("_leftImg8bit", "_gtFine_labelIds")
        return folder / "gtFine" / split / image.parent.name / name

    table = np.full(256, IGNORE)
    table[list(_CITYSCAPES.values())] = np.arange(len(_CITYSCAPES))
    return DenseImages(MaskFiles(_paired(folder, images, mask_of), table, given.bad), list(_CITYSCAPES))


class CocoBoxes(SkippingDataset[dict[str, Any]]):
    """Images and boxes of a COCO file: ``{"image", "boxes": [x1, y1, x2, y2] in fractions of it, "labels"}``.

    Crowds are left out, and images without a box.
    """

    def __init__(self, file: Path, folder: Path, bad: BadSamples) -> None:
        super().__init__(bad)
        content = read_json(file)
        with translated(str(file), "give a file of COCO's instances"):
            categories = sorted(content["categories"], key=lambda category: category["id"])
            numbers = {category["id"]: number for number, category in enumerate(categories)}
            self.class_names = [category["name"] for category in categories]
            found: dict[int, list[tuple[list[float], int]]] = defaultdict(list)
            for row in content["annotations"]:
                if not row.get("iscrowd") and min(row["bbox"][2:]) > 0:
                    found[row["image_id"]].append((row["bbox"], numbers[row["category_id"]]))
            self.items = [
                (folder / image["file_name"], (image["width"], image["height"]), found[image["id"]])
                for image in content["images"]
                if found[image["id"]]
            ]
        if not self.items:
            raise InputError(f"{file}: holds no image with a box")

    def __len__(self) -> int:
        return len(self.items)

    def load(self, index: int) -> dict[str, Any]:
        path, (width, height), objects = self.items[index]
        boxes = [[x / width, y / height, (x + w) / width, (y + h) / height] for (x, y, w, h), _ in objects]
        return {"image": open_image(path), "boxes": boxes, "labels": [label for _, label in objects]}

    def name(self, index: int) -> str:
        return str(self.items[index][0])


@register_source("boxed", "coco")
def _open_coco(address: str, given: Given) -> DenseImages:
    """``FILE:IMAGES``: instances_*.json, and the folder of its images."""
    file, _, folder = address.rpartition(":")
    if not file or not Path(folder).is_dir():
        raise InputError(f"coco:{address}: write coco:FILE.json:FOLDER with the folder of its images")
    boxes = CocoBoxes(Path(file), Path(folder), given.bad)
    check_range(f"{file}: classes", len(boxes.class_names), 1, 10**5)
    return DenseImages(boxes, boxes.class_names)
