"""The multimodal language model: its parts put together, its training, its answers.

Importing this package costs nothing (see `data.lazy`): a public name's module is imported when the name is first used,
and transformers' Auto classes and pipelines know the model as soon as transformers is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.lazy import lazy_names, with_transformers
from mllm.registration import register

if TYPE_CHECKING:
    from mllm.assembly import assemble
    from mllm.configuration import MLLMConfig
    from mllm.explanation import Explanation, explain
    from mllm.loading import load_model
    from mllm.modeling import MLLMForConditionalGeneration, MLLMModel
    from mllm.processing import MLLMProcessor

__all__ = [
    "Explanation",
    "MLLMConfig",
    "MLLMForConditionalGeneration",
    "MLLMModel",
    "MLLMProcessor",
    "assemble",
    "explain",
    "load_model",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Explanation": "explanation",
        "MLLMConfig": "configuration",
        "MLLMForConditionalGeneration": "modeling",
        "MLLMModel": "modeling",
        "MLLMProcessor": "processing",
        "assemble": "assembly",
        "explain": "explanation",
        "load_model": "loading",
    },
)
with_transformers(register)
