"""The vision tower of a whole model ends at the deepest block that the projector reads.

LLaVA reads the last block but one. What comes behind it, a block, the final norm, the pooling and the head, would take
time and memory and never get a gradient. The hidden states that are read stay bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin

from encoder import SparseFormerConfig


def resolve_layers(layers: int | Sequence[int], config: PreTrainedConfig) -> list[int]:
    """Counts indices into a tower's hidden states from the first, which is what enters the first block.

    Raises:
        ValueError: the tower has no such hidden state, or no plain stack of blocks.
    """
    blocks = getattr(config, "num_hidden_layers", None)
    if not isinstance(blocks, int):
        raise ValueError(f"vision_config: a {config.model_type!r} is no stack of blocks; take a ViT or a SparseFormer")
    wanted = [layers] if isinstance(layers, int) else list(layers)
    if not wanted or not all(-blocks - 1 <= layer <= blocks for layer in wanted):
        raise ValueError(
            f"vision_feature_layer={layers} does not exist: the encoder has {blocks} blocks, so it is between "
            f"{-blocks - 1} and {blocks}"
        )
    return [layer % (blocks + 1) for layer in wanted]


def shorten_config(config: PreTrainedConfig, depth: int) -> None:
    """Makes it, in place, the configuration of the same tower with its first ``depth`` blocks only."""
    if isinstance(config, SparseFormerConfig):
        units = config.units[: config.num_focusing_units + depth]
        config.drop_path_rate *= (len(units) - 1) / max(1, len(config.units) - 1)  # it grows from unit to unit
        config.units = units
    else:
        config.num_hidden_layers = depth
        if isinstance(config, BackboneConfigMixin):  # DINOv2's names each block
            config.stage_names = config.stage_names[: depth + 1]
    if isinstance(config, BackboneConfigMixin):
        config.set_output_features_output_indices(None, None)


def new_tower(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Builds the tower of a shortened configuration, with random weights."""
    tower: PreTrainedModel = AutoModel.from_config(config, dtype=dtype)
    end_tower(tower, config.num_hidden_layers)
    return tower


def end_tower(tower: PreTrainedModel, depth: int) -> None:
    """Drops the blocks of a tower behind ``depth``, and what comes after the blocks, in place.

    Args:
        tower: any that has its blocks in one list and registers its modules in the order in which they run, as
            SparseFormer and the ViTs of transformers do.
        depth: number of blocks that stay.
    """
    blocks = _stack(tower)
    del blocks[len(blocks) - (tower.config.num_hidden_layers - depth) :]
    children = list(tower.named_children())
    last = next(index for index, (_, child) in enumerate(children) if any(part is blocks for part in child.modules()))
    for name, _ in children[last + 1 :]:
        setattr(tower, name, nn.Identity())
    for module in tower.modules():
        if "mask_token" in dict(module.named_parameters(recurse=False)):  # of masked images, which needs a mask
            module.register_parameter("mask_token", None)
    shorten_config(tower.config, depth)


def unread_weights(name: str, tower: nn.Module, **hub: Any) -> set[str]:
    """Names the weights behind the layer that is read, if by its own config.json a directory holds a whole tower.

    That is how model directories were written before the tower ended where it is read.

    Args:
        name: the directory, or a model on the hub.
        tower: as loaded from there.
        **hub: arguments for `from_pretrained`.
    """
    stored = PreTrainedConfig.get_config_dict(name, **hub)[0]["vision_config"]
    with torch.device("meta"):
        whole = AutoModel.from_config(AutoConfig.for_model(**stored))
    return {f"model.vision_tower.{key}" for key in whole.state_dict().keys() - tower.state_dict().keys()}


def tower_blocks(tower: PreTrainedModel) -> list[nn.Module]:
    """Returns the blocks of a tower: of a SparseFormer those of its cortex, of a ViT all."""
    stack = _stack(tower)
    return list(stack)[len(stack) - tower.config.num_hidden_layers :]


def _stack(tower: PreTrainedModel) -> nn.ModuleList:
    """The list that ends with a tower's blocks; a SparseFormer's begins with its focusing transformer."""
    if isinstance(tower.config, SparseFormerConfig):  # an inherited stem may have lists of its own
        return cast(Any, tower).layers
    return next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
