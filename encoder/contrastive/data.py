"""Captioned images in the order in which a run sees them, and as batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from data.bad_samples import BadSamples
from data.classes import match_classes
from data.errors import InputError
from data.sources import open_captioned, open_images, open_labeled
from encoder.contrastive.recipe import Source
from encoder.training.images import ImageCollator


class Captioned(Dataset[dict[str, Any] | None]):
    """A source as ``{"image": PIL, "captions": [str, ...], "key": str}``; images of equal keys are right for each
    other's captions. None stands for a bad image; images alone have one caption, of no words."""

    def __init__(self, source: Source, image_size: tuple[int, int], bad: BadSamples) -> None:
        self.names: Sequence[str] = ()
        self.templates: Sequence[str] = ()
        self.of: Callable[[Any], int] = int
        self.address = str(source.captioned or source.labeled or source.images)
        if source.labeled is not None:
            labeled = open_labeled(source.labeled, bad, image_size)
            classes = match_classes(None, labeled.class_names, labeled.numbered)
            self.names, self.of, self.templates = classes.words, classes.of, labeled.templates
            self.dataset: Any = labeled.dataset
        else:
            opened = open_captioned if source.captioned else open_images
            self.dataset = opened(self.address, bad=bad)
        if isinstance(self.dataset, IterableDataset):
            raise InputError(f"data: {self.address} is a stream; give files, a folder or a generated source")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        sample = self.dataset[index]
        if sample is None or "captions" in sample:
            return sample
        if "label" not in sample:
            return {"image": sample["image"], "captions": [""], "key": str(index)}
        name = self.names[self.of(sample["label"])]
        return {"image": sample["image"], "captions": [each.format(name) for each in self.templates], "key": name}


class Course(Dataset[dict[str, Any]]):
    """All samples of a run, to be taken in order: ``{"image", "caption", "key", "index"}``.

    Within a stage the sources come evenly, as often as their weights say. Each begins again when it is used up, if it
    is shuffled in another order. One of an image's captions is drawn.

    Args:
        stages: sources, each with its weight, and the number of samples of each stage.
        shuffle: each source.
        seed: of order and captions.
    """

    def __init__(
        self, stages: Sequence[tuple[Sequence[tuple[Captioned, float]], int]], shuffle: bool = True, seed: int = 0
    ) -> None:
        self.seed = seed
        self.sources: list[Captioned] = []
        places = []
        for sources, count in stages:
            shares = np.array([weight for _, weight in sources]) / sum(weight for _, weight in sources) * count
            counts = shares.astype(int)
            counts[np.argsort(counts - shares, kind="stable")[: count - counts.sum()]] += 1  # what rounding has left
            turns = np.concatenate([(np.arange(each) + 0.5) / each for each in counts if each])
            parts = []
            for number, ((source, _), each) in enumerate(zip(sources, counts, strict=True), start=len(self.sources)):
                rounds = range(-(-each // len(source)))
                orders = [np.random.default_rng((seed, number, r)).permutation(len(source)) for r in rounds if shuffle]
                indices = np.concatenate(orders) if orders else np.arange(each) % len(source)
                parts.append(np.stack([np.full(each, number), indices[:each]], axis=1))
            places.append(np.concatenate(parts)[np.argsort(turns, kind="stable")])
            self.sources += [source for source, _ in sources]
        self.places = np.concatenate(places)  # source, and index in it

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = map(int, self.places[index])
        source = self.sources[number]
        for step in range(len(source)):
            if (sample := source[(place + step) % len(source)]) is not None:
                captions = sample["captions"]
                drawn = int(np.random.default_rng((self.seed, index)).integers(len(captions)))
                return {**sample, "caption": captions[drawn], "index": index}
        raise InputError(f"data: {source.address}: not one image is good; see bad_samples.jsonl")


class CaptionCollator:
    """What `Course` hands out → "pixel_values", perhaps "student_pixel_values", "input_ids" (B, T), "keys" and "texts"
    (B,), which are equal where images belong together and where captions are the same."""

    def __init__(self, images: ImageCollator, tokenizer: Callable[[list[str]], torch.Tensor]) -> None:
        self.images = images
        self.tokenize = tokenizer  # a "tokenizer" the Trainer would save with every checkpoint

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.images(samples)
        del batch["index"]
        captions = [sample["caption"] for sample in samples]
        keys = torch.tensor([_number(sample["key"]) for sample in samples])
        texts = torch.tensor(list(map(_number, captions)))
        return {**batch, "input_ids": self.tokenize(captions), "keys": keys, "texts": texts}


def _number(words: str) -> int:
    """The same number for the same words, on every process."""
    return int.from_bytes(blake2b(words.encode(), digest_size=8).digest(), "big", signed=True)
