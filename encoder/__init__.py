"""SparseFormer, its operations, its published weights, its teachers and bootstrapping."""

from transformers import AutoConfig, AutoModel

from encoder.configuration import SparseFormerConfig
from encoder.modeling import SparseFormerOutput, SparseFormerVisionModel
from encoder.presets import PRESETS

AutoConfig.register(SparseFormerConfig.model_type, SparseFormerConfig)
AutoModel.register(SparseFormerConfig, SparseFormerVisionModel)

__all__ = [
    "PRESETS",
    "SparseFormerConfig",
    "SparseFormerOutput",
    "SparseFormerVisionModel",
]
