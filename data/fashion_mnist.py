"""Fashion-MNIST (arXiv 1708.07747): 70,000 photos of clothes, 28 pixels wide, in ten classes, from a package."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from data.errors import InputError, translated
from data.materials import fetch
from data.sources import Given, LabeledImages, register_source

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_FILES = {"train": "train", "test": "t10k"}


class FashionMnist(Dataset[dict[str, Any]]):
    """``{"image": PIL RGB, "label": int}``, the first ``count`` images of a split; 0 for all."""

    def __init__(self, split: str, count: int = 0) -> None:
        folder = fetch("fashion-mnist") / "usr/share/datasets/fashion-mnist"
        parts = []
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            path = folder / f"{_FILES[split]}-{kind}-ubyte.gz"
            with translated(str(path), "fetch it again"):
                parts.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
        self.labels = parts[1][: count or None]
        self.pixels = parts[0].reshape(-1, 28, 28)[: len(self.labels)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": Image.fromarray(self.pixels[index]).convert("RGB"), "label": int(self.labels[index])}


@register_source("labeled", "fashion-mnist")
def _open(address: str, given: Given) -> LabeledImages:
    split, _, count = address.partition(":")
    if split not in _FILES or not (count or "0").isdecimal():
        raise InputError(f"fashion-mnist:{address}: write fashion-mnist:train[:COUNT] or fashion-mnist:test[:COUNT]")
    return LabeledImages(FashionMnist(split, int(count or 0)), CLASSES, ("a photo of a {}.",))
