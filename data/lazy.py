"""What waits until it is needed: a package's public names, and what it registers with transformers.

Torch and transformers take seconds to import. Our packages import neither, so that the command line is quick, and yet
transformers' Auto classes know our models in every program that imports one of them, before transformers or after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LIBRARY = "transformers"
_PACKAGES = ("data", "encoder", "projector", "mllm")
_waiting: list[Callable[[], object]] = []
_importing: list[str] = []  # in any thread: one that waits for another's import would get half a module


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package (PEP 562) whose public names are imported when they are first used.

    Args:
        package: its name.
        homes: for each public name, its module below the package.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get


def with_transformers(register: Callable[[], object]) -> None:
    """Calls a function once, as soon as transformers is imported; at once if it is.

    The function may import any of our modules: it is not called while one of them is half imported, as when it is our
    own module that imports transformers, but after the outermost of those imports.
    """
    _waiting.append(register)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _call_waiting()


def _call_waiting() -> None:
    while _LIBRARY in sys.modules and not _importing:
        try:
            register = _waiting.pop()  # in one thread alone
        except IndexError:
            return
        register()


class _Finder:
    """Finds transformers and our modules as the finders behind it do, with a loader that tells when one is done."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _LIBRARY and name.partition(".")[0] not in _PACKAGES:
            return None
        finders: list[Any] = sys.meta_path
        behind = finders[finders.index(self) + 1 :]
        spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in behind)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Executes a module with the loader that was found for it, and then calls who waits."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        _importing.append(module.__name__)
        try:
            self.loader.exec_module(module)
        finally:
            _importing.remove(module.__name__)
        _call_waiting()
