"""Stages: which parts of a student train, at which learning rate, for how long, with how many tokens, at which size.

Parts of a student with C cortex blocks, of a teacher with L blocks whose first inherited one is f:

- ``stem``: the stages of an inherited stem, without what projects their maps;
- ``focusing``: the early convolution or these projections, the latent tokens, the focusing units, the transitions and
  the class token;
- ``rois``: what of these says where to look: the initial RoIs, the RoI heads and the offsets of the sampling points;
- ``early``: cortex blocks that were the teacher's [f, 2L/3);
- ``late``: the rest of the cortex, the teacher's [2L/3, L);
- ``head``: the final norm, the attention pool and the projection;
- ``heads``: of other teachers than the first, in training alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from data.limits import MAX_RATE, MAX_SIDE, MAX_STEPS, MAX_TOKENS, check_range
from encoder.bootstrapping.heads import StudentWithHeads, Trained, without_heads
from encoder.layers import RoiAdjustment, Sample

logger = logging.getLogger(__name__)

PARTS = ("stem", "focusing", "rois", "early", "late", "head", "heads")


@dataclass
class Stage:
    """One stage of bootstrapping."""

    # Name of the stage, in logs and folders.
    name: str = "focusing"
    # Learning rate of each part that trains (stem, focusing, rois, early, late, head, heads); parts that are not named,
    # or of rate 0, are frozen, but rois without a rate have that of focusing.
    learning_rates: dict[str, float] = field(default_factory=lambda: {"focusing": 1e-3})
    # Optimizer steps.
    steps: int = 1000
    # Of these, the first ones, over which the learning rates rise from 0; None: as many as the trainer's fields say.
    warmup_steps: int | None = None
    # Tokens that the student looks with, the class token counted; None: as many as it has.
    num_tokens: int | None = None
    # Fewest and most tokens: at each step a random number of them instead, so that the student learns to do with any.
    elastic: list[int] | None = None
    # Side of the student's images in pixels; None: the teacher's, whose own images always have that.
    image_size: int | None = None
    # Smallest and largest side: at each step a random one instead, so that the student learns to do with any.
    image_sizes: list[int] | None = None
    # Fields of transformers' TrainingArguments that differ in this stage.
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.learning_rates) - set(PARTS))
        if unknown or not any(self.learning_rates.values()):
            raise ValueError(f"learning_rates of stage {self.name!r}: {unknown or 'empty'}; parts are {list(PARTS)}")
        for name, least, most in (
            ("steps", 1, MAX_STEPS),
            ("warmup_steps", 0, self.steps),
            ("num_tokens", 2, MAX_TOKENS),
            ("image_size", 1, MAX_SIDE),
        ):
            check_range(f"stage {self.name!r}: {name}", getattr(self, name), least, most)
        for part, rate in self.learning_rates.items():
            check_range(f"stage {self.name!r}: learning_rates.{part}", rate, 0, MAX_RATE)
        if self.warmup_steps is not None and "warmup_steps" in self.trainer:
            raise ValueError(f"warmup_steps of stage {self.name!r} is given twice; leave it out of trainer")
        if self.elastic is not None:
            if len(self.elastic) != 2 or not 2 <= self.elastic[0] <= self.elastic[1] <= MAX_TOKENS:
                raise ValueError(f"elastic={self.elastic} of stage {self.name!r}: [fewest, most], 2 to {MAX_TOKENS}")
            if self.num_tokens is not None:
                raise ValueError(f"stage {self.name!r}: set one of num_tokens and elastic")

        if self.image_sizes is not None:
            if len(self.image_sizes) != 2 or not 1 <= self.image_sizes[0] <= self.image_sizes[1] <= MAX_SIDE:
                raise ValueError(f"image_sizes={self.image_sizes} of stage {self.name!r}: [smallest, largest]")
            if self.image_size is not None:
                raise ValueError(f"stage {self.name!r}: set one of image_size and image_sizes")

    def rate(self, part: str) -> float | None:
        """Returns a part's learning rate, None where it is frozen."""
        rate = self.learning_rates.get(part, self.learning_rates.get("focusing") if part == "rois" else None)
        return rate or None

    @property
    def largest_size(self) -> int | None:
        """Side of the images that are read for the student; None: the teacher's."""
        return self.image_size if self.image_sizes is None else self.image_sizes[1]

    def resized_at(self, step: int, seed: int, images: Tensor) -> Tensor:
        """The student's images (B, 3, H, W) at the side that they have at a step, on every process alike."""
        if self.image_sizes is None:
            return images
        smallest, largest = self.image_sizes
        side = int(np.random.default_rng((seed, step, 1)).integers(smallest, largest, endpoint=True))
        return F.interpolate(images, (side, side), mode="bicubic", antialias=True)

    @property
    def token_counts(self) -> list[int]:
        """The numbers of tokens that it asks for."""
        return [self.num_tokens] if self.num_tokens is not None else self.elastic or []

    def tokens_at(self, step: int, seed: int) -> int | None:
        """With how many tokens the student looks at a step, on every process alike; None: as many as it has."""
        if self.elastic is None:
            return self.num_tokens
        return int(np.random.default_rng((seed, step)).integers(self.elastic[0], self.elastic[1], endpoint=True))


def student_parts(model: Trained, early_blocks: int) -> dict[str, list[nn.Parameter]]:
    """The parameters of each part, of which each is in one; ``early_blocks`` cortex blocks count as early."""
    student = without_heads(model)
    cortex = student.cortex
    modules: dict[str, Sequence[nn.Module]] = {
        "stem": [student.inherited_stem.stages] if student.inherited_stem else [],
        "focusing": student.focusing,
        "rois": [module for module in student.modules() if isinstance(module, RoiAdjustment)],
        "early": cortex[:early_blocks],
        "late": cortex[early_blocks:],
        "head": list(student.head.values()),
        "heads": [model.heads] if isinstance(model, StudentWithHeads) else [],
    }
    parts = {name: [p for module in each for p in module.parameters()] for name, each in modules.items()}
    for module in student.modules():
        if isinstance(module, Sample):
            parts["rois"] += [*module.offset.parameters(), module.offset_bias]
    if isinstance(student.latent.rois, nn.Parameter):
        parts["rois"].append(student.latent.rois)
    apart = {id(parameter) for parameter in parts["rois"] + parts["stem"]}
    parts["focusing"] = [parameter for parameter in parts["focusing"] if id(parameter) not in apart]
    return parts


def apply_stage(model: Trained, stage: Stage, early_blocks: int) -> dict[str, list[nn.Parameter]]:
    """Freeze what the stage does not train, log what trains, and return the parameters of each part that does."""
    trained: dict[str, list[nn.Parameter]] = {}
    total, tokens = 0, stage.num_tokens or without_heads(model).config.num_tokens
    for name, parameters in student_parts(model, early_blocks).items():
        if not parameters:
            continue
        rate = stage.rate(name)
        for parameter in parameters:
            parameter.requires_grad_(rate is not None)
        if rate is not None:
            trained[name] = parameters
        total += _count(parameters)
        state = "frozen" if rate is None else f"trains at learning rate {rate:g}"
        logger.info("stage %s: %s (%.3f M parameters) %s", stage.name, name, _count(parameters) / 1e6, state)
    logger.info(
        "stage %s: %.3f M of %.3f M parameters train for %d steps, with %s, on images of %s pixels",
        stage.name,
        sum(map(_count, trained.values())) / 1e6,
        total / 1e6,
        stage.steps,
        f"{tokens} tokens" if stage.elastic is None else "{} to {} tokens".format(*stage.elastic),
        stage.largest_size or without_heads(model).config.image_size,
    )
    return trained


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
