"""Answers that are decoded together: they join and leave between any two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mllm.compat import CACHE
from mllm.serving.memory import Layers


def joinable(model: Any) -> bool:
    """Whether answers of a language model can join and leave: not with sliding windows, nor with states as Mamba's."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config.get_text_config()).layers)


class Batch:
    """Holds B answers: a cache of T columns, and a mask (B, T) of those that each of them has filled.

    Columns stand in the order of time, with gaps: a row that joins, or whose prompt was shorter than others', begins
    later, and the positions (B,) of the next tokens count what is filled alone.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: Any = DynamicCache(config=model.config.get_text_config())
        self.mask = torch.zeros(0, 0, dtype=torch.bool, device=model.device)

    def __len__(self) -> int:
        return len(self.mask)

    def begin(self, prompts: Sequence[Tensor], prefixes: Sequence[Layers | None]) -> Tensor:
        """Reads prompts, in an empty batch.

        Args:
            prompts: embeddings (T, E) of what is not in the prefix.
            prefixes: keys and values of what comes before.

        Returns:
            (B, V), the logits of the first tokens of the answers.
        """
        known = [0 if layers is None else layers[0][0].shape[2] for layers in prefixes]
        most, longest = max(known), max(len(prompt) for prompt in prompts)
        for index in range(len(self.cache.layers) if most else 0):
            self.cache.update(
                *_stacked([None if layers is None else layers[index] for layers in prefixes], most), index
            )
        device = self.model.device
        ends = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)[:, None]
        starts = torch.tensor([most - count for count in known], device=device)[:, None]
        own = torch.arange(longest, device=device) >= ends
        self.mask = torch.cat([torch.arange(most, device=device) >= starts, own], dim=1)
        embeddings = torch.stack([F.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
        return self._run(embeddings)

    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token (B,) of each answer; returns (B, V), the logits of the next ones."""
        self.mask = F.pad(self.mask, (0, 1), value=True)
        return self._run(self.model.get_input_embeddings()(tokens[:, None]))

    def repeat(self, counts: Sequence[int]) -> None:
        """Makes each row as many."""
        if any(count != 1 for count in counts):
            self.select([row for row, count in enumerate(counts) for _ in range(count)])

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]

    def tidy(self) -> None:
        """Drops the columns that no row has filled any more."""
        filled = self.mask.any(dim=0)
        if len(self) and not filled.all():
            self._replace([(keys[:, :, filled], values[:, :, filled]) for keys, values in self._layers()])
            self.mask = self.mask[:, filled]

    def join(self, other: Batch) -> None:
        """Takes the rows of another batch behind its own."""
        if not len(self):
            self.cache, self.mask = other.cache, other.mask
            return
        most = max(self.mask.shape[1], other.mask.shape[1])
        pairs = zip(self._layers(), other._layers(), strict=True)
        self._replace([_stacked(pair, most) for pair in pairs])
        self.mask = torch.cat([F.pad(each.mask, (most - each.mask.shape[1], 0)) for each in (self, other)])

    def row(self, row: int) -> Layers:
        """Returns a copy of what one row has filled."""
        filled = self.mask[row]
        return [(keys[row : row + 1, :, filled], values[row : row + 1, :, filled]) for keys, values in self._layers()]

    def _run(self, embeddings: Tensor) -> Tensor:
        width = embeddings.shape[1]
        positions = (self.mask.cumsum(dim=1)[:, -width:] - 1).clamp(min=0)
        output = self.model(
            inputs_embeds=embeddings,
            attention_mask=self.mask.long(),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: self.cache},
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits.cpu() if logits.device.type == "mps" else logits  # which has no float64 to draw with

    def _layers(self) -> Layers:
        return [(layer.keys, layer.values) for layer in self.cache.layers]

    def _replace(self, layers: Layers) -> None:
        for layer, (keys, values) in zip(self.cache.layers, layers, strict=True):
            layer.keys, layer.values = keys, values


def _stacked(rows: Sequence[tuple[Tensor, Tensor] | None], length: int) -> tuple[Tensor, Tensor]:
    """Puts keys and values (b, H, L, D) of one layer below each other, with zeros in front of shorter ones."""
    there = next(row for row in rows if row is not None)
    empty = (there[0][:1, :, :0], there[1][:1, :, :0])
    filled = [empty if row is None else row for row in rows]
    keys, values = (
        torch.cat([F.pad(row[part], (0, 0, length - row[part].shape[2], 0)) for row in filled]) for part in (0, 1)
    )
    return keys, values
