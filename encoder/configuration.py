"""Configuration of a SparseFormer of either family: units of operations as data."""

# Without `from __future__ import annotations`: `strict` passes over types that are strings.

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from data.limits import MAX_DEPTH, MAX_SIDE, MAX_TOKENS, MAX_WIDTH, check_range

OPERATIONS = ("sample", "pe", "attn", "mlp", "roi")
POOLINGS = ("token", "mean", "normed_mean")
KERNELS = ("auto", "torch", "triton")
ATTENTION_POOL = {"width": int, "heads": int, "mlp": bool, "norm": bool}
STEM = {"architecture": str, "out_indices": list}


def unit(ops: str, width: int, repeats: int = 1) -> dict[str, Any]:
    """A unit: operations in running order (names separated by blanks), the tokens' width, and how often it runs."""
    return {"ops": ops.split(), "width": width, "repeats": repeats}


def bootstrapped_units(focus_width: int, width: int, depth: int, repeats: int = 4) -> list[dict[str, Any]]:
    """The bootstrapped family: a narrow repeated focusing unit, a wide one, then ``depth`` inherited blocks."""
    focus = [unit("sample pe attn mlp roi", focus_width, repeats), unit("sample pe", width)]
    return focus + [unit("attn mlp", width) for _ in range(depth)]


def v1_units(focus_width: int, width: int, depth: int, repeats: int = 4) -> list[dict[str, Any]]:
    """The family trained from scratch: two focusing units, the first one narrow and repeated, then ``depth`` blocks."""
    focus = [unit("attn roi sample mlp", focus_width, repeats), unit("attn roi sample mlp", width)]
    return focus + [unit("attn mlp", width) for _ in range(depth)]


@strict
class SparseFormerConfig(BackboneConfigMixin, PreTrainedConfig):
    """What a `SparseFormerVisionModel` computes. The defaults are those of the bootstrapped CLIP-B/16 student.

    Args:
        units: each ``{"ops": [...], "width": D, "repeats": R}``, run in order. Operations: "sample" (sample the image
            and mix), "pe" (tell the token where its RoI is), "attn", "mlp", "roi" (move and resize the RoI).
            A unit of "attn" and "mlp" alone is a plain transformer block; such units at the end are the *cortex*.
        num_latent_tokens: latent tokens, the class token not counted.
        nested_tokens: the first n tokens are those of the same model with n: their RoIs start in an order of which
            every beginning covers the image (`geometry.nested_rois`). Published models' start in rows of a grid.
        num_sampling_points: points that each token reads, P.
        early_channels: channels of the early feature map, C.
        stem: in place of the early convolution, stages that were a CNN's: ``{"architecture": its name in timm,
            "out_indices": of the stages whose maps are read}``, as timm counts them.
        class_token: put a class token in front of the tokens that enter the cortex.
        pooling: "token", the class token; "mean", the mean of the others, then the final norm; "normed_mean", the final
            norm, then the mean of the others. None: "token" if there is a class token, else "mean".
        attention_pool: instead of these, a learned query reads all normed tokens: ``{"width": E, "heads": h, "mlp":
            whether an MLP follows (SigLIP), "norm": whether a LayerNorm follows (CoCa)}``.
        shared_embedding: one learned row for all tokens instead of a row each.
        repeat_embedding: a repeated unit adds a learned embedding of the repeat's index.
        transition_norm: LayerNorm after the Linear between two widths.
        roi_head: "mlp" or "linear", what predicts the RoI's change.
        mixing_hidden_size: inner width of the mixing weights' generator; None: a quarter of the tokens' width.
        mixing_bias: biases and a GELU between the two mixing matmuls.
        sampling_kernel: what samples and mixes: "torch" (until the kernel has been measured on a GPU); "triton", the
            fused kernel, an error where it cannot run; or "auto", the kernel on a GPU where it can. It may be changed
            at any time.
        sampling_padding: what points outside the image read: "border" or "zeros".
        attention_head_dim: width of a head; num_attention_heads then follows the unit's width. None: see next.
        num_attention_heads: a fixed number of heads whatever the width. Exactly one of the two is set.
        hidden_act: activation of units that are not repeated, by its transformers name.
        focus_act: activation of repeated units.
        layer_scale: a learned factor per channel on what each block of the cortex adds (CaiT, arXiv 2103.17239).
        qk_norm: LayerNorm of queries and keys, per head, in the cortex (arXiv 2302.05442).
        projection_dim: width of ``image_embeds``; None leaves them out.
        projection_bias: whether the projection has a bias.
        clamp_position_gradient: while training, clamp the gradient of a sampling position to ±1 / feature height.
        drop_path_rate: stochastic depth at the last unit, growing linearly from 0.
        image_size: the image side that image processors and dummy inputs use; the model takes any size.
        decoder: how pixels read the tokens in segmentation: "attention", or "splat", as their RoIs lie.
        decoder_width: of what they read, a multiple of 64.
        out_features: of a backbone, "stem" and "stage1" to "stageL", of L blocks of the cortex; or ``out_indices``.
    """

    model_type = "sparseformer"
    base_config_key = "vision_config"

    units: list[dict[str, Any]] = field(default_factory=lambda: bootstrapped_units(384, 768, 8))
    num_latent_tokens: int = 48
    nested_tokens: bool = False
    num_sampling_points: int = 16
    early_channels: int = 64
    stem: dict[str, Any] | None = None
    class_token: bool = True
    pooling: str | None = None
    attention_pool: dict[str, Any] | None = None
    shared_embedding: bool = True
    repeat_embedding: bool = True
    transition_norm: bool = False
    roi_head: str = "mlp"
    mixing_hidden_size: int | None = 128
    mixing_bias: bool = False
    sampling_kernel: str = "torch"
    sampling_padding: str = "border"
    attention_head_dim: int | None = 64
    num_attention_heads: int | None = None
    mlp_ratio: int | float = 4
    hidden_act: str = "gelu"
    focus_act: str = "gelu"
    layer_scale: bool = False
    qk_norm: bool = False
    layer_norm_eps: int | float = 1e-5
    projection_dim: int | None = 512
    projection_bias: bool = False
    clamp_position_gradient: bool = False
    drop_path_rate: int | float = 0.0
    image_size: int | list[int] = 224
    initializer_range: int | float = 0.02
    decoder: str = "attention"
    decoder_width: int = 256
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._out_features, self._out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def validate_architecture(self) -> None:
        """Called by `strict` after construction; raises ValueError in the words of the field."""
        if not self.units:
            raise ValueError("units: at least one unit is needed")
        sides = self.image_size if isinstance(self.image_size, list) else [self.image_size] * 2
        if len(sides) != 2:
            raise ValueError(f"image_size={sides}: give one number, or height and width")
        for name, value, most in (
            ("num_latent_tokens", self.num_latent_tokens, MAX_TOKENS),
            ("num_sampling_points", self.num_sampling_points, MAX_TOKENS),
            ("early_channels", self.early_channels, MAX_WIDTH),
            ("mixing_hidden_size", self.mixing_hidden_size, MAX_WIDTH),
            ("projection_dim", self.projection_dim, MAX_WIDTH),
            ("decoder_width", self.decoder_width, MAX_WIDTH),
            *(("image_size", side, MAX_SIDE) for side in sides),
            *((f"units[{index}].width", spec["width"], MAX_WIDTH) for index, spec in enumerate(self.units)),
            *((f"units[{index}].repeats", spec["repeats"], MAX_DEPTH) for index, spec in enumerate(self.units)),
        ):
            check_range(name, value, 1, most)
        check_range("drop_path_rate", self.drop_path_rate, 0, 1)
        for index, spec in enumerate(self.units):
            unknown = [op for op in spec["ops"] if op not in OPERATIONS]
            if unknown or not spec["ops"]:
                raise ValueError(f"units[{index}].ops: {unknown or 'empty'}; the operations are {list(OPERATIONS)}")
            if len(set(spec["ops"])) != len(spec["ops"]):
                raise ValueError(f"units[{index}].ops: an operation is there twice; give it two units")
            if "pe" in spec["ops"] and spec["width"] % 8:
                raise ValueError(f"units[{index}].width={spec['width']}: 'pe' needs a multiple of 8")
            if "attn" in spec["ops"] and spec["width"] % self.heads(spec["width"]):
                raise ValueError(f"units[{index}].width={spec['width']} is no multiple of the number of heads")
        if (self.attention_head_dim is None) == (self.num_attention_heads is None):
            raise ValueError("set exactly one of attention_head_dim and num_attention_heads")
        for name, value, known in (
            ("roi_head", self.roi_head, ("mlp", "linear")),
            ("sampling_kernel", self.sampling_kernel, KERNELS),
            ("sampling_padding", self.sampling_padding, ("border", "zeros")),
            ("decoder", self.decoder, ("attention", "splat")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: one of {list(known)}")
        if self.decoder_width % 64:
            raise ValueError(f"decoder_width={self.decoder_width} is no multiple of 64")
        self._validate_pooling()
        if self.stem is not None and {key: type(value) for key, value in self.stem.items()} != STEM:
            raise ValueError(f"stem={self.stem}: architecture, a name of timm's, and out_indices, a list, are needed")
        if len({spec["width"] for spec in self.units[self.num_focusing_units :]}) > 1:
            raise ValueError("units: the cortex (the plain units at the end) must have one width")

    def _validate_pooling(self) -> None:
        pool = self.attention_pool
        if pool is None:
            if self.pooling not in (None, *POOLINGS):
                raise ValueError(f"pooling={self.pooling!r}: one of {list(POOLINGS)}")
            if self.pooling == "token" and not self.class_token:
                raise ValueError("pooling='token' needs class_token=True")
        elif self.pooling is not None:
            raise ValueError("set one of pooling and attention_pool")
        elif {key: type(value) for key, value in pool.items()} != ATTENTION_POOL or pool["width"] % pool["heads"]:
            raise ValueError(f"attention_pool={pool}: width (a multiple of heads), heads, mlp and norm are needed")

    def heads(self, width: int) -> int:
        """Number of attention heads of a unit of this width."""
        if self.num_attention_heads is not None:
            return self.num_attention_heads
        return max(1, width // (self.attention_head_dim or width))

    @property
    def num_focusing_units(self) -> int:
        """Units before the cortex: up to the last one that samples the image or uses its RoIs."""
        uses_rois = [i for i, spec in enumerate(self.units) if set(spec["ops"]) - {"attn", "mlp"}]
        return uses_rois[-1] + 1 if uses_rois else 0

    @property
    def hidden_size(self) -> int:
        """Width D of the tokens that leave the model."""
        return int(self.units[-1]["width"])

    @property
    def embed_dim(self) -> int:
        """Width E of an image's embedding: of the projection, else of what is pooled."""
        if self.projection_dim is not None:
            return self.projection_dim
        return self.hidden_size if self.attention_pool is None else self.attention_pool["width"]

    @property
    def num_tokens(self) -> int:
        """Tokens that leave the model, the class token counted."""
        return self.num_latent_tokens + self.class_token

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of the cortex; ``hidden_states`` has one more entry."""
        return len(self.units) - self.num_focusing_units

    @property
    def stage_names(self) -> list[str]:
        """Of the maps that it gives as a backbone."""
        return ["stem", *(f"stage{index}" for index in range(1, self.num_hidden_layers + 1))]
