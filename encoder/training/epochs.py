"""What is drawn anew in each epoch: of generators that depend on the epoch, so that a resumed run draws the same."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainingArguments


class Drawn(Protocol):
    """What depends on the epoch."""

    @property
    def epoch(self) -> torch.Tensor:
        """Its number, counted from 0."""


def shared_epoch() -> torch.Tensor:
    """A number that workers which outlast an epoch see change."""
    epoch = torch.zeros((), dtype=torch.int64)
    epoch.share_memory_()
    return epoch


class OfEachEpoch(TrainerCallback):
    """Tells what is drawn in each epoch which one it is."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.drawn.epoch.fill_(int(state.epoch or 0))
