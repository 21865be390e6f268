"""SparseFormer, its operations, its published weights, its teachers and bootstrapping.

Importing this package costs nothing (see `data.lazy`): a public name's module is imported when the name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.lazy import lazy_names, with_transformers
from encoder.registration import register

if TYPE_CHECKING:
    from encoder.clip import load_clip, load_tower, save_clip
    from encoder.configuration import SparseFormerConfig
    from encoder.errors import WeightsError
    from encoder.image_processing import SparseFormerImageProcessor
    from encoder.modeling import SparseFormerOutput, SparseFormerVisionModel
    from encoder.official import load_official
    from encoder.open_clip_tower import SparseFormerTower
    from encoder.presets import PRESETS
    from encoder.quantization import quantize

__all__ = [
    "PRESETS",
    "SparseFormerConfig",
    "SparseFormerImageProcessor",
    "SparseFormerOutput",
    "SparseFormerTower",
    "SparseFormerVisionModel",
    "WeightsError",
    "load_clip",
    "load_official",
    "load_tower",
    "quantize",
    "save_clip",
]

__getattr__ = lazy_names(
    __name__,
    {
        "PRESETS": "encoder.presets",
        "SparseFormerConfig": "encoder.configuration",
        "SparseFormerImageProcessor": "encoder.image_processing",
        "SparseFormerOutput": "encoder.modeling",
        "SparseFormerTower": "encoder.open_clip_tower",
        "SparseFormerVisionModel": "encoder.modeling",
        "WeightsError": "encoder.errors",
        "load_clip": "encoder.clip",
        "load_official": "encoder.official",
        "load_tower": "encoder.clip",
        "quantize": "encoder.quantization",
        "save_clip": "encoder.clip",
    },
)
with_transformers(register)
