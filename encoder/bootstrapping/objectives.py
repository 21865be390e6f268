"""What a student learns from each of its teachers: by which losses, on which scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast
from omegaconf import MISSING
from safetensors.torch import save
from torch import Tensor

from data.errors import translated
from data.files import write_whole
from data.limits import MAX_RATE, MAX_SIDE, check_range
from encoder.bootstrapping.balance import Balance, balanced_width
from encoder.bootstrapping.cache import CachedTeacher
from encoder.bootstrapping.losses import READ_EMBEDDING, Target, check_losses, reads_patches
from encoder.modeling import SparseFormerOutput
from encoder.teachers import Teacher
from encoder.weights import read_weights

STATISTICS = "teacher_statistics.safetensors"
"""The file in a run's output with the balance of each teacher."""


@dataclass
class TeacherOptions:
    """One of several teachers, beside the first."""

    # Named like the teacher.
    name: str = MISSING
    # Weights of one of open_clip or timm: a tag, or a file.
    pretrained: str | None = None
    # Side of its images, if not the published one.
    image_size: int | None = None
    # Of all its losses.
    weight: float = 1.0
    # Weights of its losses, by name.
    losses: dict[str, float] = field(default_factory=lambda: {"mse": 1.0})

    def __post_init__(self) -> None:
        check_range(f"teachers: {self.name}: image_size", self.image_size, 1, MAX_SIDE)
        check_range(f"teachers: {self.name}: weight", self.weight, 0, MAX_RATE)
        with translated(f"teachers: {self.name}: losses"):
            check_losses(self.losses)


@dataclass
class Objective:
    """A teacher, and the losses by which a student learns from it.

    Attributes:
        key: of its images in a batch.
        losses: weight of each, by its name in `LOSSES`.
        kind: of its balance, one of `BALANCES`.
        own: whether the student's own embedding is in this teacher's space; for another it has a head.
        balances: of its "embedding" and its "patches", as far as they are needed and measured.
        cached: what remembers its embeddings; None: it looks each time.
    """

    key: str
    teacher: Teacher
    losses: Mapping[str, float]
    kind: str = "none"
    own: bool = False
    balances: dict[str, Balance] = field(default_factory=dict)
    cached: CachedTeacher | None = None

    def __post_init__(self) -> None:
        self.losses = {name: weight for name, weight in self.losses.items() if weight}

    @property
    def reads(self) -> dict[str, int]:
        """Which of its "embedding" and "patches" need a balance, and how wide they then are."""
        found = {}
        if self.losses.keys() & (READ_EMBEDDING if not self.own else {"mse", "angle"}):
            found["embedding"] = balanced_width(self.kind, self.teacher.embed_dim)
        if self.losses.keys() & ({"grid", "tokens"} if not self.own else {"grid"}):
            found["patches"] = balanced_width(self.kind, self.teacher.patch_width)
        return found

    def teach(self, images: Tensor, random: np.random.Generator, indices: Sequence[int] = ()) -> Target:
        """What the teacher makes of a batch, as far as the losses read it.

        Args:
            images: (B, 3, S, S); if they are larger than the teacher's, it sees a random part of them, the same of all.
            indices: of the images, for a cache.
        """
        side, whole = self.teacher.image_size, images.shape[-1]
        x, y = (int(start) for start in random.integers(0, whole - side, 2, endpoint=True))
        window = (x / whole, y / whole, (x + side) / whole, (y + side) / whole)
        images = images[..., y : y + side, x : x + side]
        embedding: Tensor
        patches = places = None
        if self.cached is not None:
            embedding = self.cached(images, indices)
        elif "places" in self.losses:
            embedding, patches, places = self.teacher.with_places(images)
        elif reads_patches(self.losses):
            embedding, patches = self.teacher.with_patches(images)
        else:
            embedding = self.teacher(images)
        return Target(embedding, patches, places, self.balances.get("embedding"), self.balances.get("patches"), window)

    def restored(self, answer: SparseFormerOutput) -> SparseFormerOutput:
        """What the student says in the terms of this teacher, in the teacher's own units.

        Args:
            answer: of the student itself, or of its head for this teacher.
        """
        if self.own or not self.reads:
            return answer
        changed = dict(answer)
        for name in ("image_embeds", "token_embeds"):
            if name in changed:
                changed[name] = self.balances["embedding"].restored(changed[name])
        if "tokens" in self.losses:
            changed["hidden_states"] = (self.balances["patches"].restored(changed["hidden_states"][0]),)
        return type(answer)(**changed)


@torch.no_grad()
def measure_balances(
    objectives: Sequence[Objective], batches: Iterable[Mapping[str, Tensor]], device: torch.device
) -> None:
    """Measures on some images what the losses need to know of each teacher: of its patches, on 64 of each image."""
    random = np.random.default_rng(0)
    seen = {each.key: {name: list[Tensor]() for name in each.reads} for each in objectives}
    for batch in batches:
        for each in (each for each in objectives if each.reads):
            target = each.teach(batch[each.key].to(device), random)
            for name, rows in seen[each.key].items():
                if name == "embedding":
                    rows.append(target.embedding.float())
                else:
                    assert target.patches is not None
                    patches = target.patches.float().flatten(2)
                    some = random.permutation(patches.shape[-1])[:64]
                    rows.append(patches[..., some.tolist()].mT.flatten(0, 1))
    for each in objectives:
        each.balances = {name: Balance.of(each.kind, torch.cat(rows)) for name, rows in seen[each.key].items()}


def share_balances(objectives: Sequence[Objective], device: torch.device) -> None:
    """Gives all processes those of the first, which could differ in their last digits, on their devices."""
    for each in objectives:
        for name, balance in each.balances.items():
            parts = {key: value.to(device) for key, value in balance.state_dict().items()}
            each.balances[name] = Balance(**broadcast(parts))


def save_balances(folder: Path, objectives: Sequence[Objective]) -> None:
    """Writes them into a run's output."""
    found = {
        f"{each.key}.{name}.{key}": value.cpu().contiguous()
        for each in objectives
        for name, balance in each.balances.items()
        for key, value in balance.state_dict().items()
    }
    write_whole(folder / STATISTICS, save(found))


def load_balances(folder: Path, objectives: Sequence[Objective]) -> None:
    """Reads what `save_balances` has written.

    Raises:
        InputError: they are not of these teachers.
    """
    weights = read_weights(folder / STATISTICS)
    for each in objectives:
        with translated(f"{folder / STATISTICS}: is not of these teachers", "go on with those, or start again"):
            parts = ("mean", "matrix", "inverse", "dispersion")
            each.balances = {
                name: Balance(**{part: weights[f"{each.key}.{name}.{part}"] for part in parts}) for name in each.reads
            }
