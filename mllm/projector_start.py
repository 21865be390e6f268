"""A projector's first values, as measured on images: whitening, and a regression onto the words for what they show."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from data import InputError
from encoder.image_processing import trimmed
from mllm.modeling import MLLMForConditionalGeneration
from projector import Projector

logger = logging.getLogger(__name__)

_BATCH = 64  # images


def _encoded(
    model: MLLMForConditionalGeneration, image_processor: BaseImageProcessor, images: Sequence[Image.Image]
) -> tuple[Tensor, Tensor | None]:
    """The projector's inputs, (P, N, D) and (P, N, 4)."""
    pixels = image_processor(trimmed(images, image_processor), return_tensors="pt")["pixel_values"]
    return model.model.encode(pixels)[1:]


@torch.no_grad()
def fit_whitening(
    model: MLLMForConditionalGeneration, image_processor: BaseImageProcessor, images: Sequence[Image.Image]
) -> None:
    """Measures the encoder's features on images and sets the projector's whitening by them.

    Raises:
        InputError: too few images, or all alike.
    """
    whitening = model.model.multi_modal_projector.whitening
    assert whitening is not None
    batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    features = [_encoded(model, image_processor, batch)[0].flatten(0, 1) for batch in batches]
    try:
        whitening.fit(torch.cat(features))
    except ValueError as problem:
        raise InputError(str(problem)) from problem


@torch.no_grad()
def fit_ridge(
    model: MLLMForConditionalGeneration,
    image_processor: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
    named_images: Iterable[tuple[Image.Image, str]],
    strength: float = 1e-2,
) -> None:
    """Sets the projector's last Linear so that each token of an image comes near to the words for what it shows.

    The aim is the mean of the name's word embeddings; the ridge regression is solved, not trained. What is
    in front of the last Linear, such as the first layer of an MLP, stays as it was drawn.

    Args:
        named_images: images of one thing each, and what it is called.
        strength: of the penalty, as a fraction of the mean variance of what the last Linear reads.

    Raises:
        InputError: no images; a projector that does not end in a Linear.
    """
    projector = model.model.multi_modal_projector
    aims: dict[str, Tensor] = {}
    count, last = 0, None
    sums: list[Any] = [0, 0, 0, 0]  # of x, y, x² and xy
    remaining = iter(named_images)
    while batch := list(itertools.islice(remaining, _BATCH)):
        images, names = zip(*batch, strict=True)
        aims |= {name: name_embedding(model, tokenizer, name).double() for name in set(names) - aims.keys()}
        features, rois = _encoded(model, image_processor, images)
        last, read = last_linear(projector, features.to(projector.dtype), rois)
        x = read.double().flatten(0, -2)
        y = torch.stack([aims[name] for name in names]).repeat_interleave(len(x) // len(names), dim=0)
        sums = [total + new for total, new in zip(sums, (x.sum(0), y.sum(0), x.T @ x, x.T @ y), strict=True)]
        count += len(x)
    if last is None:
        raise InputError("ridge: its source has no images")
    x_mean, y_mean, x_squares, xy = (total / count for total in sums)
    covariance = x_squares - x_mean.outer(x_mean)
    penalty = strength * covariance.diagonal().mean() * torch.eye(len(covariance))
    weight = torch.linalg.solve(covariance + penalty, xy - x_mean.outer(y_mean)).T
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(y_mean - weight @ x_mean)
    logger.info("projector: started on the words of %d names, by %d tokens of images", len(aims), count)


def name_embedding(model: MLLMForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, name: str) -> Tensor:
    """Returns the mean (E,) of a name's word embeddings, of its tokens as they are inside a sentence."""
    before, whole = tokenizer(["a", f"a {name}"], add_special_tokens=False)["input_ids"]
    ids = torch.tensor(whole[len(before) :], device=model.device)
    mean: Tensor = model.get_input_embeddings()(ids).float().mean(0)
    return mean


def last_linear(projector: Projector, features: Tensor, rois: Tensor | None) -> tuple[nn.Linear, Tensor]:
    """Finds the Linear whose output is the projector's, and what it reads of features (P, N, D): (P, M, H).

    Raises:
        InputError: there is none.
    """
    called: list[tuple[nn.Linear, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, given, output: called.append((module, given[0], output)))
        for module in projector.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        whitened = features if projector.whitening is None else projector.whitening(features)
        projected = projector.project(whitened, rois)
    finally:
        for hook in hooks:
            hook.remove()
    for module, read, output in called:
        if output is projected:
            return module, read
    name = type(projector).__name__
    raise InputError(f"ridge: a {name} does not end in a Linear, whose weights it could set; leave ridge out")
