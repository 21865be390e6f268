"""Image towers of open_clip: its own ViTs, pooled by token, mean or attention; its ResNets; and timm's towers in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    Attention,
    AttentionalPooler,
    CustomResidualAttentionBlock,
    LayerScale,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers import timm_towers
from encoder.teachers.base import (
    Blocks,
    Teacher,
    TeacherError,
    attention_pool,
    attention_weights,
    block_fields,
    check_eps,
    projection_fields,
    same_in_all,
)

BLOCK_NAMES = {
    "ln_1.weight": "attn.norm.weight",
    "ln_1.bias": "attn.norm.bias",
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "attn.ln_q.weight": "attn.q_norm.weight",
    "attn.ln_q.bias": "attn.q_norm.bias",
    "attn.ln_k.weight": "attn.k_norm.weight",
    "attn.ln_k.bias": "attn.k_norm.bias",
    "attn.out_proj.weight": "attn.proj.weight",
    "attn.out_proj.bias": "attn.proj.bias",
    "ls_1.gamma": "attn.scale",
    "ln_2.weight": "mlp.norm.weight",
    "ln_2.bias": "mlp.norm.bias",
    "mlp.c_fc.weight": "mlp.fc1.weight",
    "mlp.c_fc.bias": "mlp.fc1.bias",
    "mlp.c_proj.weight": "mlp.fc2.weight",
    "mlp.c_proj.bias": "mlp.fc2.bias",
    "ls_2.gamma": "mlp.scale",
}


class OpenClipTeacher(Teacher):
    """An image tower of open_clip: ``clip_model.visual``. A tower of timm's inside it is read as timm's.

    Args:
        visual: frozen here; its ``preprocess_cfg`` says how images are prepared.
    """

    def __init__(self, visual: nn.Module):
        super().__init__(visual, SparseFormerImageProcessor.from_open_clip(visual), lambda: read_blocks(visual))

    def represent(self, pixel_values: Tensor) -> Tensor:
        output = self.tower(pixel_values)
        return output[0] if isinstance(output, tuple) else output  # CoCa's towers also return tokens


def read_blocks(visual: nn.Module) -> Blocks:
    """Blocks and head of open_clip's own ViT, or of timm's in it; TeacherError says what cannot be inherited."""
    if isinstance(visual, TimmModel):
        return _read_timm_blocks(visual)
    if not isinstance(visual, VisionTransformer):
        raise TeacherError(f"{type(visual).__name__} is not open_clip's VisionTransformer")
    blocks = list(visual.transformer.resblocks)
    fields = same_in_all(blocks, _read_block) | {"class_token": True}
    head: dict[str, dict[str, Tensor]] = {}
    if visual.attn_pool is None:
        final: nn.Module = visual.ln_post
        fields["pooling"] = _pooling(visual)
    else:
        final = visual.attn_pool.ln_k
        fields["attention_pool"], head["attention_pool"] = _read_pool(visual)
    check_eps(fields, final, visual.ln_post)
    head["norm"] = final.state_dict()
    if visual.proj is not None:
        head["projection"] = {"weight": visual.proj.T}
        fields |= {"projection_dim": visual.proj.shape[1], "projection_bias": False}
    else:
        fields["projection_dim"] = None
    width, num_tokens = blocks[0].mlp.c_proj.out_features, visual.positional_embedding.shape[0]
    return Blocks(blocks, BLOCK_NAMES, width, num_tokens, 1, fields, head)


def _read_block(block: nn.Module) -> dict[str, Any]:
    if type(block) not in (ResidualAttentionBlock, CustomResidualAttentionBlock):
        raise TeacherError(f"a {type(block).__name__} is no residual attention block of open_clip")
    attention: Any = block.attn
    if type(attention) not in (nn.MultiheadAttention, Attention):
        raise TeacherError(f"its attention is a {type(attention).__name__}")
    qk_norm = isinstance(attention, Attention) and not isinstance(attention.ln_q, nn.Identity)
    norms = [block.ln_1, block.ln_2, *([attention.ln_q, attention.ln_k] if qk_norm else [])]
    layer_scale = isinstance(block.ls_1, LayerScale)
    mlp: Any = block.mlp
    return block_fields(mlp.c_fc, mlp.c_proj, mlp.gelu, attention.num_heads, norms, layer_scale, qk_norm)


def _pooling(visual: VisionTransformer) -> str:
    if visual.pool_type == "tok":
        return "token"
    if visual.pool_type == "avg":
        return "mean" if visual.final_ln_after_pool else "normed_mean"
    raise TeacherError(f"its pooling is {visual.pool_type!r}; 'tok', 'avg' and an attention pool are known")


def _read_pool(visual: VisionTransformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """CoCa's attention pool: the fields and the weights of an `AttentionPool`."""
    pool: Any = visual.attn_pool
    if type(pool) is not AttentionalPooler or visual.attn_pool_contrastive is not None or visual.pool_type != "tok":
        raise TeacherError("its attention pool is followed by another one, or by a mean, as only experiments have it")
    weights = attention_weights(pool.attn, pool.ln_q(pool.query[0]))  # the first query's reading is what 'tok' takes
    weights |= {f"norm.{name}": value for name, value in visual.ln_post.state_dict().items()}
    return attention_pool(pool.attn.embed_dim, pool.attn.num_heads, norm=True), weights


def _read_timm_blocks(visual: TimmModel) -> Blocks:
    """Blocks and head of a tower of timm's, whose projection stands behind timm's own head."""
    parts = dict(visual.head.named_children())
    if more := sorted(set(parts) - {"drop", "proj"}):
        raise TeacherError(f"its projection has {', '.join(more)}; only a single Linear can be inherited")
    blocks = timm_towers.read_blocks(visual.trunk)
    if "proj" not in parts:
        return blocks
    if "projection" in blocks.head:
        raise TeacherError("it has two projections, timm's and open_clip's")
    head = blocks.head | {"projection": parts["proj"].state_dict()}
    return replace(blocks, head=head, fields=blocks.fields | projection_fields(parts["proj"]))
