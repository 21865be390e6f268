"""Images as they train: each with its index, and the crops, flips, colors and sizes at which they are seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, get_worker_info
from torchvision.transforms import v2

from data import BadSamples, InputError, open_images
from encoder.image_processing import SparseFormerImageProcessor
from encoder.training.epochs import shared_epoch


def open_sources(sources: list[str], bad: BadSamples) -> Dataset[Any]:
    """All sources as one data set."""
    parts = [open_images(source, bad=bad, shuffle_buffer=2000) for source in sources]
    if len(parts) == 1:
        if isinstance(parts[0], IterableDataset):  # workers, each with a part, could not tell that there is nothing
            next(iter(open_images(sources[0], bad=bad)))
        return parts[0]
    for source, part in zip(sources, parts, strict=True):
        if isinstance(part, IterableDataset):
            raise InputError(f"images: {source} is a stream, which cannot be mixed with others; give it alone")
    return ConcatDataset(parts)


class Indexed(Dataset[dict[str, Any]]):
    """A map-style dataset whose samples also tell their index."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "index": index}


class EndlessStream(IterableDataset[dict[str, Any]]):
    """A stream that goes on with its next epoch, whose samples also tell the place where they come in the run.

    The Trainer takes a stream of unknown length for one epoch of all steps. With this it is: no batch is cut short
    where an epoch ends, and a resumed run, which skips as many batches as were seen, is in the same place.
    """

    def __init__(self, stream: Any):  # a data.streams.ImageStream, whose file takes long to import
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        places = itertools.count(start, stride)
        stream = self.stream.with_own_epoch()
        for epoch in itertools.count():
            stream.set_epoch(epoch)
            empty = True
            for sample in stream:
                empty = False
                yield {**sample, "index": next(places)}
            if empty:  # more workers than files, or no good image
                return


class ImageCollator:
    """`{"image": PIL}` samples -> `{"pixel_values": (B, 3, H, W)}`, one view for student and teacher alike.

    Args:
        image_processor: the teacher's, or that of the only model.
        student_processor: that of the student, if it is another; the batch then also has "student_pixel_values", the
            same views prepared by it.
        more: others by the name that their images have in the batch, of the same views.
        crop_scale: random crops of at least this fraction of the area; 1: the processor's own view.
        flip: mirror half of the images.
        jitter: brightness, contrast and saturation are multiplied by random factors in 1 ± this.
        seed: of the views. Which one it is depends on it, on the sample's "index" and, once the Trainer has
            `OfEachEpoch`, on the epoch: after a resumption it is the same.
    """

    def __init__(
        self,
        image_processor: SparseFormerImageProcessor,
        student_processor: SparseFormerImageProcessor | None = None,
        crop_scale: float = 1.0,
        flip: bool = False,
        jitter: float = 0.0,
        seed: int = 0,
        more: Mapping[str, SparseFormerImageProcessor] | None = None,
    ):
        self.processors = {"pixel_values": image_processor, **(more or {})}
        if student_processor is not None:
            self.processors["student_pixel_values"] = student_processor
        views: list[Any] = []
        if crop_scale < 1:
            largest = max(max(processor.output_size) for processor in self.processors.values())
            resample = v2.InterpolationMode.BICUBIC
            views.append(v2.RandomResizedCrop(largest, scale=(crop_scale, 1.0), interpolation=resample))
        if flip:
            views.append(v2.RandomHorizontalFlip())
        if jitter:
            views.append(v2.ColorJitter(jitter, jitter, jitter))
        self.view = v2.Compose(views) if views else None
        self.seed = seed
        self.epoch = shared_epoch()

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [self._look(sample) if self.view else sample["image"] for sample in samples]
        batch = {
            name: processor(images=images, return_tensors="pt")["pixel_values"]
            for name, processor in self.processors.items()
        }
        if "index" in samples[0]:
            batch["index"] = torch.tensor([sample["index"] for sample in samples])
        return batch

    def _look(self, sample: dict[str, Any]) -> Any:
        assert self.view is not None
        with seeded(self.seed, int(self.epoch), sample["index"]):
            return self.view(sample["image"])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """A random view's generator of its own: what the run's has come to says nothing of the sample."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield
