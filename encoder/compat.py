"""What depends on internals of libraries, each with its reason and the version that it was seen with.

`tests/test_compat.py` shows what the library does without our help, and fails once the help is no longer needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The operator of fused attention on a GPU, which torch's flop counter knows. On the meta device torch 2.14 splits
# attention into products, with the (T, T) weights between them.
FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention


def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """Orders an (out, in) float32 weight as MKL reads it for inputs of so many rows.

    torch 2.14 has no public way; what torch.compile's inductor uses is this operator, behind a whole compilation.
    """
    return torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)


def packed_linear(x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    """Computes `F.linear(x, weight, bias)`, from the packed weight if x has so many rows."""
    return torch.ops.mkl._mkl_linear(x, packed, weight, bias, rows)
