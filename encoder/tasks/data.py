"""What a task trains and is measured on: samples, and batches of their views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms import v2

from data.bad_samples import BadSamples
from data.classes import match_classes
from data.errors import InputError
from data.sources import open_boxed, open_labeled, open_segmented
from encoder.image_processing import SparseFormerImageProcessor
from encoder.tasks.recipe import TaskRecipe
from encoder.training.epochs import shared_epoch
from encoder.training.images import EndlessStream, seeded


class Samples(Dataset[dict[str, Any]]):
    """A map-style dataset whose samples tell their index, and the next good one in place of a bad one (None)."""

    def __init__(self, dataset: Any, source: str) -> None:
        self.dataset, self.source = dataset, source

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for step in range(len(self.dataset)):
            if (sample := self.dataset[(index + step) % len(self.dataset)]) is not None:
                return {**sample, "index": index}
        raise InputError(f"{self.source}: not one image is good; see bad_samples.jsonl")


class TaskImages:
    """The images of a source, and their classes.

    Attributes:
        dataset: as the source has it.
        names: of the classes.
        class_of: label -> class.
    """

    def __init__(self, recipe: TaskRecipe, source: str, bad: BadSamples, size: tuple[int, int]) -> None:
        self.source = source
        self.class_of: Callable[[Any], int] = int
        if recipe.task != "classification":
            opened = (open_segmented if recipe.task == "segmentation" else open_boxed)(source, bad)
            self.dataset: Any = opened.dataset
            self.names = list(opened.class_names)
            return
        labeled = open_labeled(source, bad, size)
        self.dataset = labeled.dataset
        if labeled.class_names is None:
            if recipe.num_classes is None:
                raise InputError(f"{source}: knows no names of its classes; say how many there are: num_classes")
            self.names = [f"class {number}" for number in range(recipe.num_classes)]
        else:
            classes = match_classes(None, labeled.class_names, labeled.numbered)
            self.names, self.class_of = list(classes.words), classes.of

    def to_train(self, seed: int) -> Any:
        """Samples with an index; a stream's in an order of its own, without an end."""
        if not isinstance(self.dataset, IterableDataset):
            return Samples(self.dataset, self.source)
        stream: Any = self.dataset
        stream.rows = stream.rows.shuffle(seed=seed, buffer_size=2000)
        return EndlessStream(stream)


class TaskCollator:
    """Samples -> ``{"pixel_values": (B, 3, H, W), "labels"}``, as the task's model takes them.

    Args:
        task: of the recipe.
        processor: of the model; views are of the size that it gives.
        class_of: label -> class.
        recipe: for views to train on, drawn by the sample's index and the epoch; None: what the processor makes.
        seed: of the views.
    """

    def __init__(
        self,
        task: str,
        processor: SparseFormerImageProcessor,
        class_of: Callable[[Any], int],
        recipe: TaskRecipe | None = None,
        seed: int = 0,
    ) -> None:
        self.task, self.processor, self.class_of, self.seed = task, processor, class_of, seed
        self.epoch = shared_epoch()
        self.given: dict[str, Any] = {}
        views: list[Any] = []
        if recipe is not None:
            views += [v2.RandomHorizontalFlip()] if recipe.flip else []
            views += [v2.ColorJitter(recipe.jitter, recipe.jitter, recipe.jitter)] if recipe.jitter else []
        size, resample = processor.output_size, v2.InterpolationMode.BICUBIC
        if recipe is not None and recipe.crop_scale < 1:
            views.insert(0, v2.RandomResizedCrop(size, scale=(recipe.crop_scale, 1.0), interpolation=resample))
        elif task != "classification":
            views.insert(0, v2.Resize(size, interpolation=resample))
        if task == "detection":
            views.append(v2.SanitizeBoundingBoxes())
        if task != "classification" or (recipe is not None and recipe.crop_scale < 1):
            self.given = {"do_resize": False, "do_center_crop": False}
        self.view = v2.Compose(views) if views else None
        self.random = recipe is not None

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        seen = [self._look(sample) for sample in samples if sample is not None]
        images = [sample["image"] for sample in seen]
        batch: dict[str, Any] = {
            "pixel_values": self.processor(images=images, return_tensors="pt", **self.given)["pixel_values"]
        }
        if self.task == "classification":
            batch["labels"] = torch.tensor([self.class_of(sample["label"]) for sample in seen])
        elif self.task == "segmentation":
            batch["labels"] = torch.stack([sample["mask"].long()[0] for sample in seen])
        else:
            batch["labels"] = [_fractions(sample["boxes"], sample["labels"]) for sample in seen]
        return batch

    def _look(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.task == "segmentation":
            sample = {**sample, "mask": tv_tensors.Mask(v2.functional.pil_to_tensor(sample["mask"]))}
        elif self.task == "detection":
            width, height = sample["image"].size
            boxes = torch.tensor(sample["boxes"]).reshape(-1, 4) * torch.tensor([width, height, width, height])
            wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
            sample = {**sample, "boxes": wrapped, "labels": torch.tensor(sample["labels"], dtype=torch.int64)}
        if self.view is None:
            return sample
        kept = {key: sample[key] for key in ("image", "mask", "boxes", "labels") if key in sample}
        with seeded(self.seed, int(self.epoch), sample["index"] if self.random else 0):
            return {**sample, **self.view(kept)}


def _fractions(boxes: Any, labels: Tensor) -> dict[str, Tensor]:
    """As DETR has the objects of an image."""
    height, width = boxes.canvas_size
    fractions = boxes.as_subclass(Tensor) / torch.tensor([width, height, width, height])
    return {"class_labels": labels.as_subclass(Tensor), "boxes": box_convert(fractions.clamp(0, 1), "xyxy", "cxcywh")}
