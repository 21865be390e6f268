"""The seven published SparseFormers: their release files, and the names of their weights.

Weights: https://github.com/showlab/sparseformer, release v2.0.0-refactor (MIT licence).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from encoder.configuration import SparseFormerConfig
from encoder.errors import WeightsError
from encoder.modeling import SparseFormerVisionModel
from encoder.presets import PRESETS
from encoder.weights import check_weights, is_url, named_tensors, read_download, read_weights

RELEASE = "https://github.com/showlab/sparseformer/releases/download/v2.0.0-refactor/{name}_converted.pth"

# Published name -> ours. A module stands for its `.weight` and `.bias`.
MODEL_NAMES = {
    "feat_extractor.conv1": "early_convolution.conv",
    "initial_roi.weight": "latent.rois",
    "initial_embedding.weight": "latent.embedding",
    "cls_embedding.weight": "class_token.embedding",
    "norm": "norm",
    "proj": "projection",
}
# Inside `layers.<i>`, the same number in both: units, and the transitions between widths (modules 0 and 1).
LAYER_NAMES = {
    "stage_embedding.weight": "repeat_embedding",
    "roi_offset_module.0": "sample.norm",
    "roi_offset_module.1": "sample.offset",
    "roi_offset_bias": "sample.offset_bias",
    "adaptive_mixing.parameter_generator.0": "sample.mixing.norm",
    "adaptive_mixing.parameter_generator.1": "sample.mixing.reduce",
    "adaptive_mixing.parameter_generator.2": "sample.mixing.expand",
    "adaptive_mixing.m_beta": "sample.mixing.channel_bias",
    "adaptive_mixing.s_beta": "sample.mixing.point_bias",
    "adaptive_mixing.out_proj": "sample.mixing.out",
    "pe_transition.0": "pe.norm",
    "pe_transition.1": "pe.linear",
    "norm1": "attn.norm",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "mlp.norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "roi_adjust_module.0": "roi.norm",
    "0": "0",
    "1": "1",
}
# The rest of the RoI's head is numbered by its kind (`SparseFormerConfig.roi_head`).
ROI_HEAD_NAMES = {
    "linear": {"roi_adjust_module.1": "roi.delta"},
    "mlp": {"roi_adjust_module.1": "roi.hidden", "roi_adjust_module.3": "roi.delta"},
}


def published_names(model: SparseFormerVisionModel) -> dict[str, str]:
    """Published name -> our name, for every weight of ``model``."""
    ours_to_published = {
        "": {ours: published for published, ours in MODEL_NAMES.items()},
        "layers": {
            ours: published for published, ours in (LAYER_NAMES | ROI_HEAD_NAMES[model.config.roi_head]).items()
        },
    }
    names = {}
    for ours in model.state_dict():
        match = re.fullmatch(r"((layers)\.\d+\.)?(.+?)(\.weight|\.bias)?", ours)
        assert match is not None
        prefix, layers, module, parameter = (part or "" for part in match.groups())
        names[prefix + ours_to_published[layers][module] + parameter] = ours
    return names


def load_published_weights(model: SparseFormerVisionModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights with published names into ``model``, in place, in float32; the tensors are copied.

    Works on a model built on the meta device as well.

    Raises:
        WeightsError: a name is missing or unexpected, or a shape differs; all of them are listed.
    """
    names = published_names(model)
    ours = model.state_dict()
    check_weights(source, weights, {published: tuple(ours[name].shape) for published, name in names.items()})
    converted = {names[published]: _copy(weight) for published, weight in weights.items()}
    model.load_state_dict(converted, assign=True)


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().to(dtype=torch.float32, copy=True).contiguous()


def load_official(
    name: str,
    weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **config_overrides: Any,
) -> SparseFormerVisionModel:
    """Build the published model ``name`` with its weights, in float32 and in evaluation mode.

    Args:
        name: one of `encoder.PRESETS`, such as "sparseformer_btsp_openai_clip_large".
        weights: a path (.pth or .safetensors), an http(s) URL, a state dict, or None for the published release file.
        cache_dir: where downloads are kept; None: ``checkpoints`` in torch's hub folder, which TORCH_HOME moves.
        **config_overrides: `SparseFormerConfig` fields to change, such as ``image_size=384`` or
            ``clamp_position_gradient=True``. What changes a weight's shape cannot fit the published weights.

    Raises:
        WeightsError: an unknown name; a file that cannot be had or read; weights that do not fit, all names listed.
        ValueError: a config field that does not exist.
    """
    if name not in PRESETS:
        raise WeightsError(f"{name!r} is no published SparseFormer; there are {', '.join(PRESETS)}")
    fields = set(SparseFormerConfig().to_dict())
    if unknown := [field for field in config_overrides if field not in fields]:
        raise ValueError(f"SparseFormerConfig has no field {', '.join(unknown)}; there are {', '.join(sorted(fields))}")
    config = SparseFormerConfig(**{**PRESETS[name].config, **config_overrides})
    if config.projection_dim == 1000 and config.projection_bias:  # a classifier of ImageNet-1K
        from timm.data import ImageNetInfo  # where it is used: it takes a second

        config.id2label = dict(enumerate(ImageNetInfo().label_descriptions()))
        config.label2id = {label: number for number, label in config.id2label.items()}
    with torch.device("meta"):  # no time for initial values that the weights replace
        model = SparseFormerVisionModel(config)
    if isinstance(weights, Mapping):
        source, state = "the given state dict", named_tensors(weights, "the given state dict")
    else:
        source = RELEASE.format(name=name) if weights is None else os.fspath(weights)
        state = read_download(source, cache_dir) if is_url(source) else read_weights(source)
    load_published_weights(model, state, source)
    model.eval()
    return model
