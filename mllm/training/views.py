"""Views of pictures: the crops, flips and sizes that teacher and student look at."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms import v2

from encoder import SparseFormerImageProcessor


class PictureCollator:
    """`{"image": PIL}` samples -> `{"pixel_values": (B, 3, H, W)}`, one view for student and teacher alike.

    Args:
        image_processor: the teacher's.
        student_size: side of the student's pictures in pixels; if it is not the teacher's, the batch also has
            "student_pixel_values", the same views at this size.
        crop_scale, flip: as in `BootstrapRecipe`.
    """

    def __init__(
        self,
        image_processor: SparseFormerImageProcessor,
        student_size: int | None = None,
        crop_scale: float = 1.0,
        flip: bool = False,
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

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pictures = [self.view(sample["image"]) if self.view else sample["image"] for sample in samples]
        batch = {
            name: processor(images=pictures, return_tensors="pt")["pixel_values"]
            for name, processor in self.processors.items()
        }
        if "index" in samples[0]:  # of a teacher's cache
            batch["index"] = torch.tensor([sample["index"] for sample in samples])
        return batch
