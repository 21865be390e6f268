"""Views of images: the crops, flips and sizes that teacher and student look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2
from transformers import TrainerCallback, TrainingArguments

from encoder import SparseFormerImageProcessor


class ImageCollator:
    """`{"image": PIL}` samples -> `{"pixel_values": (B, 3, H, W)}`, one view for student and teacher alike.

    Args:
        image_processor: the teacher's.
        student_size: side of the student's images in pixels; if it is not the teacher's, the batch also has
            "student_pixel_values", the same views at this size.
        crop_scale, flip: as in `BootstrapRecipe`. Which view it is depends on ``seed``, on the sample's "index" and,
            once the Trainer has `OfEachEpoch`, on the epoch: after a resumption it is the same.
        seed: of the views.
    """

    def __init__(
        self,
        image_processor: SparseFormerImageProcessor,
        student_size: int | None = None,
        crop_scale: float = 1.0,
        flip: bool = False,
        seed: int = 0,
    ):
        size = image_processor.output_size[0]
        student_size = student_size or size
        self.processors = {"pixel_values": image_processor}
        if student_size != size:
            self.processors["student_pixel_values"] = image_processor.resized(student_size)
        views: list[Any] = []
        if crop_scale < 1:
            resample, largest = v2.InterpolationMode.BICUBIC, max(size, student_size)
            views.append(v2.RandomResizedCrop(largest, scale=(crop_scale, 1.0), interpolation=resample))
        if flip:
            views.append(v2.RandomHorizontalFlip())
        self.view = v2.Compose(views) if views else None
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # with workers that outlast an epoch

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
        """A random view, of generators of its own: what the run's have come to says nothing of the sample."""
        assert self.view is not None
        seed = np.random.SeedSequence((self.seed, int(self.epoch), sample["index"])).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return self.view(sample["image"])


class OfEachEpoch(TrainerCallback):
    """Gives a `ImageCollator` other views of the same images in each epoch."""

    def __init__(self, collator: ImageCollator) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.collator.epoch.fill_(int(state.epoch or 0))
