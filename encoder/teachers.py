"""Teachers: pre-trained vision transformers behind one small interface.

An adapter reads everything from the *loaded instance* (names and activations differ between files and libraries) and
hands out blocks under the names that a SparseFormer's plain unit uses. What a SparseFormer cannot express is refused
with the reason, never half-copied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn


class TeacherError(ValueError):
    """A tower whose blocks a SparseFormer cannot inherit; the message says what stands in the way."""


class Teacher(nn.Module, ABC):
    """A pre-norm ViT that a SparseFormer learns from. Frozen and in eval mode.

    Attributes:
        width: D, width of its tokens.
        num_heads: attention heads of a block.
        num_blocks: L.
        num_tokens: tokens per picture, class token counted.
        image_size: picture side in pixels.
        embed_dim: E, width of its final representation.
        hidden_act: activation of its blocks, by its transformers name.
        norm_eps: eps of its LayerNorms.
        projection_bias: whether the projection has a bias.
        mlp_ratio: width of a block's perceptron over D.
    """

    width: int
    num_heads: int
    num_blocks: int
    num_tokens: int
    image_size: int
    embed_dim: int
    hidden_act: str
    norm_eps: float
    projection_bias: bool
    mlp_ratio: float

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), normalised -> final representation (B, E)."""

    @abstractmethod
    def block(self, index: int) -> nn.Module:
        """The teacher's own block ``index``: (B, N, D) -> (B, N, D)."""

    @abstractmethod
    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Weights of block ``index`` under a plain unit's names (``attn.qkv.weight``, ``mlp.fc1.bias`` …)."""

    @abstractmethod
    def head_weights(self) -> dict[str, Tensor]:
        """``norm.weight``, ``norm.bias``, ``projection.weight`` and, if any, ``projection.bias``."""


def _activation_name(module: nn.Module) -> str:
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    raise TeacherError(f"the activation {type(module).__name__} has no counterpart; GELU and QuickGELU have")


class OpenClipTeacher(Teacher):
    """open_clip's own `VisionTransformer` with a class token: OpenAI's and LAION's CLIP, in both activations.

    Args:
        visual: ``clip_model.visual``; frozen here.

    Raises:
        TeacherError: another class of tower, another pooling, layer scale, or blocks of another kind.
    """

    BLOCK_NAMES: ClassVar[dict[str, str]] = {
        "ln_1.weight": "attn.norm.weight",
        "ln_1.bias": "attn.norm.bias",
        "attn.in_proj_weight": "attn.qkv.weight",
        "attn.in_proj_bias": "attn.qkv.bias",
        "attn.out_proj.weight": "attn.proj.weight",
        "attn.out_proj.bias": "attn.proj.bias",
        "ln_2.weight": "mlp.norm.weight",
        "ln_2.bias": "mlp.norm.bias",
        "mlp.c_fc.weight": "mlp.fc1.weight",
        "mlp.c_fc.bias": "mlp.fc1.bias",
        "mlp.c_proj.weight": "mlp.fc2.weight",
        "mlp.c_proj.bias": "mlp.fc2.bias",
    }

    def __init__(self, visual: nn.Module):
        super().__init__()
        if not isinstance(visual, VisionTransformer):
            raise TeacherError(f"{type(visual).__name__} is not open_clip's VisionTransformer")
        if visual.attn_pool is not None or visual.pool_type != "tok" or visual.proj is None:
            raise TeacherError("the tower pools otherwise than by its class token, or has no projection")
        blocks = visual.transformer.resblocks
        for index, block in enumerate(blocks):
            if type(block) is not ResidualAttentionBlock or not isinstance(block.attn, nn.MultiheadAttention):
                raise TeacherError(f"block {index} is a {type(block).__name__}, not a plain residual attention block")
            if not isinstance(block.ls_1, nn.Identity) or not isinstance(block.ls_2, nn.Identity):
                raise TeacherError(f"block {index} has layer scale")
        self.visual = visual.requires_grad_(False).eval()
        height, width = visual.image_size
        if height != width:
            raise TeacherError(f"pictures of {height}x{width} pixels: only square ones are supported")
        self.width, self.embed_dim = visual.proj.shape
        self.num_heads = blocks[0].attn.num_heads
        self.num_blocks = len(blocks)
        self.num_tokens = visual.positional_embedding.shape[0]
        self.image_size = height
        self.hidden_act = _activation_name(blocks[0].mlp.gelu)
        self.mlp_ratio = blocks[0].mlp.c_fc.out_features / self.width
        self.norm_eps = visual.ln_post.eps
        self.projection_bias = False

    def train(self, mode: bool = True) -> OpenClipTeacher:
        """A teacher stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.visual(pixel_values)

    def block(self, index: int) -> nn.Module:
        return self.visual.transformer.resblocks[index]

    def block_weights(self, index: int) -> dict[str, Tensor]:
        weights = self.block(index).state_dict()
        unknown = sorted(set(weights) - set(self.BLOCK_NAMES))
        if unknown:
            raise TeacherError(f"block {index} has weights that a plain unit has no place for: {unknown}")
        return {new: weights[old] for old, new in self.BLOCK_NAMES.items()}

    def head_weights(self) -> dict[str, Tensor]:
        return {
            "norm.weight": self.visual.ln_post.weight,
            "norm.bias": self.visual.ln_post.bias,
            "projection.weight": self.visual.proj.T,
        }
