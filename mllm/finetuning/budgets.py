"""How many tokens and pixels each image is given in training: drawn anew for each, so that the model does with any.

A budget of tokens is the encoder's, so that a short one is cheaper from the first block on. (MQT, arXiv 2405.19315,
and Matryoshka queries draw one behind the tower, for all images of a step.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.errors import InputError
from data.limits import check_range
from encoder.training.epochs import shared_epoch
from mllm.processing import focus_rois

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

DISTRIBUTIONS = ("uniform", "log_uniform")


@dataclass(frozen=True)
class ImageBudgets:
    """What may be drawn for an image; None leaves it as the model has it.

    Attributes:
        tokens: fewest and most embeddings.
        distribution: "uniform", or "log_uniform": as many draws from 8 to 16 as from 32 to 64.
        size: smallest and largest side: whole images of about that many pixels squared.
        focus: fraction of the images that get more tokens on a random part, a fifth to three fifths of each side.
        seed: of the draws. epoch: others are drawn in each, by `OfEachEpoch`.
    """

    tokens: tuple[int, int] | None = None
    distribution: str = "uniform"
    size: tuple[int, int] | None = None
    focus: float = 0.0
    seed: int = 0
    epoch: torch.Tensor = field(default_factory=shared_epoch, compare=False)

    def draw(self, index: int, images: int) -> dict[str, Any]:
        """The options of a conversation: the same for a sample of an epoch, in any process and after a resume."""
        rng = np.random.default_rng((self.seed, int(self.epoch), index))
        options: dict[str, Any] = {}
        if self.tokens is not None:
            options["num_tokens"] = [_draw(rng, *self.tokens, self.distribution) for _ in range(images)]
        if self.size is not None:
            options["image_size"] = _draw(rng, *self.size, self.distribution)
        if self.focus:
            options["focus_rois"] = [focus_rois(_part(rng)) if rng.random() < self.focus else [] for _ in range(images)]
        return options


def _part(rng: np.random.Generator) -> list[float]:
    """A part of an image: x1, y1, x2, y2 in fractions of it."""
    width, height = rng.uniform(0.2, 0.6, 2)
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return [x, y, x + width, y + height]


def _draw(rng: np.random.Generator, least: int, most: int, distribution: str) -> int:
    if distribution == "uniform":
        return int(rng.integers(least, most, endpoint=True))
    return int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))


def read_range(field: str, values: list[int] | None, most: int) -> tuple[int, int] | None:
    """A field of a recipe that holds one number, or the least and the most. Raises InputError for another."""
    if values is None:
        return None
    for number in values:
        check_range(field, number, 1, most)
    if not 1 <= len(values) <= 2 or values[0] > values[-1]:
        raise InputError(f"{field}={values}: give [number], or [least, most]")
    return values[0], values[-1]


def check_budgets(budgets: ImageBudgets, processor: MLLMProcessor) -> None:
    """Raises InputError for budgets that the images of a model cannot have."""
    processor.check_num_tokens(budgets.tokens or (), "image_tokens")
    if budgets.focus:
        processor.check_focus("image_focus")
    for side in budgets.size or ():
        processor.check_image_size(side, "image_sizes")
