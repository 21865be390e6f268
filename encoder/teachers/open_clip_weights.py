"""Files of weights for open_clip's models: what open_clip itself reads, and other forms in which they lie on disks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from data.errors import translated
from encoder.errors import WeightsError
from encoder.teachers.blocks import CLIP_NAMES, OPEN_CLIP_NAMES, rename
from encoder.weights import check_weights, read_weights, weights_file

logger = logging.getLogger(__name__)

# What OpenAI's archives have among a module's tensors and open_clip's models compute.
_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
# transformers' CLIP -> open_clip's, but for the blocks and the projections.
_TRANSFORMERS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_LAYERS = {"vision_model": "visual.transformer.resblocks", "text_model": "transformer.resblocks"}


def load_weights_file(clip: Any, file: str) -> bool:
    """Put the weights in a file into a model of open_clip's, in place and strictly; position embeddings are resized.

    Returns:
        whether the file has the text side, too; else only ``clip.visual`` has its weights.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    if Path(file).suffix in (".npz", ".npy"):  # Google's SigLIPs as published
        with translated(file, error=WeightsError):
            open_clip.load_checkpoint(clip, str(weights_file(file)))
        return True
    weights = read_weights(file)
    ours = {name: tuple(weight.shape) for name, weight in clip.state_dict().items()}
    with translated(f"{file} does not fit the model", error=WeightsError):
        weights = _as_open_clip(clip, weights, file)
    whole = not all(name.startswith("visual.") for name in weights)
    if not whole:
        logger.info("%s holds an image tower alone: no text side comes with it", file)
        ours = {name: shape for name, shape in ours.items() if name.startswith("visual.")}
    check_weights(file, weights, ours)
    clip.load_state_dict(weights, strict=whole)
    return whole


def _as_open_clip(clip: Any, weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The weights under open_clip's names; as `open_clip.load_checkpoint` does it, and from OpenAI and transformers."""
    names = clip.visual.state_dict()
    if set(weights) <= set(names):
        weights = {f"visual.{name}": weight for name, weight in weights.items()}
    if any(name.startswith("vision_model.") for name in weights):
        weights = _from_transformers(weights, file)
    if "visual.conv1.weight" in weights:
        weights = {name: weight for name, weight in weights.items() if name.rpartition(".")[2] not in _NO_WEIGHTS}
    weights = convert_state_dict(clip, weights)
    if "positional_embedding" in weights and not hasattr(clip, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    weights.pop("text.transformer.embeddings.position_ids", None)  # a buffer of transformers before 4.31
    for name in ("logit_scale", "logit_bias"):
        if name in weights and getattr(clip, name, None) is not None:
            weights[name] = weights[name].reshape(getattr(clip, name).shape)
    resize_pos_embed(weights, clip)
    if not all(name.startswith("visual.") for name in weights):
        resize_text_pos_embed(weights, clip)
    return weights


def _from_transformers(weights: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """transformers' names of a CLIP to open_clip's, whose queries, keys and values are one weight."""
    converted, layers = {}, dict[str, dict[str, Tensor]]()
    for name, weight in weights.items():
        side, _, rest = name.partition(".encoder.layers.")
        if rest:
            index, _, part = rest.partition(".")
            layers.setdefault(f"{_LAYERS[side]}.{index}", {})[part] = weight
        elif name in _TRANSFORMERS:
            converted[_TRANSFORMERS[name]] = weight
        elif name in _PROJECTIONS:
            converted[_PROJECTIONS[name]] = weight.T
        elif not name.endswith(".position_ids"):
            raise WeightsError(
                f"{file}: transformers' weights of another model than CLIP ({name}); give its directory as the model: "
                "transformers:DIR"
            )
    theirs = {unit: name for name, unit in OPEN_CLIP_NAMES.items()}
    for block, parts in layers.items():
        units = rename(parts, CLIP_NAMES, f"{file}: {block}")
        converted |= {f"{block}.{theirs[unit]}": weight for unit, weight in units.items()}
    return converted
