"""Weights of linear layers packed beforehand, for products of one size on a CPU in float32.

Before MKL multiplies, it brings the weight into the order in which the processor reads it, and torch has it do so at
every call. With many rows that does not count; a batch of 8 images with 49 tokens each has 392, though, and a prompt
with an image some 128, and there it takes a sixth to a quarter of the product's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from encoder.compat import pack_weight, packed_linear

M = TypeVar("M", bound=nn.Module)


def pack(model: M, run: Callable[[], Any]) -> M:
    """Pack the weights of a model's linear layers for the numbers of rows that they meet in a run; in place.

    What is packed takes as much memory again as the weights, which stay: a layer that later meets another number of
    rows computes from them, as before. So it is for a model that goes on seeing batches of one size, and whose weights
    stay as they are. Packing again packs what they are then, for another run.

    Args:
        model: a SparseFormer, a language model or any other, for inference on a CPU. Layers that are not float32 stay
            as they are, as do those that meet one row, and those whose weight is something else too, such as a language
            model's embedding.
        run: has the model do what it will do, with inputs of the shapes that it will meet.

    Returns:
        the same model. It computes the same, to rounding, and can be saved, but not copied.

    Raises:
        RuntimeError: this torch has no MKL.
        ValueError: a weight is not on the CPU.
    """
    if not torch.backends.mkl.is_available():
        raise RuntimeError("this build of torch has no MKL, which packs the weights; keep the model as it is")
    layers = _layers(model)
    for name, layer in layers.items():
        if layer.weight.device.type != "cpu":
            raise ValueError(f"{name} is on {layer.weight.device.type}: weights are packed for a CPU's products")
    rows: dict[nn.Module, int] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows[layer] = inputs[0].shape[:-1].numel()

    hooks = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if rows.get(layer, 0) > 1:  # one row reads the weight once, in whatever order
            model.set_submodule(name, PackedLinear(layer, rows[layer]))
    return model.eval().requires_grad_(False)


class PackedLinear(nn.Linear):
    """A Linear with its weight packed for so many rows: (..., in) -> (..., out), float32."""

    def __init__(self, linear: nn.Linear, rows: int):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.rows = rows
        self.weight, self.bias = linear.weight, linear.bias
        # No buffer: its memory has MKL's own layout, and reserves more than the weight's size, which is what it fills.
        self.packed = pack_weight(linear.weight.detach(), rows)

    def forward(self, x: Tensor) -> Tensor:
        # With another number of rows than it is told, this is torch's linear.
        return packed_linear(x, self.packed, self.weight, self.bias, self.rows)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rows={self.rows}"


def _layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name, the float32 linear layers whose weight is theirs alone."""
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32 and owners[id(module.weight)] == 1
    }
