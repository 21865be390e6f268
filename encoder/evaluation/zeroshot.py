"""Zero-shot classification with any open_clip model; its classes and templates, from files or of ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.classes import ClassTable, match_classes, read_class_table, read_lines
from data.errors import InputError
from data.sources import LabeledImages
from encoder.evaluation.embedding import EmbeddedImages, Runtime, embed_images
from encoder.evaluation.ranking import fraction_within, right_ranks

IMAGENET = "imagenet"


def read_classes(name: str | None) -> ClassTable | None:
    """The classes of a file, see `read_class_table`; those of ImageNet; or None for None. Raises InputError."""
    if name is None:
        return None
    return ClassTable(name, [list(open_clip.IMAGENET_CLASSNAMES)]) if name == IMAGENET else read_class_table(name)


def read_templates(name: str | None, classes: str | None, own: Sequence[str]) -> list[str]:
    """The templates of a file, one a line with {} for the class; open_clip's 80 for ImageNet; or the images' own.

    Args:
        name: a file, "imagenet", or None for what goes with the other two.
        classes: what `read_classes` was given.
        own: what the images' source has, see `data.sources.LabeledImages`.

    Raises:
        InputError: the file cannot be read, is empty, or a template has not one {}, or other braces.
    """
    if name is None:
        if classes != IMAGENET:
            return list(own)
        name = IMAGENET
    if name == IMAGENET:
        return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    templates = read_lines(name, "template")
    for template in templates:
        if [template.count(part) for part in ("{}", "{", "}")] != [1, 1, 1]:
            raise InputError(f"{name}: the template {template!r} must have {{}} for the class, and no other braces")
    return templates


def zero_shot_ranks(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor] | None,
    prepare: Callable[[Image.Image], Tensor],
    dataset: Dataset[Any],
    class_names: Sequence[str],
    templates: Sequence[str],
    runtime: Runtime,
    class_of: Callable[[Any], int] = int,
    title: str = "images",
    classifier: Tensor | None = None,
) -> tuple[Tensor, EmbeddedImages]:
    """How many classes are nearer to each image than its own.

    Args:
        clip_model: open_clip model with `encode_image` and `encode_text`; left in evaluation mode.
        tokenizer: None of a classifier, which has but `encode_image`, with a value for each class in their order.
        prepare: image -> (3, H, W).
        dataset: of `{"image": PIL, "label": index into class_names}`, as `embed_images` takes it.
        templates: such as `"a photo of a {}."`; a class is the mean of their embeddings.
        class_of: label -> index into class_names, if labels are something else.
        title: what the images are called in errors.
        classifier: (E, classes), what `class_vectors` made of the same text tower before; None: it is made.

    Returns: (N,) int64, 0 where the own class is the nearest; the images' embeddings.

    Raises:
        InputError: there is no good image; a classifier of other classes.
    """
    clip_model.eval()
    if classifier is None and tokenizer is None:
        classifier = torch.eye(clip_model.visual.output_dim)
        if len(classifier) != len(class_names):
            raise InputError(
                f"--model: has no text tower and tells {len(classifier)} classes apart, and there are "
                f"{len(class_names)}; give a whole CLIP, or a classifier of these"
            )
    elif classifier is None:
        assert tokenizer is not None
        classifier = class_vectors(clip_model, tokenizer, class_names, templates, runtime)
    images = embed_images(clip_model, prepare, dataset, runtime, lambda sample: class_of(sample["label"]), title)
    labels = torch.tensor(images.values)
    classes = torch.arange(len(class_names))
    return right_ranks(images.vectors, classifier.T.float().cpu(), labels, classes), images


def class_vectors(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    runtime: Runtime,
) -> Tensor:
    """Returns the classes' unit vectors (E, classes), each the mean over the templates."""
    with runtime.precision():
        vectors: Tensor = open_clip.build_zero_shot_classifier(
            clip_model, tokenizer, list(class_names), list(templates), device=runtime.device
        )
    return vectors


def zero_shot_accuracy(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    prepare: Callable[[Image.Image], Tensor],
    labeled: LabeledImages,
    runtime: Runtime,
    title: str = "images",
    classifier: Tensor | None = None,
) -> dict[str, float]:
    """Returns the accuracies "top_1" and "top_5" in [0, 1] on images whose source knows its classes' names.

    See `zero_shot_ranks`.

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
        classifier,
    )
    return {f"top_{k}": fraction_within(ranks, k) for k in (1, 5)}
