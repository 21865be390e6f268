"""The parts of a model as graphs, named and cut as transformers.js and optimum do.

``vision_encoder`` makes the embeddings of images, ``embed_tokens`` those of text; whoever runs them puts the first in
the places of the second, and ``decoder_model_merged`` goes on from there, with a cache that begins empty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from data.errors import InputError
from encoder import SparseFormerConfig
from encoder.exporting.graph import IMAGES, Graph, example_images, known_count
from encoder.quantization import float_layers
from mllm.compat import CACHE
from mllm.configuration import MLLMConfig


class _Vision(nn.Module):
    def __init__(self, model: Any, num_tokens: int | None):
        super().__init__()
        self.model, self.num_tokens = model, num_tokens

    def forward(self, pixel_values: Tensor, num_tokens: Tensor | None = None) -> dict[str, Tensor]:
        count: Any = self.num_tokens
        if num_tokens is not None:
            count = known_count(num_tokens, self.model.config.vision_config)
        given = {} if count is None else {"num_tokens": count}
        _, tokens, rois = self.model.encode(pixel_values, **given)
        features = {"image_features": self.model.project(tokens, rois)}
        return features if rois is None else {**features, "rois": rois}


def vision_graph(model: PreTrainedModel, num_tokens: int | None = None) -> Graph:
    """Encoder and projector: images (B, 3, H, W) -> embeddings (B, M, E) and, of a SparseFormer, RoIs (B, N, 4).

    Args:
        num_tokens: M; None: the model's own, and where images may have several numbers of tokens, an input.
    """
    inner, config = parts(model)
    inputs: dict[str, Any] = {}
    vision: Any = config.vision_config
    sparse = isinstance(vision, SparseFormerConfig)
    if config.elastic and num_tokens is None and vision.nested_tokens:
        inputs["num_tokens"] = torch.tensor(config.image_seq_length)
    if sparse:
        inputs = {"pixel_values": example_images(64), **inputs}
    else:
        inputs = {"pixel_values": torch.randn(2, 3, vision.image_size, vision.image_size)}
    dimensions = {"pixel_values": IMAGES if sparse else {0: IMAGES[0]}, "num_tokens": {}}
    module = _Vision(inner, num_tokens if config.elastic else None)
    return Graph("vision_encoder", module, inputs, dimensions, float_layers(module))


class _Embed(nn.Module):
    def __init__(self, embeddings: nn.Module):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.embeddings(input_ids)}


class _Decoder(nn.Module):
    def __init__(self, language_model: nn.Module, head: nn.Module):
        super().__init__()
        self.language_model, self.head = language_model, head

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: list[dict[str, Tensor]],
    ) -> dict[str, Any]:
        cache = DynamicCache([(layer["key"], layer["value"]) for layer in past_key_values])
        found = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{CACHE: cache},
        )
        layers: Any = cache.layers
        present = [{"key": layer.keys, "value": layer.values} for layer in layers]
        return {"logits": self.head(found.last_hidden_state), "present": present}


def language_graphs(model: PreTrainedModel) -> list[Graph]:
    """Embeddings of text, and the language model on embeddings (B, T, E) behind a cache of P tokens.

    Raises:
        InputError: a language model without keys and values of every layer, or with a window.
    """
    inner, config = parts(model)
    text = config.text_config
    layers = DynamicCache(config=text).layers
    if any(type(layer) is not DynamicLayer for layer in layers) or inner.language_model._is_stateful:
        raise InputError(f"a {text.model_type!r} keeps more or less than keys and values of every token; not exported")
    sequence = {0: IMAGES[0], 1: "sequence_length"}
    past = {0: IMAGES[0], 2: "past_sequence_length"}
    batch, length, before = 2, 3, 5
    with torch.no_grad():  # what a layer keeps, by its own account
        cache: Any = DynamicCache(config=text)
        embeds = inner.get_input_embeddings()(torch.zeros(batch, before, dtype=torch.long))
        inner.language_model(inputs_embeds=embeds, use_cache=True, **{CACHE: cache})
    inputs = {
        "inputs_embeds": embeds[:, :length],
        "attention_mask": torch.ones(batch, before + length, dtype=torch.long),
        "position_ids": torch.arange(before, before + length).expand(batch, -1),
        "past_key_values": [{"key": layer.keys, "value": layer.values} for layer in cache.layers],
    }
    dimensions: dict[str, dict[int, str]] = {
        "inputs_embeds": sequence,
        "attention_mask": {0: IMAGES[0], 1: "total_sequence_length"},
        "position_ids": sequence,
    }
    for index in range(len(cache.layers)):
        dimensions |= {f"past_key_values.{index}.{name}": past for name in ("key", "value")}
    decoder = _Decoder(inner.language_model, model.get_output_embeddings())
    ids = torch.arange(batch * length).view(batch, length)
    return [
        Graph("embed_tokens", _Embed(inner.get_input_embeddings()), {"input_ids": ids}, {"input_ids": sequence}),
        Graph("decoder_model_merged", decoder, inputs, dimensions),
    ]


def parts(model: PreTrainedModel) -> tuple[Any, MLLMConfig]:
    """What encodes, projects and goes on, and its configuration; InputError for another's model."""
    if not isinstance(model.config, MLLMConfig):
        raise InputError(f"holds a {model.config.model_type!r}; only models of `mllm finetune` are exported")
    return model.model, model.config
