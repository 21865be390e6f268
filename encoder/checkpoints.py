"""What training leaves around weights in a file: dictionaries that hold more than them, and prefixes of their names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

# Keys under which training scripts keep a state dict, averaged weights first, as timm takes them, and DINO's teacher.
WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "model_state_dict", "module")
# Of `DistributedDataParallel`, Lightning, torch.compile and DINO, where all names begin so.
PREFIXES = ("module", "model", "_orig_mod", "backbone")
# What DINO's loss needs behind the backbone, and nothing else.
_DINO_HEADS = {"head", "dino_head", "ibot_head"}

_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]  # what NumPy's own are pickled as
# What training keeps beside weights and `torch.load(weights_only=True)` does not know: numbers and arrays of NumPy 1
# and 2, and the arguments of the command line. None of them runs code of the file's.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in f"{np.typecodes['AllInteger']}{np.typecodes['AllFloat']}?SU"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def unwrapped(content: object) -> object:
    """The state dict in what a file holds: taken out of its wrappers, without the prefixes that all names have."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return content
    weights = {_without_compile(name): _tensor(value) for name, value in content.items()}
    while first := {name.partition(".")[0] for name in weights}:
        if len(first) == 1 and first <= set(PREFIXES):
            chosen = first.pop()
        elif "teacher" in first and first <= {"teacher", "student"}:
            chosen = "teacher"
        elif "backbone" in first and first <= {"backbone", *_DINO_HEADS}:
            chosen = "backbone"
        else:
            break
        if chosen in weights:  # a weight of that name, not a prefix
            break
        weights = {name[len(chosen) + 1 :]: value for name, value in weights.items() if name.startswith(f"{chosen}.")}
    return weights


def _without_compile(name: str) -> str:
    """Of a part that was compiled alone the prefix stands in the middle."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod") or name


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype != object else value
