"""What is exported: a module whose inputs and outputs have names, and what of their shapes may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from encoder.configuration import SparseFormerConfig
from encoder.modeling import SparseFormerVisionModel
from encoder.quantization import float_layers


@dataclass(frozen=True)
class Graph:
    """A part of a model as a runtime takes it.

    Attributes:
        name: of its file.
        module: takes the inputs by name, and returns its outputs by name.
        inputs: examples of them, tensors or lists and dicts of such.
        dimensions: of each of these tensors, by its dotted path, the names of the axes that may have other sizes.
        floats: modules that stay float where the others become int8.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Any]
    dimensions: Mapping[str, Mapping[int, str]]
    floats: frozenset[str] = field(default_factory=frozenset)


IMAGES = {0: "batch_size", 2: "height", 3: "width"}  # the axes of pixel_values that may have other sizes


def example_images(size: int) -> Tensor:
    """Two images of noise, wider than high: of sizes that are alike, one would be traced for all."""
    return torch.randn(2, 3, size, size + 16, generator=torch.Generator().manual_seed(0))


def known_count(num_tokens: Tensor, config: SparseFormerConfig) -> int:
    """The number in a tensor, which `torch.export` does not know, and within what bounds it lies."""
    count = cast("int", num_tokens.item())  # a SymInt while traced
    torch._check(count >= 2 + config.class_token)
    torch._check(count <= config.num_tokens)
    return count


class _Encoder(nn.Module):
    def __init__(self, model: SparseFormerVisionModel, num_tokens: int | None):
        super().__init__()
        self.model, self.num_tokens = model, num_tokens
        self.config = cast("SparseFormerConfig", model.config)

    def forward(self, pixel_values: Tensor, num_tokens: Tensor | None = None) -> dict[str, Tensor]:
        count = self.num_tokens if num_tokens is None else known_count(num_tokens, self.config)
        found = self.model(pixel_values, num_tokens=count)
        names = ("last_hidden_state", "pooler_output", "image_embeds", "rois")
        return {name: found[name] for name in names if name in found}


def encoder_graph(model: SparseFormerVisionModel, num_tokens: int | None = None) -> Graph:
    """An encoder alone: images (B, 3, H, W) -> tokens (B, N, D), what is pooled, projected, and RoIs (B, N', 4).

    Args:
        num_tokens: N; None: the model's own, and of nested tokens an input, a number of at least two beside the class
            token.
    """
    inputs: dict[str, Any] = {"pixel_values": example_images(64)}
    dimensions: dict[str, Mapping[int, str]] = {"pixel_values": IMAGES}
    if model.config.nested_tokens and num_tokens is None:
        inputs["num_tokens"], dimensions["num_tokens"] = torch.tensor(model.config.num_tokens), {}
    module = _Encoder(model.eval(), num_tokens)
    return Graph("encoder", module, inputs, dimensions, float_layers(module))
