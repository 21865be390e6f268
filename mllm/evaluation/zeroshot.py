"""Zero-shot classification with any open_clip model: its tokenizer, its text tower, its `visual`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data.scenes import (
    CLASS_NAMES,
    TEMPLATES,
    TEXT_NAMES,
    TEXT_TEMPLATES,
    SceneConfig,
    SceneTexts,
    ZeroShotScenes,
)


def zero_shot_accuracy(
    clip_model: Any,
    tokenizer: Callable[[list[str]], torch.Tensor],
    preprocess: Callable[[Image.Image], torch.Tensor],
    dataset: Dataset[dict[str, Any]],
    class_names: Sequence[str],
    templates: Sequence[str],
    device: str | torch.device = "cpu",
    batch_size: int = 64,
) -> float:
    """Share of pictures whose own class name is the nearest of all.

    Args:
        clip_model: open_clip model with `encode_image` and `encode_text`; left in evaluation mode.
        preprocess: picture -> (3, H, W).
        dataset: of `{"image": PIL, "label": index into class_names}`.
        templates: such as `"a picture of a {}."`; a class is the mean of their embeddings.

    Returns: accuracy in [0, 1].
    """
    clip_model.eval()

    def collate(samples: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = torch.stack([preprocess(sample["image"]) for sample in samples])
        return pictures, torch.tensor([sample["label"] for sample in samples])

    classifier = open_clip.build_zero_shot_classifier(
        clip_model, tokenizer, list(class_names), list(templates), device=device
    )  # (E, classes)
    correct = total = 0
    with torch.no_grad():
        for pictures, labels in DataLoader(dataset, batch_size=batch_size, collate_fn=collate):
            embeddings = clip_model.encode_image(pictures.to(device), normalize=True)  # (B, E)
            nearest = (embeddings @ classifier).argmax(dim=-1).cpu()
            correct += int((nearest == labels).sum())
            total += len(labels)
    if total == 0:
        raise ValueError("zero_shot_accuracy: the dataset is empty")
    return correct / total


def scene_accuracies(
    clip_model: Any,
    tokenizer: Callable[[list[str]], torch.Tensor],
    preprocess: Callable[[Image.Image], torch.Tensor],
    split: str,
    count: int,
    config: SceneConfig,
    device: str | torch.device = "cpu",
) -> tuple[float, float]:
    """`zero_shot_accuracy` on ``count`` scenes of one object (colour and shape), and on as many of one word or number.

    Args:
        split: of the scenes; config: their size and seed. The others as for `zero_shot_accuracy`.
    """
    score = partial(zero_shot_accuracy, clip_model, tokenizer, preprocess, device=device)
    return (
        score(ZeroShotScenes(split, count, config), CLASS_NAMES, TEMPLATES),
        score(SceneTexts(split, count, config), TEXT_NAMES, TEXT_TEMPLATES),
    )
