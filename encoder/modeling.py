"""SparseFormer as a transformers model: a picture in, a few latent tokens with their regions of interest out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from encoder import geometry
from encoder.configuration import SparseFormerConfig
from encoder.layers import (
    AdaptiveMixing,
    Attention,
    AttentionPool,
    HeadNorm,
    MixingGenerator,
    Mlp,
    PositionInjection,
    RoiAdjustment,
    Sample,
    ZeroLinear,
)


@dataclass
class SparseFormerOutput(ModelOutput):
    """What `SparseFormerVisionModel` returns. N tokens, N' of them latent (without the class token).

    Attributes:
        last_hidden_state: (B, N, D) after the final norm, the class token first if there is one.
        pooler_output: (B, D), the class token, or the mean over tokens (v1), through the final norm; (B, E) read by an
            attention pool.
        image_embeds: (B, E), the pooled representation projected; None without a projection.
        rois: (B, N', 4), the last ones: x1, y1, x2, y2 in image units.
        all_rois: one (B, N', 4) per focusing step, the initial ones first.
        hidden_states: on request, the (B, N, D) that enter the cortex, then those after each of its blocks, not normed.
        sampling_points: on request, one (B, N', P, 2) per reading of the picture, x and y in image units.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_embeds: Tensor | None = None
    rois: Tensor | None = None
    all_rois: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    sampling_points: tuple[Tensor, ...] | None = None

    @property
    def representation(self) -> Tensor:
        """(B, E), the final one: projected, or pooled where the model has no projection."""
        final = self.pooler_output if self.image_embeds is None else self.image_embeds
        assert final is not None
        return final


class EarlyConvolution(nn.Module):
    """(B, 3, H, W) -> (B, C, H/4, W/4): convolution, ReLU, max-pool, each pixel normalised over its channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        # Channels last: the convolution, the pooling, the norm and the reading of points all go through a pixel's
        # channels. ReLU and the maximum may change places, and the maximum leaves a quarter of the pixels.
        features = self.conv(pixel_values.contiguous(memory_format=torch.channels_last))
        features = F.relu(F.max_pool2d(features, kernel_size=3, stride=2, padding=1)).permute(0, 2, 3, 1)
        # Normalising in at least float32, as LayerNorm does under autocast.
        features = features.to(geometry.geometry_dtype(features.dtype))
        return F.layer_norm(features, features.shape[-1:], eps=1e-5).permute(0, 3, 1, 2)


class LatentTokens(nn.Module):
    """The tokens' learned start: embeddings (1 or N', D₀), RoIs (N', 4) and, if any, the class token (1, D)."""

    def __init__(self, config: SparseFormerConfig):
        super().__init__()
        self.num_tokens = config.num_latent_tokens
        rows = 1 if config.shared_embedding else self.num_tokens
        self.embedding = nn.Parameter(torch.zeros(rows, config.units[0]["width"]))
        rois = torch.zeros(self.num_tokens, 4)
        if any("roi" in spec["ops"] for spec in config.units):
            self.rois = nn.Parameter(rois)
        else:  # nothing moves them, and they do not train either: a fixed grid
            self.register_buffer("rois", rois)

    def forward(self, batch: int, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N', D₀) and RoIs (B, N', 4), the RoIs in at least float32.

        With another ``count`` than their own they start from the same embedding, at the RoIs that an untrained model of
        ``count`` tokens starts from.

        Raises:
            ValueError: ``count`` is less than 1, or other than their own where each token has an embedding of its own.
        """
        rois = self.rois.to(geometry.geometry_dtype(self.rois.dtype))
        if count is not None and count != self.num_tokens:
            if len(self.embedding) > 1:
                raise ValueError(f"{count} latent tokens: this model has learned {self.num_tokens} different ones")
            rois = geometry.initial_rois(count).to(rois)
        return self.embedding.expand(batch, len(rois), -1), rois.expand(batch, -1, -1)


class ClassToken(nn.Module):
    """Puts the class token in front of the tokens: (B, N', D) -> (B, N' + 1, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.embedding.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)


class Unit(GradientCheckpointingLayer):
    """A sequence of operations, each of which runs at most once."""

    def __init__(self, config: SparseFormerConfig, index: int):
        super().__init__()
        spec = config.units[index]
        width, self.ops, self.repeats = spec["width"], tuple(spec["ops"]), spec["repeats"]
        cortex = index >= config.num_focusing_units
        activation = config.focus_act if self.repeats > 1 else config.hidden_act
        if config.repeat_embedding and self.repeats > 1:
            self.repeat_embedding = nn.Parameter(torch.zeros(self.repeats, width))
        else:
            self.register_parameter("repeat_embedding", None)
        if "sample" in self.ops:
            self.sample = Sample(config, width)
        if "pe" in self.ops:
            self.pe = PositionInjection(config, width)
        if "attn" in self.ops:
            self.attn = Attention(config, width, cortex)
        if "mlp" in self.ops:
            self.mlp = Mlp(config, width, activation, cortex)
        if "roi" in self.ops:
            self.roi = RoiAdjustment(config, width)
        rate = config.drop_path_rate * index / max(1, len(config.units) - 1)
        self.drop_path = StochasticDepth(rate, mode="row") if rate else nn.Identity()

    def forward(
        self, tokens: Tensor, rois: Tensor | None = None, features: Tensor | None = None, repeat: int = 0
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One run of the unit.

        Args:
            tokens: (B, N, D). rois: (B, N, 4). features: (B, C, H, W); both only where the unit looks.
            repeat: which of its runs this is.

        Returns:
            tokens, RoIs, and the sampling points (B, N, P, 2) or None.
        """
        points = None
        if self.repeat_embedding is not None:
            tokens = tokens + self.repeat_embedding[repeat].to(tokens.dtype)
        for op in self.ops:
            if op == "sample":
                update, points = self.sample(tokens, rois, features)
                tokens = tokens + self.drop_path(update)
            elif op == "pe":
                tokens = tokens + self.drop_path(self.pe(rois))
            elif op == "attn":
                tokens = tokens + self.drop_path(self.attn(tokens))
            elif op == "mlp":
                tokens = tokens + self.drop_path(self.mlp(tokens))
            elif rois is not None:  # operation "roi"
                rois = geometry.adjust_rois(rois, self.drop_path(self.roi(tokens, rois)))
        return tokens, rois, points


class Transition(nn.Sequential):
    """From one width to the next: a Linear, in v1 followed by a LayerNorm."""

    def __init__(self, config: SparseFormerConfig, width_in: int, width_out: int):
        norm = [nn.LayerNorm(width_out, eps=config.layer_norm_eps)] if config.transition_norm else []
        super().__init__(nn.Linear(width_in, width_out), *norm)


class SparseFormerPreTrainedModel(PreTrainedModel):
    """Initial values of what is not inherited, and what transformers needs to know about the model."""

    config_class = SparseFormerConfig
    base_model_prefix = "sparseformer"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["Unit"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers visits only modules that have parameters of their own, so each rule hangs on such a module.
        std = self.config.initializer_range
        if isinstance(module, MixingGenerator):
            init.zeros_(module.weight)
            matrices = [nn.init.xavier_uniform_(torch.empty(shape)).flatten() for shape in module.matrices]
            init.copy_(module.bias, torch.cat(matrices))
        elif isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            start = module.normalized_shape[0] ** -0.5 if isinstance(module, HeadNorm) else 1.0
            init.constant_(module.weight, start)
            init.zeros_(module.bias)
        elif isinstance(module, LatentTokens):
            init.trunc_normal_(module.embedding, std=1.0)
            init.copy_(module.rois, geometry.initial_rois(module.num_tokens))
        elif isinstance(module, ClassToken):
            init.trunc_normal_(module.embedding, std=1.0)
        elif isinstance(module, Unit) and module.repeat_embedding is not None:
            init.trunc_normal_(module.repeat_embedding, std=std)
        elif isinstance(module, Sample):
            init.copy_(module.offset_bias, geometry.grid_offsets(module.config.num_sampling_points).flatten())
        elif isinstance(module, (Attention, Mlp)) and module.scale is not None:
            init.constant_(module.scale, 1.0)
        elif isinstance(module, AttentionPool):
            init.trunc_normal_(module.query, std=1.0)
        elif isinstance(module, AdaptiveMixing) and module.channel_bias is not None:
            init.zeros_(module.channel_bias)
            init.zeros_(module.point_bias)


class SparseFormerVisionModel(SparseFormerPreTrainedModel):
    """SparseFormer of either family (ICLR 2024; bootstrapped: CVPR 2024, arXiv 2312.01987).

    Units run in order; each is a sequence of operations and may repeat. Any picture height and width is taken.
    """

    def __init__(self, config: SparseFormerConfig):
        super().__init__(config)
        self.early_convolution = EarlyConvolution(config.early_channels)
        self.latent = LatentTokens(config)
        self.class_token = ClassToken(config.hidden_size) if config.class_token else None
        # Units and the transitions between widths share one numbering, as in the published weights.
        self.layers = nn.ModuleList()
        width = config.units[0]["width"]
        for index, spec in enumerate(config.units):
            if spec["width"] != width:
                self.layers.append(Transition(config, width, spec["width"]))
                width = spec["width"]
            self.layers.append(Unit(config, index))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention_pool = None
        if config.attention_pool is not None:
            self.attention_pool = AttentionPool(config, width)
            width = config.attention_pool["width"]
        if config.projection_dim is None:
            self.projection = None
        else:
            self.projection = nn.Linear(width, config.projection_dim, bias=config.projection_bias)
        self.post_init()

    @property
    def cortex(self) -> list[Unit]:
        """The plain units at the end, which a bootstrapped model inherits from its teacher."""
        return cast("list[Unit]", list(self.layers)[len(self.layers) - self.config.num_hidden_layers :])

    @property
    def focusing(self) -> list[nn.Module]:
        """Everything before the cortex: early convolution, latent tokens, focusing units, transitions, class token."""
        layers = list(self.layers[: len(self.layers) - self.config.num_hidden_layers])
        return [self.early_convolution, self.latent, *layers] + ([self.class_token] if self.class_token else [])

    @property
    def head(self) -> dict[str, nn.Module]:
        """What turns tokens into the final representation, by name: final norm, attention pool, projection."""
        parts = {"norm": self.norm, "attention_pool": self.attention_pool, "projection": self.projection}
        return {name: module for name, module in parts.items() if module is not None}

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that leave the cortex (B, N, D) -> normed tokens (B, N, D), pooled (B, D or E)."""
        normed, latent = self.norm(tokens), slice(int(self.config.class_token), None)
        pooling = self.config.pooling or ("token" if self.config.class_token else "mean")
        if self.attention_pool is not None:
            return normed, self.attention_pool(normed)
        if pooling == "token":
            return normed, normed[:, 0]
        if pooling == "normed_mean":
            return normed, normed[:, latent].mean(dim=1)
        # v1 averages first and normalises the average, so its pooled vector is not the mean of last_hidden_state.
        return normed, self.norm(tokens[:, latent].mean(dim=1))

    def get_input_embeddings(self) -> nn.Module:
        return self.early_convolution.conv

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_sampling_points: bool = False,
        num_tokens: int | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SparseFormerOutput | tuple:
        """Look at pictures.

        Args:
            pixel_values: (B, 3, H, W), normalised as the image processor does; any H and W.
            output_hidden_states: return the tokens that enter the cortex and those after each of its blocks.
            output_sampling_points: return where each reading of the picture looked.
            num_tokens: N, the class token counted, to look with; None: the configuration's. Another N than that starts
                from untrained RoIs; how well it sees depends on whether it was trained with several.
            return_dict: False for a tuple.
            **kwargs: what callers of other towers pass (attention outputs, interpolation) has no meaning here.

        Returns:
            `SparseFormerOutput`.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values has the shape {tuple(pixel_values.shape)}; (B, 3, H, W) is needed")
        features = self.early_convolution(pixel_values.to(self.dtype))
        if features.is_cuda:  # the kernels read a pixel's channels in one go: laid out so once, not for each reading
            features = features.contiguous(memory_format=torch.channels_last)
        latent = None if num_tokens is None else num_tokens - self.config.class_token
        tokens, rois = self.latent(len(pixel_values), latent)
        all_rois, all_points = [rois], []
        for layer in self.layers[: len(self.layers) - self.config.num_hidden_layers]:
            if not isinstance(layer, Unit):  # a transition between widths
                tokens = layer(tokens)
                continue
            for repeat in range(layer.repeats):
                tokens, rois, points = layer(tokens, rois, features, repeat)
                if points is not None:
                    all_points.append(points)
                if "roi" in layer.ops:
                    all_rois.append(rois)
        if self.class_token is not None:
            tokens = self.class_token(tokens)
        hidden_states = [tokens]
        for block in self.cortex:
            for repeat in range(block.repeats):
                tokens = block(tokens, repeat=repeat)[0]
            hidden_states.append(tokens)
        tokens, pooled = self.pool(tokens)
        output = SparseFormerOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            image_embeds=None if self.projection is None else self.projection(pooled),
            rois=rois,
            all_rois=tuple(all_rois),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            sampling_points=tuple(all_points) if output_sampling_points else None,
        )
        return output if return_dict is not False else output.to_tuple()
