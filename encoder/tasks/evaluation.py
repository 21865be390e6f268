"""How good a model is at its task, by the benchmarks' rules; pictures of what it says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import draw_segmentation_masks, make_grid

from data.errors import InputError
from encoder.heads.segmentation import IGNORE
from encoder.image_processing import SparseFormerImageProcessor
from encoder.tasks.data import TaskCollator, TaskImages
from encoder.tasks.recipe import TaskRecipe


def metrics_of(task: str, classes: int) -> dict[str, Any]:
    """torchmetrics' metrics of a task. Raises InputError if they are not installed."""
    try:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
        from torchmetrics.detection import MeanAveragePrecision

        if task == "detection":
            return {"map": MeanAveragePrecision(box_format="xyxy", backend="pycocotools")}
    except ImportError as error:
        raise InputError("measuring a task needs an extra: pip install 'sparseformer-mllm[tasks]'") from error
    if task == "segmentation":
        return {"confusion": MulticlassConfusionMatrix(classes, ignore_index=IGNORE)}
    return {f"top_{k}": MulticlassAccuracy(classes, top_k=k, average="micro") for k in (1, 5) if k <= classes}


@torch.no_grad()
def measure(
    model: Any,
    processor: SparseFormerImageProcessor,
    recipe: TaskRecipe,
    images: TaskImages,
    device: torch.device,
    num_tokens: int | None = None,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Measures a model on all images of a source.

    Args:
        model: of the task.
        num_tokens: that it uses; None: its own number.
        pictures: a folder for those that the recipe wants.

    Returns: of classification "top_1" and "top_5"; of segmentation "miou", "pixel_accuracy", "iou" by class; of
        detection "map", "map_50", "map_75"; all in [0, 1]. "milliseconds" of an image in the model, "images".

    Raises:
        InputError: there is no good image.
    """
    metrics = {name: metric.to(device) for name, metric in metrics_of(recipe.task, len(images.names)).items()}
    model.to(device).eval()
    count, seconds = 0, 0.0
    for samples in DataLoader(
        images.dataset, batch_size=recipe.settings.get("per_device_eval_batch_size", 8), collate_fn=list
    ):
        good = [sample for sample in samples if sample is not None]
        if not good:
            continue
        begun = time.perf_counter()
        found = _predict(model, processor, recipe, images, good, device, num_tokens)
        for sample, prediction in zip(good, found, strict=True):
            _update(metrics, recipe.task, sample, prediction, images, device)
            if pictures is not None and count < recipe.pictures:
                pictures.mkdir(exist_ok=True)
                draw(sample, prediction.argmax(dim=0).cpu(), len(images.names)).save(pictures / f"{count}.png")
            count += 1
        seconds += time.perf_counter() - begun
    if not count:
        raise InputError(f"{images.source}: there is no good image; the source is empty, or all of its images are bad")
    return {**_figures(metrics, images.names), "milliseconds": 1000 * seconds / count, "images": count}


def _predict(
    model: Any,
    processor: SparseFormerImageProcessor,
    recipe: TaskRecipe,
    images: TaskImages,
    samples: list[dict[str, Any]],
    device: torch.device,
    num_tokens: int | None,
) -> Iterator[Any]:
    """Of each image its logits (K,), or (K, H, W) at its own size, or its objects."""
    sizes = [sample["image"].size[::-1] for sample in samples]
    if recipe.stride is not None:
        for sample in samples:
            yield _in_windows(model, processor, sample["image"], recipe.stride, device, num_tokens)
        return
    pixels = TaskCollator(recipe.task, processor, images.class_of)(samples)["pixel_values"].to(device)
    outputs = model(pixels, num_tokens=num_tokens)
    if recipe.task == "classification":
        yield from outputs.logits
    elif recipe.task == "segmentation":
        for logits, size in zip(outputs.logits, sizes, strict=True):
            yield F.interpolate(logits[None].float(), size, mode="bilinear")[0]
    else:
        yield from processor.post_process_object_detection(outputs, 0.0, torch.tensor(sizes))


def _in_windows(
    model: Any,
    processor: SparseFormerImageProcessor,
    image: Image.Image,
    stride: int,
    device: torch.device,
    num_tokens: int | None,
) -> Tensor:
    """Mean logits (K, H, W) of windows that overlap; the image's shorter side is a window's for this."""
    side = processor.output_size[0]
    scale = side / min(image.size)
    resized = image.resize([max(side, round(scale * each)) for each in image.size], Image.Resampling.BICUBIC)
    pixels = processor(images=resized, do_resize=False, return_tensors="pt")["pixel_values"].to(device)
    height, width = pixels.shape[-2:]
    total: Any = 0.0
    times = torch.zeros(height, width, device=device)
    for top in _starts(height, side, stride):
        for left in _starts(width, side, stride):
            window = pixels[..., top : top + side, left : left + side]
            logits = F.interpolate(model(window, num_tokens=num_tokens).logits.float(), (side, side), mode="bilinear")
            total = total + F.pad(logits, (left, width - left - side, top, height - top - side))
            times[top : top + side, left : left + side] += 1
    return F.interpolate(total / times, image.size[::-1], mode="bilinear")[0]


def _starts(length: int, side: int, stride: int) -> list[int]:
    return [*range(0, length - side, stride), length - side]


def _update(
    metrics: dict[str, Any], task: str, sample: dict[str, Any], found: Any, images: TaskImages, device: torch.device
) -> None:
    if task == "classification":
        label = torch.tensor([images.class_of(sample["label"])], device=device)
        for metric in metrics.values():
            metric.update(found[None], label)
    elif task == "segmentation":
        mask = pil_to_tensor(sample["mask"])[0].long().to(device)
        metrics["confusion"].update(found.argmax(dim=0)[None], mask[None])
    else:
        width, height = sample["image"].size
        boxes = torch.tensor(sample["boxes"], device=device).reshape(-1, 4)
        labels = torch.tensor(sample["labels"], dtype=torch.int64, device=device)
        truth = {"boxes": boxes * boxes.new_tensor([width, height, width, height]), "labels": labels}
        metrics["map"].update([found], [truth])


def _figures(metrics: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if "map" in metrics:
        found = metrics["map"].compute()
        return {name: max(0.0, float(found[name])) for name in ("map", "map_50", "map_75")}
    if "confusion" not in metrics:
        return {name: float(metric.compute()) for name, metric in metrics.items()}
    matrix = metrics["confusion"].compute().double()
    right = matrix.diag()
    union = matrix.sum(dim=0) + matrix.sum(dim=1) - right
    iou = right / union  # NaN of a class that is neither there nor predicted: it does not count
    by_class = {name: float(each) for name, each in zip(names, iou, strict=True) if not each.isnan()}
    return {"miou": float(iou.nanmean()), "pixel_accuracy": float(right.sum() / matrix.sum()), "iou": by_class}


def draw(sample: dict[str, Any], predicted: Tensor, classes: int) -> Image.Image:
    """An image, its ground truth and what was predicted, (H, W), side by side."""
    pixels = pil_to_tensor(sample["image"])
    masks = [pil_to_tensor(sample["mask"])[0].long(), predicted]
    drawn = [draw_segmentation_masks(pixels, mask == torch.arange(classes)[:, None, None], alpha=0.7) for mask in masks]
    grid = make_grid(torch.stack([pixels, *drawn]), nrow=3, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())
