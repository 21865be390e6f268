"""Retrieval with any open_clip model: which caption goes with a picture, and which picture with a caption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from encoder.evaluation.embedding import EmbeddedPictures, Runtime, embed_pictures, embed_texts
from encoder.evaluation.ranking import right_ranks


def retrieval_ranks(
    clip_model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    prepare: Callable[[Image.Image], Tensor],
    dataset: Dataset[Any],
    runtime: Runtime,
    title: str = "pictures",
) -> tuple[Tensor, Tensor, EmbeddedPictures]:
    """How many wrong captions are nearer to a picture than its own ones, and how many wrong pictures to a caption.

    Args:
        clip_model: open_clip model with `encode_image` and `encode_text`; left in evaluation mode.
        prepare: picture -> (3, H, W).
        dataset: of `{"image": PIL, "captions": [str, ...], "key"}`; those of equal keys are right for each other.
        title: what the pictures are called in errors.

    Returns: (pictures,) int64, (captions,) int64, the pictures' embeddings.

    Raises:
        InputError: there is no good picture.
    """
    clip_model.eval()
    pictures = embed_pictures(clip_model, prepare, dataset, runtime, dict, title)
    texts = [caption for sample in pictures.values for caption in sample["captions"]]
    numbers: dict[str, int] = {}
    keys = torch.tensor([numbers.setdefault(sample["key"], len(numbers)) for sample in pictures.values])
    of_texts = keys.repeat_interleave(torch.tensor([len(sample["captions"]) for sample in pictures.values]))
    vectors = embed_texts(clip_model, tokenizer, texts, runtime)
    return (
        right_ranks(pictures.vectors, vectors, keys, of_texts),
        right_ranks(vectors, pictures.vectors, of_texts, keys),
        pictures,
    )
