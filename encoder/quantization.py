"""int8 on a CPU: the weights of the linear layers as 8-bit integers, and their inputs too, on the fly.

A weight has one factor per output channel, fixed once; an input one per row (token), taken from the row itself: nothing
is calibrated, and one token with large values costs the others no precision. The integer matmul is oneDNN's, which
torch's compiler uses too; it is exact, so all that is lost is lost in rounding the operands.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from encoder.errors import WeightsError
from encoder.layers import AdaptiveMixing
from encoder.modeling import SparseFormerVisionModel

LARGEST = 127  # of an 8-bit integer, on both sides of zero
ZERO = 128
# What fits twice, times 255, into 16 bits: CPUs without VNNI add pairs of products there, and cut what does not fit.
LARGEST_IN_PAIRS = 64


def quantize(model: SparseFormerVisionModel) -> SparseFormerVisionModel:
    """Replace a model's linear layers by int8 ones, for inference on a CPU; in place.

    These are the linear layers of attention, MLPs and transitions, of the embedding of RoIs, and what takes the mixed
    sample back. Float stay:

    - what moves RoIs and sampling points (`GeometryLinear`, `ZeroLinear`): its errors add up over the steps, and it
      costs next to nothing;
    - what generates the mixing matrices: the first of the two layers has so few results that rounding its input costs
      what the matmul saves, the second (`MixingGenerator`) is bound by writing its thousands of results;
    - the projection: it has one row an image, and what comes out is the result.

    Args:
        model: on a CPU, in float32.

    Returns:
        the same model. It is not trained any more, and saving it raises a WeightsError: save the float one, and
        quantize what is loaded.

    Raises:
        ValueError: on another device, or in another type.
        RuntimeError: this torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("this build of torch has no oneDNN, whose int8 matmul is needed; keep the float model")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(f"the model is on {model.device.type} in {model.dtype}: int8 needs one on the CPU in float32")
    floats = float_layers(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in floats]
    for name in layers:
        model.set_submodule(name, Int8Linear(cast("nn.Linear", model.get_submodule(name))))
    model.requires_grad_(False).eval()
    return model


def float_layers(model: nn.Module) -> frozenset[str]:
    """Names of the linear layers that stay float, in a model that has an encoder in it."""
    floats: set[nn.Module | None] = {m.reduce for m in model.modules() if isinstance(m, AdaptiveMixing)}
    floats |= {module.projection for module in model.modules() if isinstance(module, SparseFormerVisionModel)}
    return frozenset(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (type(module) is not nn.Linear or module in floats)
    )  # a class of its own has a reason of its own


class Int8Linear(nn.Module):
    """A Linear whose weight is int8, and whose input becomes int8: (..., in) -> (..., out), both float32."""

    packed: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = (weight.abs().amax(dim=1) / largest_weight()).clamp(min=torch.finfo(weight.dtype).tiny)
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        # In the layout that the matmul reads, which torch cannot save.
        self.register_buffer("packed", torch.ops.onednn.qlinear_prepack(rounded, None), persistent=False)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(self.out_features, dtype=torch.int64), persistent=False)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        product, factor = int8_matmul(rows, self.packed, self.scale, self.zero)
        return torch.addcmul(self.bias, product, factor, out=product).view(*x.shape[:-1], self.out_features)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise WeightsError("an int8 encoder is not saved: save the float one, and quantize what is loaded")

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


def int8_matmul(rows: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M, K) -> the matmul (M, N) of their integers with the weight, and the rows' factors (M, 1)."""
    largest = torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_())
    factor = largest.div_(LARGEST).clamp_(min=torch.finfo(rows.dtype).tiny)
    integers = rows.mul(factor.reciprocal()).round_().to(torch.int8)
    # From -127..127 to 1..255, by turning the first bit: for signed inputs oneDNN has a reference implementation only.
    integers = integers.view(torch.uint8).bitwise_xor_(ZERO)
    product = torch.ops.onednn.qlinear_pointwise(
        *(integers, 1.0, ZERO, packed, scale, zero, None, 1.0, 0, torch.float32),
        *("none", [], ""),  # nothing behind the matmul
    )
    return product, factor


@cache
def largest_weight() -> int:
    """The largest weight that this CPU multiplies exactly: tried out, since no public function of torch tells."""
    side = 64
    weight = torch.full((side, side), LARGEST, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    ones, zero = torch.ones(side), torch.zeros(side, dtype=torch.int64)
    product, factor = int8_matmul(torch.ones(side, side), packed, ones, zero)
    exact = bool((product * factor == side * LARGEST).all())
    return LARGEST if exact else LARGEST_IN_PAIRS
