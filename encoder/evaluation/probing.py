"""What an encoder's features tell of classes, by themselves: nearest neighbors, class means, a linear classifier."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from data.bad_samples import BadSamples
from data.errors import InputError
from data.files import whole_folder
from data.image_folders import ImageFolder
from data.sources import open_labeled
from encoder.evaluation.clip_models import ClipModel
from encoder.evaluation.embedding import Runtime, embed_images
from encoder.weights import read_weights

RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
"""Learning rates of the sweep, for batches of 256, as DINOv2 sweeps them (arXiv 2304.07193)."""
_TEMPERATURE = 0.07  # of the neighbors' votes, as DINO weights them (arXiv 2104.14294)
_AT_ONCE = 1000  # queries


@dataclass(frozen=True)
class Features:
    """Images as features.

    Attributes:
        vectors: (N, E) float32, of unit length.
        labels: (N,), indices into ``classes``.
        classes: the names of the classes, or their numbers as words.
        per_second: images a second through the encoder; None where the features were cached.
    """

    vectors: Tensor
    labels: Tensor
    classes: list[str]
    per_second: float | None = None

    @property
    def values(self) -> list[int]:
        """A label for each image."""
        numbers: list[int] = self.labels.tolist()
        return numbers

    def renumbered(self, classes: Sequence[str], source: str) -> Features:
        """The same with labels that count other classes. Raises InputError for one that is not there."""
        places = {name: number for number, name in enumerate(classes)}
        present = {self.classes[label] for label in self.labels.unique().tolist()}
        if missing := sorted(present - set(places)):
            raise InputError(f"{source}: {missing[0]!r} is no class of the images to learn from; give the same classes")
        numbers = torch.tensor([places.get(name, -1) for name in self.classes])
        return Features(self.vectors, numbers[self.labels], list(classes), self.per_second)


def read_features(
    model: ClipModel, source: str, runtime: Runtime, bad: BadSamples, cache: Path | None = None
) -> Features:
    """The features of labeled images, computed once if there is a cache.

    Args:
        model: on ``runtime.device``.
        source: as `data.open_labeled` takes it.
        cache: a folder, which may hold those of other models and images.

    Raises:
        InputError: the source cannot be read, or has no good image.
    """
    labeled = open_labeled(source, bad, model.prepare.image_processor.output_size)
    place = None
    if cache is not None:
        about = f"{describe_images(source, labeled.dataset)} {model.num_tokens} {runtime.autocast}"
        place = cache / fingerprint(model.clip.visual, model.prepare.image_processor, about)
        if (place / "classes.json").is_file():
            kept = read_weights(place / "features.safetensors")
            return Features(kept["vectors"], kept["labels"], json.loads((place / "classes.json").read_text()))
    model.clip.eval()
    images = embed_images(
        model.clip, model.prepare, labeled.dataset, runtime, lambda sample: sample["label"], title=source
    )
    names = labeled.class_names
    words = [str(label) if names is None or isinstance(label, str) else names[label] for label in images.values]
    classes = sorted(set(words))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[word] for word in words])
    if place is not None:
        with whole_folder(place) as folder:
            save_file({"vectors": images.vectors, "labels": labels}, folder / "features.safetensors")
            (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    return Features(images.vectors, labels, classes, images.per_second)


def fingerprint(tower: nn.Module, image_processor: Any, *more: str) -> str:
    """Sixteen hexadecimal digits that differ where embeddings do: weights, architecture, preprocessing, and more.

    Args:
        more: what images, in which order, and how exactly the tower computes.
    """
    digest = hashlib.sha256()
    for text in (repr(tower), json.dumps(image_processor.to_dict(), sort_keys=True, default=str), *more):
        digest.update(f"{len(text)}:{text}".encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def describe_images(source: str, images: Any) -> str:
    """What differs if the images do: of a folder, the files with their sizes and times; else the source's line."""
    images = getattr(images, "dataset", images)
    if not isinstance(images, ImageFolder):
        return source
    stats = [os.stat(file) for file in images.files]
    return "\n".join(
        f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(images.files, stats, strict=True)
    )


def knn_accuracy(
    train: Features, test: Features, counts: Sequence[int], device: str | torch.device = "cpu"
) -> dict[int, float]:
    """Top-1 accuracy in [0, 1] of the votes of the k nearest neighbors, by k, weighted by their similarity."""
    most = min(max(counts), len(train.labels))
    right = dict.fromkeys(counts, 0)
    gallery, known = train.vectors.to(device), train.labels.to(device)
    rows = max(1, min(_AT_ONCE, 2**27 // len(known)))  # half a GiB of similarities
    for vectors, labels in zip(test.vectors.split(rows), test.labels.split(rows), strict=True):
        similarity, nearest = (vectors.to(device) @ gallery.T).topk(most, dim=1)
        weights = (similarity / _TEMPERATURE).exp()
        for count in counts:
            votes = weights.new_zeros(len(labels), len(train.classes))
            votes.scatter_add_(1, known[nearest[:, :count]], weights[:, :count])
            right[count] += int((votes.argmax(dim=1).cpu() == labels).sum())
    return {count: each / len(test.labels) for count, each in right.items()}


def few_shot_accuracy(train: Features, test: Features, shots: int, draws: int = 5) -> tuple[float, float]:
    """Top-1 accuracy of the nearest mean of ``shots`` images of each class (arXiv 1703.05175): mean and standard
    deviation over as many draws; classes with fewer images give all of theirs."""
    found = []
    for draw in range(draws):
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(draw))
        means = torch.full((len(train.classes), train.vectors.shape[1]), torch.nan)
        for label in train.labels.unique().tolist():
            chosen = order[train.labels[order] == label][:shots]
            means[label] = F.normalize(train.vectors[chosen].mean(dim=0), dim=0)
        nearest = (test.vectors @ means.T).nan_to_num(nan=-torch.inf).argmax(dim=1)
        found.append(float((nearest == test.labels).double().mean()))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std())


@dataclass(frozen=True)
class LinearProbe:
    """What came of `linear_probe`: top-1 accuracies in [0, 1].

    Attributes:
        top_1: on the images to test on, at the best rate.
        rate: that one.
        sweep: by rate, on a tenth of the images to learn from, which was held out to choose by.
    """

    top_1: float
    rate: float
    sweep: dict[float, float]


def linear_probe(
    train: Features,
    test: Features,
    device: str | torch.device = "cpu",
    epochs: int = 20,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    tell: Callable[[str], object] = str,
) -> LinearProbe:
    """Trains a linear classifier at every learning rate, all in one pass over the features.

    Args:
        train, test: with labels that count the same classes.
        epochs: over the features.
        seed: of the tenth that is held out, and of the order.
        tell: is given a line after each epoch.

    Raises:
        InputError: fewer than ten images to learn from.
    """
    if len(train.labels) < 10:
        raise InputError(f"{len(train.labels)} images to learn from: at least 10, as a tenth is held out")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train.labels), generator=generator)
    held, own = order[: len(order) // 10], order[len(order) // 10 :]
    std, mean = torch.std_mean(train.vectors[own], dim=0)
    vectors, labels = ((train.vectors - mean) / (std + 1e-6)), train.labels
    batch = min(1024, len(own))
    steps = epochs * (len(own) // batch)
    heads = [nn.Linear(vectors.shape[1], len(train.classes), device=device) for _ in rates]
    for weight in (weight for head in heads for weight in head.parameters()):
        nn.init.zeros_(weight)
    groups = [{"params": head.parameters(), "lr": rate * batch / 256} for head, rate in zip(heads, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def logits(rows: Tensor) -> Tensor:
        """(B, E) -> (R, B, K)"""
        rows = rows.to(device)
        return torch.stack([head(rows) for head in heads])

    for epoch in range(epochs):
        order = own[torch.randperm(len(own), generator=generator)]
        for chosen in order.split(batch)[: len(own) // batch]:
            target = labels[chosen].to(device).expand(len(rates), -1)
            loss = F.cross_entropy(logits(vectors[chosen]).flatten(0, 1), target.flatten()) * len(rates)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        tell(f"linear probe: epoch {epoch + 1}/{epochs}, mean loss {loss.item() / len(rates):.4f}")

    @torch.no_grad()
    def accuracies(rows: Tensor, right: Tensor) -> Tensor:
        parts = [
            (logits(part).argmax(dim=-1).cpu() == wanted).sum(dim=1)
            for part, wanted in zip(rows.split(_AT_ONCE), right.split(_AT_ONCE), strict=True)
        ]
        return torch.stack(parts).sum(dim=0).double() / len(right)

    sweep = accuracies(vectors[held], labels[held])
    best = int(sweep.argmax())
    tested = accuracies((test.vectors - mean) / (std + 1e-6), test.labels)
    return LinearProbe(float(tested[best]), rates[best], dict(zip(rates, sweep.tolist(), strict=True)))
