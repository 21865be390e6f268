"""TorchScript archives, OpenAI's CLIPs above all, read as data.

`torch.jit.load` would compile and run code that lies in the archive, which `torch.load(weights_only=True)` refuses for
that reason. The weights need none of it: an archive is a zip of a pickle, which holds the tree of modules, and of a
file per tensor. Here that pickle may name modules, whose code is never looked at, and tensors; nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Records of every TorchScript archive, below a folder with the archive's name.
_MODULES, _MARK, _BYTE_ORDER = "data.pkl", "constants.pkl", "byteorder"


def is_torchscript(path: Path) -> bool:
    """Whether ``path`` is such an archive, by what `torch.load` goes by."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == _MARK for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Names and tensors of the archive's modules, on the CPU: parameters, buffers, and what else they keep.

    Raises:
        pickle.UnpicklingError: its pickle names anything but modules and tensors.
    """
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        if f"{root}/{_BYTE_ORDER}" in archive.namelist() and archive.read(f"{root}/{_BYTE_ORDER}") != b"little":
            raise pickle.UnpicklingError("its tensors are big-endian")
        with archive.open(f"{root}/{_MODULES}") as file:
            return dict(_tensors(_Reader(file, archive, root).load(), ""))


class _Module(dict[str, Any]):
    """A module as the names and values of its attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.items() if isinstance(module, _Module) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): lambda value, kind: value,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
}


class _Reader(pickle.Unpickler):
    """Knows modules, as `_Module`, and tensors; see "Restricting Globals" in the documentation of pickle."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a module nor a tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, *_ = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]
