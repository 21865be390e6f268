"""Makes transformers' Auto classes and pipelines know the model and its encoder."""

from __future__ import annotations

import functools

import encoder.registration


@functools.cache
def register() -> None:
    """Registers the model's classes, and SparseFormer. `import mllm` does it as soon as transformers is imported."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

    from mllm.configuration import MLLMConfig
    from mllm.modeling import MLLMForConditionalGeneration, MLLMModel
    from mllm.processing import MLLMProcessor

    encoder.registration.register()
    AutoConfig.register(MLLMConfig.model_type, MLLMConfig)
    AutoModel.register(MLLMConfig, MLLMModel)
    AutoModelForImageTextToText.register(MLLMConfig, MLLMForConditionalGeneration)
    AutoModelForMultimodalLM.register(MLLMConfig, MLLMForConditionalGeneration)
    AutoProcessor.register(MLLMConfig, MLLMProcessor)
