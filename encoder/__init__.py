"""SparseFormer, its operations, its published weights, its teachers and bootstrapping."""

from transformers import AutoConfig, AutoModel

from encoder.clip import load_clip, load_tower, save_clip
from encoder.configuration import SparseFormerConfig
from encoder.errors import WeightsError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.modeling import SparseFormerOutput, SparseFormerVisionModel
from encoder.official import load_official
from encoder.open_clip_tower import SparseFormerTower
from encoder.packing import pack
from encoder.presets import PRESETS
from encoder.quantization import quantize

AutoConfig.register(SparseFormerConfig.model_type, SparseFormerConfig)
AutoModel.register(SparseFormerConfig, SparseFormerVisionModel)

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
    "pack",
    "quantize",
    "save_clip",
]
