"""What dry runs share: images of random pixels, a stopwatch, lines of one process."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from encoder.macs import tower_macs


class DryRunImages(Dataset[dict[str, Any]]):
    """Sixteen images of random pixels again and again: reading images is not what is tried out."""

    def __init__(self, count: int, side: int):
        pixels = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), dtype=np.uint8)
        self.images = list(map(Image.fromarray, pixels))
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index % len(self.images)]}


class Stopwatch(TrainerCallback):
    """Seconds of the steps behind the first one, which warms up; of that one if there is no other."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._note()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._note()

    def _note(self) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.times.append(time.perf_counter())

    def steps_per_second(self) -> float:
        times = self.times if len(self.times) == 2 else self.times[1:]
        return (len(times) - 1) / (times[-1] - times[0])


def say(line: str) -> None:
    """Prints a line of the first process."""
    if PartialState().is_main_process:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def describe(name: str, tower: nn.Module, side: int) -> None:
    """Prints parameters and GMACs of a model of images."""
    parameters = sum(parameter.numel() for parameter in tower.parameters())
    say(f"{name}: {parameters / 1e6:.1f} M parameters, {tower_macs(tower, side, side) / 1e9:.2f} GMACs")
