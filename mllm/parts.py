"""What a model is assembled from: directories of an encoder and of a language model, checked and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from data import InputError
from data.errors import translated
from encoder.weights import check_finite, check_report
from mllm.loading import check_chat_template_file, read_config


def check_parts(encoder_dir: Path, language_model_dir: Path) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """Reads the configurations of both, before either is loaded.

    Raises:
        InputError: a directory that does not hold what it should, or not an image processor or a tokenizer with it.
    """
    parts = encoder_config(encoder_dir), language_model_config(language_model_dir)
    _check_companions(encoder_dir, language_model_dir)
    return parts


def encoder_config(directory: Path) -> PreTrainedConfig:
    """Reads the configuration of a directory's vision tower; InputError if there is none in it."""
    config = read_config(directory, "encoder")
    config = getattr(config, "vision_config", config)  # of a whole CLIP or SigLIP, the vision tower alone is loaded
    tower: Any = MODEL_MAPPING.get(type(config), None)
    if getattr(tower, "main_input_name", None) != "pixel_values":
        raise InputError(f"encoder directory {directory}: holds a {config.model_type!r}, which takes no images")
    return config


def language_model_config(directory: Path) -> PreTrainedConfig:
    """Reads the configuration of a directory's causal language model; InputError if there is none in it.

    Of a model that takes images too, such as Gemma 3 or LLaVA, it is that of the language model inside.
    """
    config = read_config(directory, "language model")
    with translated(f"language model directory {directory}: holds a {config.model_type!r}"):
        text = config.get_text_config()
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"language model directory {directory}: holds a {config.model_type!r}, which is no causal language model"
        )
    if text is not config:
        text.tie_word_embeddings = getattr(config, "tie_word_embeddings", False)  # the whole model's counts
    return text


def _check_companions(encoder_dir: Path, language_model_dir: Path) -> None:
    """Raises InputError unless an image processor and a tokenizer are saved with the parts, and can be read."""
    if not any((encoder_dir / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise InputError(
            f"encoder directory {encoder_dir}: has no preprocessor_config.json; save its image processor there"
        )
    if not (language_model_dir / "tokenizer_config.json").is_file():
        raise InputError(
            f"language model directory {language_model_dir}: has no tokenizer_config.json; save its tokenizer there"
        )
    check_chat_template_file(language_model_dir)


def load_part(auto: Any, directory: Path, config: PreTrainedConfig, dtype: torch.dtype | str) -> PreTrainedModel:
    """Loads a model with all of its weights. The file may hold more only if the model is a part of what it holds."""
    with translated(f"{directory}: the weights cannot be loaded"):
        model, report = auto.from_pretrained(
            str(directory), config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    part = type(model.config) is not type(read_config(directory, "model"))  # a vision tower out of a CLIP
    check_report(str(directory), report, report["unexpected_keys"] if part else ())
    check_finite(str(directory), model.state_dict(keep_vars=True).items())
    return model


@torch.no_grad()
def load_language_model(directory: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Loads a causal language model; of one that takes images too, the language model inside."""
    whole_config = read_config(directory, "language model")
    if type(config) is type(whole_config):
        return load_part(AutoModelForCausalLM, directory, config, "auto")
    whole: Any = load_part(AutoModelForImageTextToText, directory, whole_config, "auto")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    setattr(model, model.base_model_prefix, whole.get_decoder())
    model.set_output_embeddings(whole.get_output_embeddings())
    ids = torch.arange(8)[None] + config.vocab_size // 2  # special tokens come first or last
    if not torch.equal(model.eval()(input_ids=ids).logits, whole.eval()(input_ids=ids).logits):
        raise InputError(
            f"language model directory {directory}: a {whole_config.model_type!r} does more with text than the "
            f"{config.model_type!r} inside it; take a plain language model"
        )
    return model
