"""Zero-shot classification with any open_clip model: its tokenizer, its text tower, its `visual`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.classes import match_classes
from data.sources import LabeledImages
from encoder.evaluation.embedding import EmbeddedImages, Runtime, embed_images
from encoder.evaluation.ranking import fraction_within, right_ranks


def zero_shot_ranks(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    prepare: Callable[[Image.Image], Tensor],
    dataset: Dataset[Any],
    class_names: Sequence[str],
    templates: Sequence[str],
    runtime: Runtime,
    class_of: Callable[[Any], int] = int,
    title: str = "images",
) -> tuple[Tensor, EmbeddedImages]:
    """How many classes are nearer to each image than its own.

    Args:
        clip_model: open_clip model with `encode_image` and `encode_text`; left in evaluation mode.
        prepare: image -> (3, H, W).
        dataset: of `{"image": PIL, "label": index into class_names}`, as `embed_images` takes it.
        templates: such as `"a photo of a {}."`; a class is the mean of their embeddings.
        class_of: label -> index into class_names, if labels are something else.
        title: what the images are called in errors.

    Returns: (N,) int64, 0 where the own class is the nearest; the images' embeddings.

    Raises:
        InputError: there is no good image.
    """
    clip_model.eval()
    with runtime.precision():
        classifier = open_clip.build_zero_shot_classifier(
            clip_model, tokenizer, list(class_names), list(templates), device=runtime.device
        )  # (E, classes)
    images = embed_images(clip_model, prepare, dataset, runtime, lambda sample: class_of(sample["label"]), title)
    labels = torch.tensor(images.values)
    classes = torch.arange(len(class_names))
    return right_ranks(images.vectors, classifier.T.float().cpu(), labels, classes), images


def zero_shot_accuracy(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    prepare: Callable[[Image.Image], Tensor],
    labeled: LabeledImages,
    runtime: Runtime,
    title: str = "images",
) -> float:
    """Returns the top-1 accuracy in [0, 1] on images whose source knows its classes' names; see `zero_shot_ranks`.

    Raises:
        InputError: the source has no names of classes, or no good image.
    """
    classes = match_classes(None, labeled.class_names, labeled.numbered)
    ranks, _ = zero_shot_ranks(
        clip_model,
        tokenizer,
        prepare,
        labeled.dataset,
        classes.words,
        labeled.templates,
        runtime,
        classes.of,
        title,
    )
    return fraction_within(ranks, 1)
