"""timm's models: ViTs pooled by token, mean or attention (AugReg, CLIP, DINOv2, SigLIP …), and any other tower."""

from __future__ import annotations

from typing import Any

from timm.data import resolve_model_data_config
from timm.layers import Attention, AttentionPoolLatent, GluMlp, LayerScale, Mlp, SwiGLU
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers.base import (
    ROTARY,
    Blocks,
    Teacher,
    TeacherError,
    activation_name,
    attention_pool,
    block_fields,
    check_eps,
    projection_fields,
    rename,
    same_in_all,
)

BLOCK_NAMES = {
    "norm1.weight": "attn.norm.weight",
    "norm1.bias": "attn.norm.bias",
    "attn.qkv.weight": "attn.qkv.weight",
    "attn.qkv.bias": "attn.qkv.bias",
    "attn.q_norm.weight": "attn.q_norm.weight",
    "attn.q_norm.bias": "attn.q_norm.bias",
    "attn.k_norm.weight": "attn.k_norm.weight",
    "attn.k_norm.bias": "attn.k_norm.bias",
    "attn.proj.weight": "attn.proj.weight",
    "attn.proj.bias": "attn.proj.bias",
    "ls1.gamma": "attn.scale",
    "norm2.weight": "mlp.norm.weight",
    "norm2.bias": "mlp.norm.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "mlp.scale",
}
# What is not the query's, which is folded.
POOL_NAMES = {
    "kv.weight": "kv.weight",
    "kv.bias": "kv.bias",
    "proj.weight": "proj.weight",
    "proj.bias": "proj.bias",
    "norm.weight": "mlp.norm.weight",
    "norm.bias": "mlp.norm.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
QUERY_NAMES = ("latent", "q.weight", "q.bias")


class TimmTeacher(Teacher):
    """A model of timm's. Its final representation is its output: logits of a classifier, else the pooled features.

    Args:
        model: frozen here; its ``pretrained_cfg`` says how images are prepared.
    """

    def __init__(self, model: nn.Module):
        config = resolve_model_data_config(model)
        if isinstance(model, (VisionTransformer, Eva)):  # built for another size than it was published for
            config["input_size"] = (3, *model.patch_embed.img_size)
        super().__init__(model, SparseFormerImageProcessor.from_timm(config), lambda: read_blocks(model))

    def represent(self, pixel_values: Tensor) -> Tensor:
        return self.tower(pixel_values)


def read_blocks(model: nn.Module) -> Blocks:
    """Blocks and head of timm's `VisionTransformer`; TeacherError says what cannot be inherited."""
    if isinstance(model, Eva) and model.rope is not None:
        raise TeacherError(ROTARY)
    if type(model) is not VisionTransformer:
        raise TeacherError(f"{type(model).__name__} is not timm's VisionTransformer")
    blocks = list(model.blocks)
    fields = same_in_all(blocks, _read_block) | {"class_token": model.has_class_token}
    norms = [norm for norm in (model.norm, model.fc_norm) if not isinstance(norm, nn.Identity)]
    if len(norms) != 1:
        raise TeacherError(f"it has {len(norms)} final norms, not one")
    check_eps(fields, *norms)
    head: dict[str, dict[str, Tensor]] = {"norm": norms[0].state_dict()}
    if model.attn_pool is not None:
        fields["attention_pool"], head["attention_pool"] = _read_pool(model, fields)
    else:
        fields["pooling"] = _pooling(model)
    fields |= projection_fields(model.head)
    if isinstance(model.head, nn.Linear):
        head["projection"] = model.head.state_dict()
    num_tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    return Blocks(blocks, BLOCK_NAMES, model.embed_dim, num_tokens, model.num_prefix_tokens, fields, head)


def _read_block(block: nn.Module) -> dict[str, Any]:
    if isinstance(block, ResPostBlock):
        raise TeacherError("it is a post-norm block; a SparseFormer's are pre-norm")
    if type(block) is not Block:
        raise TeacherError(f"a {type(block).__name__} is no plain pre-norm block")
    attention, mlp = block.attn, block.mlp
    if type(attention) is not Attention:
        raise TeacherError(f"its attention is a {type(attention).__name__}")
    if isinstance(mlp, (GluMlp, SwiGLU)):
        raise TeacherError(f"its MLP is gated ({type(mlp).__name__}); a SparseFormer's is not")
    if type(mlp) is not Mlp:
        raise TeacherError(f"its MLP is a {type(mlp).__name__}")
    qk_norm = not isinstance(attention.q_norm, nn.Identity)
    norms = [block.norm1, block.norm2, *([attention.q_norm, attention.k_norm] if qk_norm else [])]
    layer_scale = isinstance(block.ls1, LayerScale)
    return block_fields(mlp.fc1, mlp.fc2, mlp.act, attention.num_heads, norms, layer_scale, qk_norm)


def _pooling(model: VisionTransformer) -> str:
    if model.global_pool == "token":
        return "token"
    if model.global_pool == "avg" and not model.pool_include_prefix:
        return "normed_mean" if isinstance(model.fc_norm, nn.Identity) else "mean"
    raise TeacherError(f"its pooling is {model.global_pool!r}; 'token', 'avg' of the patches, and 'map' are known")


def _read_pool(model: VisionTransformer, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """SigLIP's attention pool: the fields and the weights of an `AttentionPool`."""
    pool: Any = model.attn_pool
    if type(pool) is not AttentionPoolLatent or pool.mlp is None or pool.latent_len != 1 or pool.pool != "token":
        raise TeacherError(f"its {type(pool).__name__} pools otherwise than SigLIP's attention pool")
    if model.has_class_token or not isinstance(model.fc_norm, nn.Identity):
        raise TeacherError("its attention pool leaves out the class token or is followed by a norm")
    check_eps(fields, pool.norm)
    if activation_name(pool.mlp.act) != fields["hidden_act"]:
        raise TeacherError("its attention pool has another activation than its blocks")
    weights = pool.state_dict()
    query = pool.q(pool.latent)[0, 0]
    others = {name: value for name, value in weights.items() if name not in QUERY_NAMES}
    described = attention_pool(query.shape[0], pool.num_heads, mlp=True)
    return described, {"query": query, **rename(others, POOL_NAMES, "its attention pool")}
