"""SparseFormer as a transformers model: an image in, a few latent tokens with their regions of interest out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from encoder import geometry
from encoder.configuration import SparseFormerConfig
from encoder.layers import (
    AdaptiveMixing,
    Attention,
    AttentionPool,
    HeadNorm,
    MixingGenerator,
    Mlp,
    Sample,
    ZeroLinear,
)
from encoder.units import ClassToken, EarlyConvolution, LatentTokens, Transition, Unit


@dataclass
class SparseFormerOutput(ModelOutput):
    """What `SparseFormerVisionModel` returns. N tokens, N' of them latent (without the class token).

    Attributes:
        last_hidden_state: (B, N, D) after the final norm, the class token first if there is one.
        pooler_output: (B, D), the class token, or the mean over tokens (v1), through the final norm; (B, E) read by an
            attention pool.
        image_embeds: (B, E), what is pooled, projected; None without a projection.
        rois: (B, N', 4), the last ones: x1, y1, x2, y2 in image units.
        all_rois: one (B, N', 4) per focusing step, the initial ones first.
        hidden_states: on request, the (B, N, D) that enter the cortex, then those after each of its blocks, not normed.
        sampling_points: on request, one (B, N', P, 2) per sampling step, x and y in image units.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_embeds: Tensor | None = None
    rois: Tensor | None = None
    all_rois: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    sampling_points: tuple[Tensor, ...] | None = None

    @property
    def embedding(self) -> Tensor:
        """Of an image, (B, E): projected, or pooled where the model has no projection."""
        final = self.pooler_output if self.image_embeds is None else self.image_embeds
        assert final is not None
        return final


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

    Units run in order; each is a sequence of operations and may repeat. Any image height and width is taken.
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
        """What turns tokens into an image's embedding, by name: final norm, attention pool, projection."""
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
        # v1 averages first and normalizes the average, so its pooled vector is not the mean of last_hidden_state.
        return normed, self.norm(tokens[:, latent].mean(dim=1))

    def get_input_embeddings(self) -> nn.Module:
        return self.early_convolution.conv

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers' own
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_sampling_points: bool = False,
        num_tokens: int | None = None,
        **kwargs: object,
    ) -> SparseFormerOutput:
        """Embeds images.

        Args:
            pixel_values: (B, 3, H, W), normalized as the image processor does; any H and W.
            output_hidden_states: return the tokens that enter the cortex and those after each of its blocks; None: as
                the configuration says.
            output_sampling_points: return the points that each sampling step reads.
            num_tokens: N, the class token counted; None: the configuration's. Another N than that starts
                from untrained RoIs; how well it sees depends on whether it was trained with several.
            **kwargs: ``return_dict=False`` for a tuple, which the configuration may ask for too; what else callers of
                other towers pass (attention outputs, interpolation) has no meaning here.

        Returns:
            `SparseFormerOutput`.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values has the shape {tuple(pixel_values.shape)}; (B, 3, H, W) is needed")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        features = self.early_convolution(pixel_values.to(self.dtype))
        if features.is_cuda:  # the kernels read a pixel's channels in one go: laid out so once, not in each step
            features = features.contiguous(memory_format=torch.channels_last)
        latent = None if num_tokens is None else num_tokens - self.config.class_token
        # All images start from the same tokens: what these give before and beside the first sampling step is computed
        # once for all of them. In training drop path tells them apart.
        batch = pixel_values.shape[0]
        tokens, rois = self.latent(batch if self.training else 1, latent)
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
        tokens, rois = tokens.expand(batch, -1, -1), rois.expand(batch, -1, -1)  # without any sampling step
        if self.class_token is not None:
            tokens = self.class_token(tokens)
        hidden_states = [tokens]
        for block in self.cortex:
            for repeat in range(block.repeats):
                tokens = block(tokens, repeat=repeat)[0]
            hidden_states.append(tokens)
        tokens, pooled = self.pool(tokens)
        return SparseFormerOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            image_embeds=None if self.projection is None else self.projection(pooled),
            rois=rois,
            all_rois=tuple(each.expand(batch, -1, -1) for each in all_rois),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            sampling_points=tuple(all_points) if output_sampling_points else None,
        )
