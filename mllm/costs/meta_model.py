"""A model without weights, on the meta device: from a directory or the configurations of its parts, and its passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from data import InputError
from data.errors import translated
from data.materials import model_path
from encoder import PRESETS, SparseFormerConfig
from encoder.macs import Macs, count_macs
from mllm.assembly import configure
from mllm.configuration import MLLMConfig
from mllm.loading import adapter_base, check_model_directory, find_model, is_adapter
from mllm.modeling import MLLMForConditionalGeneration
from mllm.parts import encoder_config, language_model_config


def config_of_model(directory: Path) -> MLLMConfig:
    """Reads the configuration of a model directory, or of an adapter's base model.

    Raises:
        InputError: no such directory, or no model of this project in it.
    """
    directory = find_model(directory)
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
    elif (directory := model_path(encoder)).is_dir():
        vision = encoder_config(directory)
    else:
        names = ", ".join(PRESETS)
        raise InputError(f"--encoder {encoder}: no such directory, and no published SparseFormer; there are {names}")
    return configure(vision, language_model_config(model_path(language_model)), **options)


def meta_model(config: MLLMConfig, dtype: torch.dtype = torch.bfloat16) -> MLLMForConditionalGeneration:
    """Builds the model of a configuration on the meta device, frozen and in eval mode.

    Raises:
        InputError: sizes that make none.
    """
    with translated("the configuration makes no model"), torch.device("meta"):
        model = MLLMForConditionalGeneration(config)
    return model.to(dtype).requires_grad_(False).eval()  # type: ignore[arg-type]


def dummy_images(config: MLLMConfig, count: int, size: int | None = None) -> Tensor:
    """Makes (count, 3, H, W) on the meta device, of the size in the encoder's configuration or ``size`` square."""
    named = config.vision_config.image_size if size is None else size
    height, width = (named, named) if isinstance(named, int) else named
    return torch.empty(count, 3, height, width, device="meta")


def causal_mask(batch: int, length: int) -> Tensor:
    """Makes (B, 1, T, T) on the meta device. Given no mask, transformers would make one from the positions' values."""
    return torch.empty(batch, 1, length, length, dtype=torch.bool, device="meta")


def prefill(model: MLLMForConditionalGeneration, batch: int, length: int, use_cache: bool = False) -> Any:
    """Runs the language model over prompts of ``length`` embeddings, with the head at the last one only."""
    width = model.config.text_config.hidden_size
    embeddings = torch.empty(batch, length, width, dtype=model.dtype, device="meta")
    return model(
        inputs_embeds=embeddings,
        attention_mask=causal_mask(batch, length),
        use_cache=use_cache,
        logits_to_keep=1,
    )


def macs_of_parts(model: MLLMForConditionalGeneration, pixels: Tensor, prompt: int) -> dict[str, Macs]:
    """Counts those of encoder and projector for `pixels` (1, 3, H, W), and of the language model for a prompt."""
    inner = model.model
    encoder = count_macs(lambda: inner.vision_tower(pixels.to(model.dtype)))
    both = count_macs(lambda: inner.get_image_features(pixels))
    return {
        "encoder": encoder,
        "projector": both - encoder,
        "language model": count_macs(lambda: prefill(model, 1, prompt)),
    }
