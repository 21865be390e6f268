"""What a student can inherit of a tower: standard pre-norm blocks and the head behind them.

It is read off the *loaded instance*, since names and activations differ between files and libraries, and kept under the
names of a SparseFormer's own plain units and head. What a SparseFormer cannot express is an error that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip.transformer
import timm.layers.activations
import torch
from torch import Tensor, nn
from transformers import activations

from encoder.errors import TeacherError

ROTARY = "its positions are rotary: queries and keys turn with the patch grid, as latent tokens cannot"


def _weight_and_bias(names: Mapping[str, str]) -> dict[str, str]:
    """Returns the names of the weights and biases of modules."""
    return {f"{old}.{kind}": f"{new}.{kind}" for old, new in names.items() for kind in ("weight", "bias")}


# A block's weight in a library -> the weight of a plain unit. Several with one new name are stacked; see `rename`.
_MLP = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
OPEN_CLIP_NAMES = {
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "ls_1.gamma": "attn.scale",
    "ls_2.gamma": "mlp.scale",
} | _weight_and_bias(
    {
        "ln_1": "attn.norm",
        "attn.ln_q": "attn.q_norm",
        "attn.ln_k": "attn.k_norm",
        "attn.out_proj": "attn.proj",
        "ln_2": "mlp.norm",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
)
TIMM_NAMES = {"ls1.gamma": "attn.scale", "ls2.gamma": "mlp.scale"} | _weight_and_bias(
    {
        "norm1": "attn.norm",
        "attn.qkv": "attn.qkv",
        "attn.q_norm": "attn.q_norm",
        "attn.k_norm": "attn.k_norm",
        "attn.proj": "attn.proj",
        "norm2": "mlp.norm",
        **_MLP,
    }
)
# Of an attention pool of timm's, beside its query, which is folded.
TIMM_POOL_NAMES = _weight_and_bias({"kv": "kv", "proj": "proj", "norm": "mlp.norm", **_MLP})
# transformers' CLIP and SigLIP.
CLIP_NAMES = _weight_and_bias(
    {
        "layer_norm1": "attn.norm",
        "self_attn.q_proj": "attn.qkv",
        "self_attn.k_proj": "attn.qkv",
        "self_attn.v_proj": "attn.qkv",
        "self_attn.out_proj": "attn.proj",
        "layer_norm2": "mlp.norm",
        **_MLP,
    }
)
_ATTENTION = {
    "attention.q_proj": "attn.qkv",
    "attention.k_proj": "attn.qkv",
    "attention.v_proj": "attn.qkv",
    "attention.o_proj": "attn.proj",
}
DINOV2_NAMES = {"layer_scale1.lambda1": "attn.scale", "layer_scale2.lambda1": "mlp.scale"} | _weight_and_bias(
    {"norm1": "attn.norm", "norm2": "mlp.norm", **_ATTENTION, **_MLP}
)
VIT_NAMES = _weight_and_bias({"layernorm_before": "attn.norm", "layernorm_after": "mlp.norm", **_ATTENTION, **_MLP})
# Of SigLIP's pooling head in transformers, beside its attention.
SIGLIP_POOL_NAMES = _weight_and_bias({"layernorm": "mlp.norm", **_MLP})


@dataclass(frozen=True)
class Blocks:
    """Standard pre-norm blocks of a loaded tower and the head behind them, in a SparseFormer's terms.

    Attributes:
        modules: the tower's own blocks, each (B, N, D) -> (B, N, D).
        names: a block's weight -> the weight of a plain unit; see `rename`.
        width: D.
        num_tokens: tokens of one image, class token and registers counted.
        prefix: class token and registers, which come before the patches; None: its tokens lie on no grid.
        fields: fields of `SparseFormerConfig` that describe cortex and head.
        head: weights of the parts of the head: "norm" and, if any, "attention_pool" and "projection".
    """

    modules: Sequence[nn.Module]
    names: Mapping[str, str]
    width: int
    num_tokens: int
    prefix: int | None
    fields: dict[str, Any]
    head: dict[str, dict[str, Tensor]]

    def __post_init__(self) -> None:
        """Raise TeacherError if a block has a weight that ``names`` does not list."""
        for index, module in enumerate(self.modules):
            _check_known(module.state_dict(), self.names, f"block {index}")

    def weights(self, index: int) -> dict[str, Tensor]:
        """Weights of block ``index`` under a plain unit's names; biases that the block has not are zeros."""
        weights = rename(self.modules[index].state_dict(), self.names, f"block {index}")
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            weight = weights[f"{name}.weight"]
            weights.setdefault(f"{name}.bias", weight.new_zeros(len(weight)))
        return weights


def rename(weights: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    """Old names to new ones; several old ones with one new name are stacked in the order of ``names``.

    Raises:
        TeacherError: a weight that ``names`` does not list.
    """
    _check_known(weights, names, what)
    parts: dict[str, list[Tensor]] = {}
    for old, new in names.items():
        if old in weights:
            parts.setdefault(new, []).append(weights[old])
    return {new: torch.cat(found) if len(found) > 1 else found[0] for new, found in parts.items()}


def _check_known(weights: Iterable[str], names: Mapping[str, str], what: str) -> None:
    if unknown := sorted(set(weights) - set(names)):
        raise TeacherError(f"{what} has weights that a SparseFormer has no place for: {', '.join(unknown)}")


ACTIVATIONS: dict[type[nn.Module], str] = {
    open_clip.transformer.QuickGELU: "quick_gelu",
    timm.layers.activations.QuickGELU: "quick_gelu",
    timm.layers.activations.GELU: "gelu",
    timm.layers.activations.GELUTanh: "gelu_pytorch_tanh",
    activations.GELUActivation: "gelu",
    activations.GELUTanh: "gelu_pytorch_tanh",
    activations.NewGELUActivation: "gelu_pytorch_tanh",
    activations.QuickGELUActivation: "quick_gelu",
}


def activation_name(module: nn.Module) -> str:
    """The activation's name in transformers; TeacherError if it is none of the GELUs."""
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    if type(module) not in ACTIVATIONS:
        raise TeacherError(f"its activation is {type(module).__name__}; exact, tanh and quick GELU are known")
    return ACTIVATIONS[type(module)]


def norm_eps(*norms: nn.Module) -> float:
    """The eps that these LayerNorms share; TeacherError if one is no LayerNorm with weight and bias, or differs."""
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            raise TeacherError(f"a {type(norm).__name__} is in the place of a LayerNorm with weight and bias")
    found = {norm.eps for norm in norms if isinstance(norm, nn.LayerNorm)}
    if len(found) > 1:
        raise TeacherError(f"its LayerNorms differ in eps: {sorted(found)}")
    return found.pop()


def same_in_all(blocks: Sequence[nn.Module], read: Callable[[nn.Module], dict[str, Any]]) -> dict[str, Any]:
    """What ``read`` finds in every block; TeacherError, naming the block, if they differ or one is unsupported."""
    if not blocks:
        raise TeacherError("it has no blocks")
    first: dict[str, Any] = {}
    for index, block in enumerate(blocks):
        try:
            found = read(block)
        except TeacherError as error:
            raise TeacherError(f"block {index}: {error}") from error
        first = first or found
        if found != first:
            differing = [name for name in first if found[name] != first[name]]
            raise TeacherError(f"block {index} differs from block 0 in {', '.join(differing)}")
    return first


def block_fields(
    fc1: nn.Module,
    fc2: nn.Module,
    activation: nn.Module,
    num_heads: int,
    norms: Sequence[nn.Module],
    layer_scale: bool,
    qk_norm: bool = False,
) -> dict[str, Any]:
    """The fields of `SparseFormerConfig` that a block of these parts asks for."""
    if not isinstance(fc1, nn.Linear) or not isinstance(fc2, nn.Linear):
        raise TeacherError(f"its MLP has a {type(fc1).__name__} and a {type(fc2).__name__}, not two Linears")
    if fc2.out_features % num_heads:
        raise TeacherError(f"width {fc2.out_features} is no multiple of its {num_heads} heads")
    return {
        "attention_head_dim": fc2.out_features // num_heads,
        "mlp_ratio": fc1.out_features / fc2.out_features,
        "hidden_act": activation_name(activation),
        "layer_norm_eps": norm_eps(*norms),
        "layer_scale": layer_scale,
        "qk_norm": qk_norm,
    }


def check_eps(fields: Mapping[str, Any], *norms: nn.Module) -> None:
    """TeacherError if norms of the head have another eps than the blocks, of which ``fields`` are."""
    if (eps := norm_eps(*norms)) != fields["layer_norm_eps"]:
        raise TeacherError(f"a norm of its head has eps {eps}, those of its blocks {fields['layer_norm_eps']}")


def projection_fields(projection: nn.Module | None) -> dict[str, Any]:
    """The fields of `SparseFormerConfig` that describe a projection or a classifier, if there is one."""
    if projection is None or isinstance(projection, nn.Identity):
        return {"projection_dim": None}
    if not isinstance(projection, nn.Linear):
        raise TeacherError(f"its head is a {type(projection).__name__}, not a Linear")
    return {"projection_dim": projection.out_features, "projection_bias": projection.bias is not None}


def attention_pool(width: int, heads: int, mlp: bool = False, norm: bool = False) -> dict[str, Any]:
    """`SparseFormerConfig`'s description of an attention pool."""
    return {"width": width, "heads": heads, "mlp": mlp, "norm": norm}


def attention_weights(attention: nn.MultiheadAttention, query: Tensor) -> dict[str, Tensor]:
    """Weights of an `AttentionPool` that does as ``attention`` with this constant query (E,) does."""
    width = attention.embed_dim
    if attention.in_proj_weight is not None:
        q, kv = attention.in_proj_weight[:width], attention.in_proj_weight[width:]
    else:
        assert attention.q_proj_weight is not None  # MultiheadAttention has either the one or the three
        q, kv = attention.q_proj_weight, torch.cat([attention.k_proj_weight, attention.v_proj_weight])
    bias, proj = attention.in_proj_bias, attention.out_proj
    if bias is None or attention.bias_k is not None or proj.bias is None:
        raise TeacherError("its attention pool has no biases, or biases of keys")
    return {
        "query": q @ query + bias[:width],
        "kv.weight": kv,
        "kv.bias": bias[width:],
        "proj.weight": proj.weight,
        "proj.bias": proj.bias,
    }
