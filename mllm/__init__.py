"""The multimodal language model: its parts put together, its training, its answers.

Importing the package makes transformers' Auto classes and pipelines know the model. That takes the seconds in which
torch and transformers are imported, so the command line alone puts it off until a command loads a model.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING


def is_command() -> bool:
    """Whether the process was started as `mllm ...` or `python -m mllm ...`, not by a program that uses the library.

    While Python looks for a module to run with -m, which is when it imports this package, argv[0] is "-m".
    """
    run_module = sys.argv[:1] == ["-m"] and ("-m", "mllm") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return run_module or "mllm_command" in sys.modules


if TYPE_CHECKING or not is_command():
    from mllm import registration  # noqa: F401
    from mllm.assembly import assemble
    from mllm.configuration import MLLMConfig
    from mllm.loading import load_mllm as load_model
    from mllm.modeling import MLLMForConditionalGeneration, MLLMModel
    from mllm.processing import MLLMProcessor

__all__ = ["MLLMConfig", "MLLMForConditionalGeneration", "MLLMModel", "MLLMProcessor", "assemble", "load_model"]
