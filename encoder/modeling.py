"""SparseFormer as a transformers model: an image in, a few latent tokens with their regions of interest out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from data.limits import MAX_TOKENS, check_range
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
from encoder.stem import EarlyConvolution, InheritedStem
from encoder.units import ClassToken, LatentTokens, Transition, Unit


@dataclass
class SparseFormerOutput(ModelOutput):
    """What `SparseFormerVisionModel` returns. N tokens, N' of them latent (without the class token).

    Attributes:
        last_hidden_state: (B, N, D) after the final norm: the class token if there is one, the latent tokens, and those
            of the focus RoIs.
        pooler_output: (B, D), the class token, or the mean over tokens (v1), through the final norm; (B, E) read by an
            attention pool.
        image_embeds: (B, E), what is pooled, projected; None without a projection.
        token_embeds: on request, (B, N', E), the latent tokens by themselves in the space of `image_embeds`.
        rois: (B, N', 4), the last ones: x1, y1, x2, y2 in image units.
        all_rois: one (B, N', 4) per focusing step, the initial ones first.
        hidden_states: on request, the (B, N, D) that enter the cortex, then those after each of its blocks, not normed.
        sampling_points: on request, one (B, N', P, 2) per sampling step, x and y in image units.
        attention_mask: (B, N), False for padding, where images have different numbers of tokens; else None.
        features: on request, (B, C, h, w), the map that the tokens sample.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_embeds: Tensor | None = None
    token_embeds: Tensor | None = None
    rois: Tensor | None = None
    all_rois: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    sampling_points: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None
    features: Tensor | None = None

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
    _no_split_modules = ["Unit", "Stages"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers visits only modules with parameters or buffers of their own, so each rule hangs on such a module.
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
            start = geometry.nested_rois if module.nested else geometry.initial_rois
            init.copy_(module.rois, start(module.num_tokens))
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
        if callable(start := getattr(module, "init_non_persistent_buffers", None)):  # of a timm model
            start()


class SparseFormerVisionModel(SparseFormerPreTrainedModel):
    """SparseFormer of either family (ICLR 2024; bootstrapped: CVPR 2024, arXiv 2312.01987).

    Units run in order; each is a sequence of operations and may repeat. Any image height and width is taken.
    """

    def __init__(self, config: SparseFormerConfig):
        super().__init__(config)
        self.early_convolution = EarlyConvolution(config) if config.stem is None else None
        self.inherited_stem = None if config.stem is None else InheritedStem(config)
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
    def stem(self) -> EarlyConvolution | InheritedStem:
        """What makes the map that tokens sample."""
        stem = self.early_convolution or self.inherited_stem
        assert stem is not None
        return stem

    @property
    def cortex(self) -> list[Unit]:
        """The plain units at the end, which a bootstrapped model inherits from its teacher."""
        return cast("list[Unit]", list(self.layers)[len(self.layers) - self.config.num_hidden_layers :])

    @property
    def focusing(self) -> list[nn.Module]:
        """Everything before the cortex: stem, latent tokens, focusing units, transitions, class token."""
        layers = list(self.layers[: len(self.layers) - self.config.num_hidden_layers])
        return [self.stem, self.latent, *layers] + ([self.class_token] if self.class_token else [])

    @property
    def head(self) -> dict[str, nn.Module]:
        """What turns tokens into an image's embedding, by name: final norm, attention pool, projection."""
        parts = {"norm": self.norm, "attention_pool": self.attention_pool, "projection": self.projection}
        return {name: module for name, module in parts.items() if module is not None}

    def pool(self, tokens: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens that leave the cortex (B, N, D), their mask (B, N) -> normed tokens (B, N, D), pooled (B, D or E)."""
        normed = self.norm(tokens)
        pooling = self.config.pooling or ("token" if self.config.class_token else "mean")
        if isinstance(self.attention_pool, AttentionPool):
            return normed, self.attention_pool(normed, attention_mask)
        if self.attention_pool is not None:  # a tower that ends before it has something else in its place
            return normed, self.attention_pool(normed)
        if pooling == "token":
            return normed, normed[:, 0]

        def mean(tokens: Tensor) -> Tensor:
            latent = tokens[:, int(self.config.class_token) :]
            if attention_mask is None:
                return latent.mean(dim=1)
            weights = attention_mask[:, int(self.config.class_token) :, None].to(latent.dtype)
            return (latent * weights).sum(dim=1) / weights.sum(dim=1)

        if pooling == "normed_mean":
            return normed, mean(normed)
        # v1 averages first and normalizes the average, so its pooled vector is not the mean of last_hidden_state.
        return normed, self.norm(mean(tokens))

    def get_input_embeddings(self) -> nn.Module:
        return self.stem.conv if isinstance(self.stem, EarlyConvolution) else self.stem.projections[0]

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers' own
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_sampling_points: bool = False,
        output_token_embeds: bool = False,
        output_features: bool = False,
        num_tokens: int | Sequence[int] | Tensor | None = None,
        image_sizes: Sequence[tuple[int, int]] | Tensor | None = None,
        focus_rois: Tensor | None = None,
        **kwargs: object,
    ) -> SparseFormerOutput:
        """Embeds images.

        Args:
            pixel_values: (B, 3, H, W), normalized as the image processor does; any H and W.
            output_hidden_states: return the tokens that enter the cortex and those after each of its blocks; None: as
                the configuration says.
            output_sampling_points: return the points that each sampling step reads.
            output_token_embeds: return what each token gives by itself in place of the pooled vector: words can be
                found for a place as for an image. The model must have no attention pool.
            output_features: return the map that they sample.
            num_tokens: N, the class token counted, of all images or (B,) of each; None: the configuration's. A model of
                nested tokens goes on with its first ones, another starts from untrained RoIs; how well it sees depends
                on whether it was trained with several.
            image_sizes: (B, 2), height and width of each image where images of several sizes are padded to one, at the
                right and at the bottom. Nothing is computed of the padding, and it changes nothing.
            focus_rois: (B, k, 4): as many additional tokens that start there, x1, y1, x2, y2 in image units; rows of
                NaN are padding. Tokens must have one embedding for this (``shared_embedding``).
            **kwargs: ``return_dict=False`` for a tuple, which the configuration may ask for too; what else callers of
                other towers pass (attention outputs, interpolation) has no meaning here.

        Returns:
            `SparseFormerOutput`.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values has the shape {tuple(pixel_values.shape)}; (B, 3, H, W) is needed")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        batch = pixel_values.shape[0]
        counts = self._counts(num_tokens, batch)
        features, extent = self.stem(pixel_values.to(self.dtype), _sizes(image_sizes, pixel_values))
        if features.is_cuda:  # the kernels read a pixel's channels in one go: laid out so once, not in each step
            features = features.contiguous(memory_format=torch.channels_last)
        tokens, rois, attention_mask = self._start(batch, counts, focus_rois)
        mask = self._mask(tokens, attention_mask)
        all_rois, all_points = [rois], []
        for layer in self.layers[: len(self.layers) - self.config.num_hidden_layers]:
            if not isinstance(layer, Unit):  # a transition between widths
                tokens = layer(tokens)
                continue
            for repeat in range(layer.repeats):
                tokens, rois, points = layer(tokens, rois, features, repeat, mask, extent)
                if points is not None:
                    all_points.append(points)
                if "roi" in layer.ops:
                    all_rois.append(rois)
        tokens, rois = tokens.expand(batch, -1, -1), rois.expand(batch, -1, -1)  # without any sampling step
        if self.class_token is not None:
            tokens = self.class_token(tokens)
            if attention_mask is not None:
                attention_mask = F.pad(attention_mask, (1, 0), value=True)
                mask = self._mask(tokens, attention_mask)
        hidden_states = [tokens]
        for block in self.cortex:
            for repeat in range(block.repeats):
                tokens = block(tokens, repeat=repeat, mask=mask)[0]
            hidden_states.append(tokens)
        tokens, pooled = self.pool(tokens, attention_mask)
        return SparseFormerOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            image_embeds=None if self.projection is None else self.projection(pooled),
            token_embeds=self._token_embeds(tokens) if output_token_embeds else None,
            rois=rois,
            all_rois=tuple(each.expand(batch, -1, -1) for each in all_rois),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            sampling_points=tuple(all_points) if output_sampling_points else None,
            attention_mask=attention_mask,
            features=features if output_features else None,
        )

    def _token_embeds(self, normed: Tensor) -> Tensor:
        """Normed tokens (B, N, D) -> embeddings of the latent ones (B, N', E)."""
        if self.attention_pool is not None:
            raise ValueError("output_token_embeds: an attention pool makes the embedding of all tokens together")
        latent = normed[:, int(self.config.class_token) :]
        return latent if self.projection is None else cast(Tensor, self.projection(latent))

    def _counts(self, num_tokens: int | Sequence[int] | Tensor | None, batch: int) -> list[int] | None:
        """Latent tokens of each image, or one number for all; None: the model's own."""
        if num_tokens is None:
            return None
        # a SymInt is torch.export's, for a number that it does not know
        counts = [num_tokens] if isinstance(num_tokens, (int, torch.SymInt)) else list(map(int, num_tokens))
        if len(counts) not in (1, batch):
            raise ValueError(f"num_tokens: {len(counts)} numbers for {batch} images")
        least = 1 + self.config.class_token
        most = self.config.num_tokens if self.config.nested_tokens else MAX_TOKENS
        for count in counts:
            check_range("num_tokens", count, least, most)
        counts = [count - self.config.class_token for count in counts]
        return counts[:1] if len(counts) == 1 or len(set(counts)) == 1 else counts

    def _start(
        self, batch: int, counts: list[int] | None, focus_rois: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens (B, N', D), RoIs (B, N', 4), and which (B, N') are no padding; None: all."""
        if focus_rois is not None and (focus_rois.ndim != 3 or focus_rois.shape[::2] != (batch, 4)):
            raise ValueError(f"focus_rois has the shape {tuple(focus_rois.shape)}; ({batch}, k, 4) is needed")
        tokens, rois = self.latent(counts, focus_rois)
        several = counts is not None and len(counts) > 1
        # All images start from the same tokens: what these give before and beside the first sampling step is computed
        # once for all of them. In training drop path tells them apart.
        if not (self.training or several or focus_rois is not None):
            return tokens, rois, None
        tokens, rois, mask = tokens.expand(batch, -1, -1), rois.expand(batch, -1, -1), None
        own = rois.shape[1] - (0 if focus_rois is None else focus_rois.shape[1])
        if several or focus_rois is not None:
            latent = rois.new_tensor(counts or [own])[:, None]
            mask = (torch.arange(own, device=rois.device) < latent).expand(batch, -1)
        if focus_rois is not None and mask is not None:
            mask = torch.cat([mask, focus_rois.isfinite().all(dim=-1)], dim=1)
        return tokens, rois, mask

    def _mask(self, tokens: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """For attention as the configuration implements it, of tokens (B, N, D)."""
        if attention_mask is None:
            return None
        mask: Tensor | None = create_bidirectional_mask(self.config, tokens, attention_mask)
        return mask


def _sizes(sizes: Sequence[tuple[int, int]] | Tensor | None, images: Tensor) -> list[tuple[int, int]] | None:
    """Height and width of each image (B, 3, H, W); None where none is padded."""
    if sizes is None:
        return None
    known = [(int(height), int(width)) for height, width in sizes]
    most = (images.shape[-2], images.shape[-1])
    if len(known) != len(images) or not all(1 <= h <= most[0] and 1 <= w <= most[1] for h, w in known):
        raise ValueError(f"image_sizes={known}: height and width of each of {len(images)} images, at most {most}")
    return None if set(known) == {most} else known
