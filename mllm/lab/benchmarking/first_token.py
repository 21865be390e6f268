"""Cases of `mllm bench first-token`: an image and a prompt to the first new token's logits.

Each is a whole model, with a SparseFormer or a CLIP tower as LLaVA reads it: both towers end at the last block but
one. All have one language model, the same tensors, so that it is in memory once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from data.errors import InputError
from data.materials import model_path
from encoder import PRESETS, SparseFormerConfig
from mllm.assembly import configure
from mllm.costs.memory import inference_memory
from mllm.costs.meta_model import macs_of_parts
from mllm.lab.benchmarking.case import META, Case, Cost, Place, Run, callable_of, random_images
from mllm.modeling import MLLMForConditionalGeneration, new_projector
from mllm.parts import encoder_config, language_model_config
from mllm.tower import new_tower

DEFAULT_ENCODERS = ("sparseformer_btsp_openai_clip_large", "ViT-L-14", "ViT-L-14-336")
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TOWERS: dict[str, dict[str, Any]] = {
    "ViT-B-16": {**_BASE, "patch_size": 16, "image_size": 224},
    "ViT-L-14": {**_LARGE, "patch_size": 14, "image_size": 224},
    "ViT-L-14-336": {**_LARGE, "patch_size": 14, "image_size": 336},
}
# TinyLlama's and LLaMA-2's shapes: width, inner width, layers, heads, heads of keys and values.
LANGUAGE_MODELS = {"1.1B": (2048, 5632, 22, 32, 4), "7B": (4096, 11008, 32, 32, 32)}


class LanguageModel:
    """One causal language model with random weights for all cases, built where it is first needed."""

    def __init__(self, name: str):
        """
        Args:
            name: in LANGUAGE_MODELS, or a directory with a config.json.

        Raises:
            InputError: neither.
        """
        self.name = name
        if name in LANGUAGE_MODELS:
            width, inner, layers, heads, key_value_heads = LANGUAGE_MODELS[name]
            self.config: PreTrainedConfig = LlamaConfig(
                hidden_size=width,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=key_value_heads,
                max_position_embeddings=4096,
            )
        elif model_path(name).is_dir():
            self.config = language_model_config(model_path(name))
        else:
            raise InputError(
                f"--language-model {name}: no directory, and no shape; there are {', '.join(LANGUAGE_MODELS)}"
            )
        self._built: dict[tuple[torch.device, torch.dtype], Any] = {}

    def at(self, place: Place) -> Any:
        key = place.device, place.dtype
        if key not in self._built:
            with torch.device(place.device):
                self._built[key] = AutoModelForCausalLM.from_config(self.config, dtype=place.dtype)
        return self._built[key]


def tower_config(name: str) -> PreTrainedConfig:
    """Returns the configuration of a preset, a CLIP of TOWERS, or a directory.

    Raises:
        InputError: none of these.
    """
    if name in PRESETS:
        return SparseFormerConfig(**PRESETS[name].config)
    if name in TOWERS:
        return CLIPVisionConfig(**TOWERS[name])
    if Path(name).is_dir():
        return encoder_config(Path(name))
    raise InputError(f"--model {name}: no such directory, and none of {', '.join([*TOWERS, *PRESETS])}")


def first_token_cases(names: list[str], language_model: LanguageModel, prompt: int) -> list[Case]:
    """Lists one case for each encoder in front of the language model.

    Args:
        prompt: tokens of text; those of the image come in addition.

    Raises:
        InputError: an unknown encoder, or one that does not fit.
    """
    return [_case(name, language_model, prompt) for name in names]


def _case(name: str, language_model: LanguageModel, prompt: int) -> Case:
    vision = tower_config(name)
    sparse = isinstance(vision, SparseFormerConfig)
    placeholder = language_model.config.vocab_size - 1
    strategy = "full" if sparse else "default"  # LLaVA leaves a CLIP's class token out
    config = configure(
        vision, language_model.config, image_token_index=placeholder, vision_feature_select_strategy=strategy
    )

    def build(place: Place) -> nn.Module:
        with META:  # only the parts are worth their memory
            model: Any = MLLMForConditionalGeneration(config)
        with torch.device(place.device):
            model.model.vision_tower = new_tower(config.vision_config, place.dtype)
            model.model.multi_modal_projector = new_projector(config).to(place.dtype)
        model.model.language_model = language_model.at(place).base_model
        model.lm_head = language_model.at(place).get_output_embeddings()
        return model.eval().requires_grad_(False)

    def step(model: nn.Module, batch: int, place: Place) -> Run:
        images = random_images(batch, vision.image_size, place.device, place.dtype)
        words = torch.randint(placeholder, (batch, prompt), device=place.device)
        ids = torch.cat([torch.full((batch, tokens), placeholder, device=place.device), words], dim=1)
        call, mask = callable_of(model, place), torch.ones_like(ids)

        def run() -> Tensor:
            with torch.no_grad():
                return call(input_ids=ids, pixel_values=images, attention_mask=mask, use_cache=True, logits_to_keep=1)

        return run

    def cost(model: Any, batch: int, place: Place) -> Cost:
        images = random_images(batch, vision.image_size, META, place.dtype)
        macs = macs_of_parts(model, images[:1], tokens + prompt)
        memory = inference_memory(model, images, batch, tokens + prompt, new_tokens=0)
        return Cost(batch * sum(part.total for part in macs.values()), memory.activations + memory.cache)

    with torch.no_grad():
        skeleton: Any = build(Place(META))
        features = skeleton.model.get_image_features(random_images(1, vision.image_size, META))
    tokens = len(features.pooler_output[0])
    return Case(f"{name} + {language_model.name}", sparse, language_model.name, tokens, build, step, cost)
