"""The multimodal language model: its parts put together, its training, its answers.

Importing the package makes transformers' Auto classes and pipelines know the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

import encoder  # noqa: F401  (registers SparseFormer)
from mllm.assemble import assemble
from mllm.configuration import MLLMConfig
from mllm.modeling import MLLMForConditionalGeneration, MLLMModel
from mllm.processing import MLLMProcessor

if TYPE_CHECKING:
    from mllm.loading import load_mllm as load_model

AutoConfig.register(MLLMConfig.model_type, MLLMConfig)
AutoModel.register(MLLMConfig, MLLMModel)
AutoModelForImageTextToText.register(MLLMConfig, MLLMForConditionalGeneration)
AutoModelForMultimodalLM.register(MLLMConfig, MLLMForConditionalGeneration)
AutoProcessor.register(MLLMConfig, MLLMProcessor)

__all__ = ["MLLMConfig", "MLLMForConditionalGeneration", "MLLMModel", "MLLMProcessor", "assemble", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":  # on demand: it needs peft, which takes seconds to import
        from mllm.loading import load_mllm

        return load_mllm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
