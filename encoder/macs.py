"""Multiply-accumulates, counted by torch's flop counter with nothing left out.

Counted are matmuls, convolutions and both matmuls of attention (queries with keys, weights with values; a
causal one in full, as kernels without block skipping compute it). Not counted are elementwise operations, norms and the
bilinear sampling of a SparseFormer's points, 4 per value. torch's counter does not know every fused attention kernel,
the CPU's for one: so the model runs on the meta device, with attention replaced by a kernel that it does know.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from encoder.compat import FUSED_ATTENTION


class FusedAttention(TorchFunctionMode):
    """On the meta device, where torch has no fused attention of its own, attention is the operator that a GPU runs.

    Without it, attention falls apart into matmuls, and holds (T, T) weights that no GPU keeps.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `F.scaled_dot_product_attention`; what a mask hides is computed all the same."""
    read: Tensor = FUSED_ATTENTION(query, key, value, dropout_p, is_causal, scale=scale)[0]
    return read


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates: of everything, and of these the matmuls inside attention."""

    total: int
    attention: int

    def __sub__(self, other: Macs) -> Macs:
        return Macs(self.total - other.total, self.attention - other.attention)


def count_macs(run: Callable[[], Any]) -> Macs:
    """What calling ``run``, a model on the meta device that is frozen, costs."""
    with torch.no_grad(), FusedAttention(), FlopCounterMode(display=False) as counter:
        run()
    by_operator = counter.get_flop_counts()["Global"]
    return Macs(counter.get_total_flops() // 2, by_operator.get(FUSED_ATTENTION, 0) // 2)


def tower_macs(tower: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of an image tower for one image of this size in pixels."""
    copied = copy.deepcopy(tower).to("meta").requires_grad_(False)
    return count_macs(lambda: copied(torch.empty(1, 3, height, width, device="meta"))).total
