"""A curriculum: stages that come before a run's own data, each with conversations of its own, in order.

Answering a question takes two steps at once, finding what it is about and looking that up. A small language model
learns them within minutes one after the other, and not within hours together (docs/log.md has figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from data.errors import InputError
from data.limits import MAX_STEPS, check_range


@dataclass
class CurriculumStage:
    """Steps of a run before its own data."""

    steps: int  # of the optimizer
    data: list[str]  # sources, as the recipe's own

    def __post_init__(self) -> None:
        check_range("curriculum: steps", self.steps, 1, MAX_STEPS)
        if not self.data:
            raise InputError("curriculum: data: at least one source is needed")


class Curriculum(Dataset):
    """The samples of a run in the order in which they are seen: those of each stage, then the run's own data.

    Each part is shuffled by ``seed``, and begins again when it is used up; so it must be read in order.

    Args:
        parts: dataset and number of samples of each stage, then of the run's own data.
    """

    def __init__(self, parts: Sequence[tuple[Any, int]], seed: int) -> None:
        self.parts = [dataset for dataset, _ in parts]
        self.places: list[tuple[int, int]] = []  # part and index in it of every sample
        generator = torch.Generator().manual_seed(seed)
        for part, (dataset, count) in enumerate(parts):
            order: list[int] = []
            while len(order) < count:
                order += torch.randperm(len(dataset), generator=generator).tolist()
            self.places += [(part, index) for index in order[:count]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, place = self.places[index]
        return self.parts[part][place]
