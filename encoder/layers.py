"""The operations of a SparseFormer unit. Each takes tokens (B, N, D) and, where it samples, RoIs (B, N, 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import maybe_autocast

from encoder import geometry, kernels
from encoder.configuration import SparseFormerConfig


class GeometryLinear(nn.Linear):
    """A Linear that runs in its input's type, whatever its weights' own: geometry stays float32 in a bf16 model."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class ZeroLinear(GeometryLinear):
    """A `GeometryLinear` whose weights start at zero, so that training starts from the grid."""


class HeadNorm(nn.LayerNorm):
    """The LayerNorm in front of the offsets, the RoI's change and the mixing weights; its weight starts at 1/√D.

    Like `GeometryLinear` it runs in its input's type, whatever its weights' own.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Plain softmax attention on (B, heads, N, d); returns (B, N, heads, d) and the weights (B, heads, N, N)."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=geometry.geometry_dtype(query.dtype)).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2), weights


def attend(
    module: Attention | AttentionPool, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention as the configuration implements it: (B, heads, M, d), (B, heads, N, d) twice -> (B, M, heads, d).

    ``mask`` is what transformers' `create_bidirectional_mask` makes for that implementation.
    """
    chosen = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    read: Tensor
    read, _ = chosen(module, query, key, value, mask, scaling=module.head_dim**-0.5, is_causal=False, dropout=0.0)
    return read


class Attention(nn.Module):
    """ATTN: pre-norm self-attention among the tokens, fused qkv with bias, residual.

    In the cortex, as the configuration says, with layer scale and with normed queries and keys.
    """

    def __init__(self, config: SparseFormerConfig, width: int, cortex: bool = False):
        super().__init__()
        self.config = config
        self.num_heads = config.heads(width)
        self.head_dim = width // self.num_heads
        self.is_causal = False
        self.scale = nn.Parameter(torch.ones(width)) if cortex and config.layer_scale else None
        qk_norm = cortex and config.qk_norm
        self.q_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps) if qk_norm else None
        self.k_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps) if qk_norm else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), what is added to the tokens; the mask is `attend`'s."""
        batch, length, width = tokens.shape
        qkv = self.qkv(self.norm(tokens)).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        update: Tensor = self.proj(attend(self, query, key, value, mask).reshape(batch, length, width))
        return update if self.scale is None else update * self.scale


class QuickGELU(nn.Module):
    """x·σ(1.702x), CLIP's activation, in one pass over memory.

    That is the gradient of softplus with β = 1.702, for x flowing back: torch has a kernel for it, and for the
    backward pass through it. From βx = 40 on σ is 1 even in float64, and the exponential does not overflow.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # the form that other runtimes know, and fuse
            return x * torch.sigmoid(1.702 * x)
        activated: Tensor = torch.ops.aten.softplus_backward(x, x, 1.702, 40.0)
        return activated


def activation_of(name: str) -> nn.Module:
    """An activation by its transformers name."""
    return QuickGELU() if name == "quick_gelu" else ACT2FN[name]


class Mlp(nn.Module):
    """MLP: pre-norm two-layer perceptron, residual; in the cortex with layer scale, as the configuration says."""

    def __init__(self, config: SparseFormerConfig, width: int, activation: str, cortex: bool = False):
        super().__init__()
        inner = round(width * config.mlp_ratio)
        self.scale = nn.Parameter(torch.ones(width)) if cortex and config.layer_scale else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, inner)
        self.act = activation_of(activation)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D), what is added to the tokens."""
        update: Tensor = self.fc2(self.act(self.fc1(self.norm(tokens))))
        return update if self.scale is None else update * self.scale


class AttentionPool(nn.Module):
    """Pooling by a learned query that reads all tokens, followed by an MLP (SigLIP) or a LayerNorm (CoCa).

    The query is stored behind its projection: a projection of a constant is a constant.
    """

    def __init__(self, config: SparseFormerConfig, width: int):
        super().__init__()
        assert config.attention_pool is not None
        inner, self.num_heads = config.attention_pool["width"], config.attention_pool["heads"]
        self.config = config
        self.head_dim = inner // self.num_heads
        self.is_causal = False
        self.query = nn.Parameter(torch.zeros(inner))
        self.kv = nn.Linear(width, 2 * inner)
        self.proj = nn.Linear(inner, inner)
        self.mlp = Mlp(config, inner, config.hidden_act) if config.attention_pool["mlp"] else None
        self.norm = nn.LayerNorm(inner, eps=config.layer_norm_eps) if config.attention_pool["norm"] else None

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, E), without the tokens where ``attention_mask`` (B, N) is False."""
        batch, length = tokens.shape[:2]
        kv = self.kv(tokens).view(batch, length, 2, self.num_heads, self.head_dim)
        key, value = kv.permute(2, 0, 3, 1, 4)
        query = self.query.to(key.dtype).view(1, self.num_heads, 1, self.head_dim).expand(batch, -1, -1, -1)
        mask = None
        if attention_mask is not None:
            mask = create_bidirectional_mask(self.config, query[:, 0], attention_mask, encoder_hidden_states=tokens)
        pooled: Tensor = self.proj(attend(self, query, key, value, mask).reshape(batch, -1))
        if self.mlp is not None:
            pooled = pooled + self.mlp(pooled)
        if self.norm is not None:
            pooled = self.norm(pooled)
        return pooled


class MixingGenerator(nn.Linear):
    """The last Linear of the generator: C·C values for the channels, then P'·P for the points.

    Its weight starts at zero and its bias as two Xavier matrices, so that every token mixes alike at first.
    """

    def __init__(self, hidden: int, channels: int, points: int, out_points: int):
        self.matrices = ((channels, channels), (points, out_points))
        super().__init__(hidden, channels**2 + points * out_points)


class AdaptiveMixing(nn.Module):
    """What mixes a token's sample (P, C): matrices generated from the token, for the channels first, then the points.

    `encoder.kernels` mixes; ``out`` takes the result back to the token's width. The generator is
    Linear(Linear(LayerNorm(token))) without an activation between; its outputs are C·C values for the channels, then
    P'·P for the points, P' = max(P, 32).
    """

    MIN_OUT_POINTS = 32

    def __init__(self, config: SparseFormerConfig, width: int):
        super().__init__()
        self.points, self.channels = config.num_sampling_points, config.early_channels
        self.out_points = max(self.points, self.MIN_OUT_POINTS)
        hidden = config.mixing_hidden_size or width // 4
        self.norm = HeadNorm(width, eps=1e-5)
        self.reduce = nn.Linear(width, hidden)
        self.expand = MixingGenerator(hidden, self.channels, self.points, self.out_points)
        self.out = nn.Linear(self.channels * self.out_points, width)
        if config.mixing_bias:
            self.channel_bias = nn.Parameter(torch.zeros(self.channels))
            self.point_bias = nn.Parameter(torch.zeros(self.out_points))
        else:
            self.register_parameter("channel_bias", None)
            self.register_parameter("point_bias", None)

    def weights(self, tokens: Tensor) -> Tensor:
        """tokens (B, N, D) -> (B, N, C·C + P'·P), the token's two matrices."""
        weights: Tensor = self.expand(self.reduce(self.norm(tokens)))
        return weights


class Sample(nn.Module):
    """SAMPLE: read the early feature map at P points in the token's RoI, mix what was read into the token."""

    def __init__(self, config: SparseFormerConfig, width: int):
        super().__init__()
        self.config = config
        self.clamp_gradient = config.clamp_position_gradient
        self.norm = HeadNorm(width, eps=config.layer_norm_eps)
        self.offset = ZeroLinear(width, 2 * config.num_sampling_points, bias=False)
        self.offset_bias = nn.Parameter(torch.zeros(2 * config.num_sampling_points))
        self.mixing = AdaptiveMixing(config, width)

    def forward(
        self, tokens: Tensor, rois: Tensor, features: Tensor, extent: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """tokens (B, N, D), rois (B, N, 4), features (B, C, H, W) -> (B, N, D) to add, positions (B, N, P, 2).

        The positions, in image units, and all that leads to them have the RoIs' type. Tokens and RoIs that are the same
        for all images may be given once, as (1, N, …). Where images fill only a part of their feature map, ``extent``
        (B, 1, 4) is that part's width, height, width and height, of the map's.
        """
        batch = features.shape[0]  # not len, a constant to torch.export
        weights = self.mixing.weights(tokens).expand(batch, -1, -1)
        with maybe_autocast(tokens.device.type, enabled=False):
            offsets = self.offset(self.norm(tokens.to(rois.dtype))) + self.offset_bias.to(rois.dtype)
            rois, offsets = rois.expand(batch, -1, -1), offsets.expand(batch, -1, -1)
            if extent is not None:  # positions are linear in the RoIs
                rois = rois * extent
            mixed, positions = kernels.sample_and_mix(
                features,
                rois,
                offsets.unflatten(-1, (self.config.num_sampling_points, 2)),
                weights,
                self.mixing.channel_bias,
                self.mixing.point_bias,
                padding=self.config.sampling_padding,
                gradient_bound=1.0 / features.shape[-2] if self.clamp_gradient and self.training else None,
                kernel=self.config.sampling_kernel,
            )
        if extent is not None:
            positions = positions / extent[:, :, None, :2]
        return self.mixing.out(mixed.flatten(2)), positions


class PositionInjection(nn.Module):
    """PE: add Linear(LayerNorm(sinusoidal features of the RoI)) to the token. No gradient flows into the RoI."""

    def __init__(self, config: SparseFormerConfig, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.linear = nn.Linear(width, width)

    def forward(self, rois: Tensor) -> Tensor:
        """(B, N, 4) -> (B, N, D), what is added to the tokens."""
        features = geometry.roi_features(rois.detach(), self.linear.in_features)
        update: Tensor = self.linear(self.norm(features.to(self.norm.weight.dtype)))
        return update


class RoiAdjustment(nn.Module):
    """ROI: predict from the token how its RoI moves and resizes; in at least float32, whatever the autocast."""

    def __init__(self, config: SparseFormerConfig, width: int):
        super().__init__()
        self.norm = HeadNorm(width, eps=config.layer_norm_eps)
        self.hidden = GeometryLinear(width, width) if config.roi_head == "mlp" else None
        self.delta = ZeroLinear(width, 4, bias=False)

    def forward(self, tokens: Tensor, rois: Tensor) -> Tensor:
        """tokens (B, N, D), rois (B, N, 4) -> the change (B, N, 4) that `geometry.adjust_rois` takes."""
        with maybe_autocast(tokens.device.type, enabled=False):
            x = self.norm(tokens.to(rois.dtype))
            if self.hidden is not None:
                x = F.gelu(self.hidden(x))
            delta: Tensor = self.delta(x)
        return delta
