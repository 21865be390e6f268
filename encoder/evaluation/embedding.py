"""Images and texts to the unit vectors of a CLIP, in batches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from data.errors import InputError


@dataclass(frozen=True)
class Runtime:
    """Where and how a model computes."""

    device: str | torch.device = "cpu"
    batch_size: int = 64
    workers: int = 0  # processes that decode images; 0: the main one does
    autocast: torch.dtype | None = None  # None: the weights' own type

    def precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, self.autocast, enabled=self.autocast is not None)


@dataclass(frozen=True)
class EmbeddedImages:
    """Images as vectors.

    Attributes:
        vectors: (N, E) float32 on the CPU, of unit length.
        values: what was kept of each sample, N of them.
        per_second: images a second through the image tower alone, without decoding and preparing.
    """

    vectors: Tensor
    values: list[Any]
    per_second: float


class _Batches:
    """Samples -> pixel values (B, 3, H, W), or None of no good one, and the samples; for DataLoader workers."""

    def __init__(self, prepare: Callable[[Image.Image], Tensor]) -> None:
        self.prepare = prepare

    def __call__(self, samples: list[Any]) -> tuple[Tensor | None, list[dict[str, Any]]] | InputError:
        for sample in samples:
            if isinstance(sample, InputError):
                return sample
        good = [sample for sample in samples if sample is not None]
        rest = [{key: value for key, value in sample.items() if key != "image"} for sample in good]
        return torch.stack([self.prepare(sample["image"]) for sample in good]) if good else None, rest


class _Telling(IterableDataset[Any]):
    """A stream that hands out its InputError instead of raising it: from a worker it would come with a traceback."""

    def __init__(self, stream: IterableDataset[Any]) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.stream
        except InputError as error:
            yield error


@torch.no_grad()
def embed_images(
    clip: Any,
    prepare: Callable[[Image.Image], Tensor],
    dataset: Dataset[Any],
    runtime: Runtime,
    keep: Callable[[dict[str, Any]], Any],
    title: str = "images",
) -> EmbeddedImages:
    """Embed every image of a data set; `None` in it (a bad image) is left out.

    Args:
        clip: open_clip model on ``runtime.device``, in evaluation mode.
        prepare: image -> (3, H, W); must be picklable for workers on some systems.
        dataset: map-style or iterable, of ``{"image": PIL, ...}``.
        keep: what to remember of a sample, given without its image; called as the batches come.
        title: what the images are called on the progress bar (on a terminal's stderr) and in errors.

    Raises:
        InputError: there is no good image, or the stream cannot be read on.
    """
    total = None if isinstance(dataset, IterableDataset) else -(-len(dataset) // runtime.batch_size)  # type: ignore[arg-type]
    if isinstance(dataset, IterableDataset):
        dataset = _Telling(dataset)
    loader: Any = DataLoader(dataset, runtime.batch_size, num_workers=runtime.workers, collate_fn=_Batches(prepare))
    vectors: list[Tensor] = []
    values: list[Any] = []
    seconds = 0.0
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    for batch in track(loader, title, total=total, console=console, transient=True, disable=hidden):
        if isinstance(batch, InputError):
            raise batch
        pixels, rest = batch
        if pixels is None:
            continue
        values += [keep(sample) for sample in rest]
        pixels = pixels.to(runtime.device)
        with runtime.precision():
            if not vectors:  # the first run also sets up kernels and memory
                clip.encode_image(pixels, normalize=True)
            _wait_for(runtime.device)
            begun = time.perf_counter()
            embedded = clip.encode_image(pixels, normalize=True)
            _wait_for(runtime.device)
            seconds += time.perf_counter() - begun
        vectors.append(embedded.float().cpu())
    if not vectors:
        raise InputError(f"{title}: there is no good image; the source is empty, or all of its images are bad")
    return EmbeddedImages(torch.cat(vectors), values, len(values) / seconds)


@torch.no_grad()
def embed_texts(clip: Any, tokenizer: Callable[[list[str]], Tensor], texts: Sequence[str], runtime: Runtime) -> Tensor:
    """Texts as vectors (N, E), float32 on the CPU, of unit length."""
    parts = []
    for start in range(0, len(texts), runtime.batch_size):
        tokens = tokenizer(list(texts[start : start + runtime.batch_size])).to(runtime.device)
        with runtime.precision():
            parts.append(clip.encode_text(tokens, normalize=True).float().cpu())
    return torch.cat(parts)


def _wait_for(device: str | torch.device) -> None:
    """Until all that was sent to the device is done: an accelerator computes beside the program."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
