"""Makes transformers' Auto classes and pipelines know the model and its encoder.

`import mllm` imports this; so does every module of the package that loads with Auto classes, because in the command
line's own process the package itself does not (see `mllm.is_command`).
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

import encoder  # noqa: F401  (registers SparseFormer)
from mllm.configuration import MLLMConfig
from mllm.modeling import MLLMForConditionalGeneration, MLLMModel
from mllm.processing import MLLMProcessor

AutoConfig.register(MLLMConfig.model_type, MLLMConfig)
AutoModel.register(MLLMConfig, MLLMModel)
AutoModelForImageTextToText.register(MLLMConfig, MLLMForConditionalGeneration)
AutoModelForMultimodalLM.register(MLLMConfig, MLLMForConditionalGeneration)
AutoProcessor.register(MLLMConfig, MLLMProcessor)
