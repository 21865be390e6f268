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
    from encoder.heads.backbone import SparseFormerBackbone
    from encoder.heads.classification import SparseFormerForImageClassification
    from encoder.heads.detection import SparseFormerForObjectDetection
    from encoder.heads.segmentation import SparseFormerForSemanticSegmentation
    from encoder.image_processing import SparseFormerImageProcessor
    from encoder.modeling import SparseFormerOutput, SparseFormerVisionModel
    from encoder.official import load_official
    from encoder.open_clip_tower import SparseFormerTower
    from encoder.presets import PRESETS
    from encoder.quantization import quantize

__all__ = [
    "PRESETS",
    "SparseFormerBackbone",
    "SparseFormerConfig",
    "SparseFormerForImageClassification",
    "SparseFormerForObjectDetection",
    "SparseFormerForSemanticSegmentation",
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
        "PRESETS": "presets",
        "SparseFormerBackbone": "heads.backbone",
        "SparseFormerConfig": "configuration",
        "SparseFormerForImageClassification": "heads.classification",
        "SparseFormerForObjectDetection": "heads.detection",
        "SparseFormerForSemanticSegmentation": "heads.segmentation",
        "SparseFormerImageProcessor": "image_processing",
        "SparseFormerOutput": "modeling",
        "SparseFormerTower": "open_clip_tower",
        "SparseFormerVisionModel": "modeling",
        "WeightsError": "errors",
        "load_clip": "clip",
        "load_official": "official",
        "load_tower": "clip",
        "quantize": "quantization",
        "save_clip": "clip",
    },
)
with_transformers(register)
