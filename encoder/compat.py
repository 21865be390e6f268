"""What depends on internals of libraries, each with its reason and the version that it was seen with.

`tests/test_compat.py` shows what the library does without our help, and fails once the help is no longer needed.
"""

from __future__ import annotations

import torch

# The operator of fused attention on a GPU, which torch's flop counter knows. On the meta device torch 2.14 splits
# attention into products, with the (T, T) weights between them.
FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention
