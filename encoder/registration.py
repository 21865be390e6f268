"""Makes transformers' Auto classes and pipelines know the encoder, alone and under a task."""

from __future__ import annotations

import functools


@functools.cache
def register() -> None:
    """Registers SparseFormer. `import encoder` does it as soon as transformers is imported."""
    import transformers as auto

    from encoder.configuration import SparseFormerConfig
    from encoder.heads.backbone import SparseFormerBackbone
    from encoder.heads.classification import SparseFormerForImageClassification
    from encoder.heads.detection import SparseFormerForObjectDetection
    from encoder.heads.segmentation import SparseFormerForSemanticSegmentation
    from encoder.modeling import SparseFormerVisionModel

    auto.AutoConfig.register(SparseFormerConfig.model_type, SparseFormerConfig)
    auto.AutoModel.register(SparseFormerConfig, SparseFormerVisionModel)
    auto.AutoBackbone.register(SparseFormerConfig, SparseFormerBackbone)
    auto.AutoModelForImageClassification.register(SparseFormerConfig, SparseFormerForImageClassification)
    auto.AutoModelForObjectDetection.register(SparseFormerConfig, SparseFormerForObjectDetection)
    auto.AutoModelForSemanticSegmentation.register(SparseFormerConfig, SparseFormerForSemanticSegmentation)
