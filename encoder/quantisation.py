"""int8 on a CPU: the weights of the linear layers as 8-bit integers, and their inputs too, on the fly.

A weight has one factor per output channel, fixed once; an input one per row (token), taken from the row itself: nothing
is calibrated, and one token with large values costs the others no precision. The product of integers is oneDNN's, which
torch's compiler uses too; it is exact, so all that is lost is lost in rounding the operands.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from encoder.modeling import SparseFormerVisionModel

LARGEST = 127  # of an 8-bit integer, on both sides of zero
# What fits twice, times 255, into 16 bits: CPUs without VNNI add pairs of products there, and cut what does not fit.
LARGEST_IN_PAIRS = 64


def quantise(model: SparseFormerVisionModel) -> SparseFormerVisionModel:
    """Replace a model's linear layers by int8 ones, for inference on a CPU; in place.

    These are the layers that are plain `nn.Linear`: attention, MLPs, transitions, the embedding of RoIs, what leads to
    the mixing weights and what takes the mixed sample back. The others are classes of their own and stay float:

    - what moves RoIs and sampling points (`GeometryLinear`, `ZeroLinear`): its errors add up over the steps, and it
      costs next to nothing;
    - what generates the mixing matrices (`MixingGenerator`): a product with 128 numbers a token and 4,608 results is
      bound by writing these, which int8 does not make fewer.

    The projection stays float too: it has one row a picture, and what comes out is the result.

    Args:
        model: on a CPU, in float32.

    Returns:
        the same model. It is not trained or saved any more: save the float one, and quantise what is loaded.

    Raises:
        ValueError: on another device, or in another type.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(f"the model is on {model.device.type} in {model.dtype}: int8 needs one on the CPU in float32")
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not model.projection
    }
    for name, layer in layers.items():
        model.set_submodule(name, Int8Linear(layer))
    return model.eval().requires_grad_(False)


class Int8Linear(nn.Module):
    """A Linear whose weight is int8, and whose input becomes int8: (..., in) -> (..., out), both float32."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = (weight.abs().amax(dim=1) / largest_weight()).clamp(min=torch.finfo(weight.dtype).tiny)
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        # In the layout that the product reads; no buffer, since torch cannot save it.
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(self.out_features, dtype=torch.int64), persistent=False)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        product, factor = int8_product(rows, self.packed, self.scale, self.zero)
        return torch.addcmul(self.bias, product, factor).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


def int8_product(rows: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M, K) -> the products (M, N) of their integers with the weight, and the rows' factors (M, 1)."""
    factor = rows.abs().amax(dim=1, keepdim=True).div_(LARGEST).clamp_(min=torch.finfo(rows.dtype).tiny)
    integers = rows.div(factor).round_().to(torch.int8)
    product = torch.ops.onednn.qlinear_pointwise(
        *(integers, 1.0, 0, packed, scale, zero, None, 1.0, 0, torch.float32),
        *("none", [], ""),  # nothing behind the product
    )
    return product, factor


@cache
def largest_weight() -> int:
    """The largest weight that this CPU multiplies exactly: tried out, since no public function of torch tells."""
    side = 64
    weight = torch.full((side, side), LARGEST, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    ones, zero = torch.ones(side), torch.zeros(side, dtype=torch.int64)
    product, factor = int8_product(torch.ones(side, side), packed, ones, zero)
    exact = bool((product * factor == side * LARGEST).all())
    return LARGEST if exact else LARGEST_IN_PAIRS
