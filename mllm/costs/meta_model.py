"""A model without weights, on the meta device: from a directory, or from the configurations of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from data import InputError
from data.errors import translated
from encoder import PRESETS, SparseFormerConfig
from mllm.assembly import configure
from mllm.configuration import MLLMConfig
from mllm.loading import adapter_base, check_model_directory, is_adapter
from mllm.modeling import MLLMForConditionalGeneration
from mllm.parts import encoder_config, language_model_config


def config_of_model(directory: Path) -> MLLMConfig:
    """Reads the configuration of a model directory, or of an adapter's base model.

    Raises:
        InputError: no such directory, or no model of this project in it.
    """
    if is_adapter(directory):
        directory = adapter_base(directory)
    config = check_model_directory(directory)
    if not isinstance(config, MLLMConfig):
        raise InputError(
            f"model directory {directory}: holds a {config.model_type!r}; give one written by `mllm finetune`, "
            "or --encoder and --language-model"
        )
    return config


def config_of_parts(encoder: str, language_model: str, **options: Any) -> MLLMConfig:
    """Makes the configuration of the model that `mllm.assemble` would make; of the parts, config.json is enough.

    Args:
        encoder: directory of a SparseFormer, CLIP or SigLIP, or the name of a published SparseFormer.
        language_model: directory of a causal language model.
        options: fields of `MLLMConfig`.
    Raises:
        InputError: parts that are not there, or do not fit together.
    """
    vision: PreTrainedConfig
    if not Path(encoder).is_dir() and encoder in PRESETS:
        vision = SparseFormerConfig(**PRESETS[encoder].config)
    elif Path(encoder).is_dir():
        vision = encoder_config(Path(encoder))
    else:
        names = ", ".join(PRESETS)
        raise InputError(f"--encoder {encoder}: no such directory, and no published SparseFormer; there are {names}")
    return configure(vision, language_model_config(Path(language_model)), **options)


def meta_model(config: MLLMConfig, dtype: torch.dtype = torch.bfloat16) -> MLLMForConditionalGeneration:
    """Builds the model of a configuration on the meta device, frozen and in eval mode.

    Raises:
        InputError: sizes that make none.
    """
    with translated("the configuration makes no model"), torch.device("meta"):
        model = MLLMForConditionalGeneration(config)
    return model.to(dtype).requires_grad_(False).eval()  # type: ignore[arg-type]


def dummy_images(config: MLLMConfig, count: int, size: int | None = None) -> torch.Tensor:
    """Makes (count, 3, H, W) on the meta device, of the size in the encoder's configuration or ``size`` square."""
    named = config.vision_config.image_size if size is None else size
    height, width = (named, named) if isinstance(named, int) else named
    return torch.empty(count, 3, height, width, device="meta")
