"""The passes of a whole model on the meta device, and the multiply-accumulates of each of its parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from encoder.macs import Macs, count_macs
from mllm.modeling import MLLMForConditionalGeneration


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
