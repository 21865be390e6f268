"""Retrieval with any open_clip model: which caption goes with an image, and which image with a caption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.errors import InputError
from encoder.evaluation.embedding import EmbeddedImages, Runtime, embed_images, embed_texts
from encoder.evaluation.ranking import fraction_within, right_ranks


def recalls(texts: Tensor, images: Tensor) -> dict[str, float]:
    """R@1, 5 and 10 both ways, of the ranks that `retrieval_ranks` counts, such as "image_to_text_r5"."""
    ways = {"image_to_text": texts, "text_to_image": images}
    return {f"{way}_r{k}": fraction_within(ranks, k) for way, ranks in ways.items() for k in (1, 5, 10)}


def retrieval_ranks(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor] | None,
    prepare: Callable[[Image.Image], Tensor],
    dataset: Dataset[Any],
    runtime: Runtime,
    title: str = "images",
) -> tuple[Tensor, Tensor, EmbeddedImages]:
    """How many wrong captions are nearer to an image than its own ones, and how many wrong images to a caption.

    Args:
        clip_model: open_clip model with `encode_image` and `encode_text`; left in evaluation mode.
        prepare: image -> (3, H, W).
        dataset: of `{"image": PIL, "captions": [str, ...], "key"}`; those of equal keys are right for each other.
        title: what the images are called in errors.

    Returns: (images,) int64, (captions,) int64, the images' embeddings.

    Raises:
        InputError: there is no good image, or no text tower.
    """
    if tokenizer is None:
        raise InputError("--model: a SparseFormer without a text tower retrieves no captions; give a whole CLIP")
    clip_model.eval()
    images = embed_images(clip_model, prepare, dataset, runtime, dict, title)
    texts = [caption for sample in images.values for caption in sample["captions"]]
    numbers: dict[str, int] = {}
    keys = torch.tensor([numbers.setdefault(sample["key"], len(numbers)) for sample in images.values])
    of_texts = keys.repeat_interleave(torch.tensor([len(sample["captions"]) for sample in images.values]))
    vectors = embed_texts(clip_model, tokenizer, texts, runtime)
    return (
        right_ranks(images.vectors, vectors, keys, of_texts),
        right_ranks(vectors, images.vectors, of_texts, keys),
        images,
    )
