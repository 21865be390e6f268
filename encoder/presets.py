"""Configurations of the seven published models, and how each one's images are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from encoder.configuration import bootstrapped_units, v1_units

Triple = tuple[float, float, float]
Statistics = tuple[Triple, Triple]  # mean and standard deviation

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Preset:
    """A published model: `SparseFormerConfig` fields, and its images' mean, std, resize and crop (pixels)."""

    config: dict[str, Any]
    mean: Triple
    std: Triple
    resize: int = 224
    crop: int = 224


def _v1(tokens: int, focus_width: int, depth: int, drop_path: float) -> Preset:
    config = {
        "units": v1_units(focus_width, 2 * focus_width, depth),
        "num_latent_tokens": tokens,
        "num_sampling_points": 36,
        "early_channels": 96,
        "class_token": False,
        "shared_embedding": False,
        "repeat_embedding": False,
        "transition_norm": True,
        "roi_head": "linear",
        "mixing_hidden_size": None,
        "mixing_bias": True,
        "sampling_padding": "zeros",
        "attention_head_dim": None,
        "num_attention_heads": 64,
        "layer_norm_eps": 1e-6,
        "projection_dim": 1000,
        "projection_bias": True,
        "drop_path_rate": drop_path,
    }
    return Preset(config, *IMAGENET, resize=256)


def _bootstrapped(tokens: int, width: int, depth: int, statistics: Statistics, clip_dim: int | None) -> Preset:
    config = {
        "units": bootstrapped_units(width // 2, width, depth),
        "num_latent_tokens": tokens - 1,
        "hidden_act": "gelu" if clip_dim is None else "quick_gelu",
        "projection_dim": clip_dim or 1000,
        "projection_bias": clip_dim is None,
    }
    return Preset(config, *statistics)


PRESETS: dict[str, Preset] = {
    "sparseformer_v1_tiny": _v1(49, 256, 7, 0.2),
    "sparseformer_v1_small": _v1(64, 320, 7, 0.3),
    "sparseformer_v1_base": _v1(81, 384, 9, 0.4),
    "sparseformer_btsp_augreg_base": _bootstrapped(49, 768, 8, INCEPTION, None),
    "sparseformer_btsp_augreg_large": _bootstrapped(49, 1024, 16, INCEPTION, None),
    "sparseformer_btsp_openai_clip_base": _bootstrapped(49, 768, 8, OPENAI, 512),
    "sparseformer_btsp_openai_clip_large": _bootstrapped(64, 1024, 16, OPENAI, 768),
}
