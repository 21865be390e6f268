"""The images on which a new projector is started: for whitening, and with names for a regression onto their words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.utils.data import IterableDataset

from data.bad_samples import BadSamples
from data.errors import InputError
from data.limits import MAX_SAMPLES, check_range
from data.sources import MixedConversations, open_captioned, open_labeled


@dataclass
class RidgeRecipe:
    """A regression from images of one thing each to the words of its name, with which the projector starts."""

    labeled: str | None = None  # images with the names of their classes: data.open_labeled
    captioned: str | None = None  # or with captions, of which the first counts: data.open_captioned
    images: int = 1000  # how many of them

    def __post_init__(self) -> None:
        check_range("ridge: images", self.images, 1, MAX_SAMPLES)
        if self.labeled is not None and self.captioned is not None:
            raise InputError("ridge: give one of labeled and captioned")
        if self.labeled is None and self.captioned is None and self.images != RidgeRecipe.images:
            raise InputError("ridge: give labeled or captioned, a source of images")


def images_for_whitening(data: MixedConversations, count: int) -> list[Image.Image]:
    """The first so many images of the data.

    Raises:
        InputError: the data has none.
    """
    images: list[Image.Image] = []
    if count:
        for index in range(len(data)):
            images += data[index].get("images", ())
            if len(images) >= count:
                break
        if not images:
            raise InputError("whitening: the data has no images to measure features on; set it to 0")
    return images[:count]


def named_images(
    recipe: RidgeRecipe, image_size: tuple[int, int], bad: BadSamples
) -> Iterator[tuple[Image.Image, str]]:
    """Yields images of a source and what each is called: a stream's first, of others the same random ones each time.

    Raises:
        InputError: a source that cannot be opened, or whose labels are numbers without names.
    """
    dataset: Any
    if recipe.labeled is None:
        classes, dataset = None, open_captioned(str(recipe.captioned), bad=bad)
    else:
        labeled = open_labeled(recipe.labeled, bad, image_size)
        classes, dataset = labeled.class_names, labeled.dataset

    def name(sample: dict[str, Any]) -> str:
        label = sample["captions"][0] if recipe.labeled is None else sample["label"]
        if isinstance(label, str):
            return label
        if classes is None:
            raise InputError(f"ridge: {recipe.labeled}: its labels are numbers without names; take another source")
        return classes[label].replace("_", " ")

    samples = dataset
    if not isinstance(dataset, IterableDataset):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
        samples = (dataset[index] for index in order)
    good = (sample for sample in samples if sample is not None)
    yield from ((sample["image"], name(sample)) for sample in itertools.islice(good, recipe.images))
