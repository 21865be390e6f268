"""What a user chooses by name: ours is imported when it is asked for, that of other packages is found by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from data.errors import InputError, translated

T = TypeVar("T", bound=Callable[..., Any])
PLUGINS = "mllm.plugins"
"""The group of entry points in which an installed package names its modules that register something."""
MODULES = "MLLM_PLUGINS"
"""The environment variable that names other such modules, separated by commas."""


class Registry(Generic[T]):
    """Classes or functions by name.

    Args:
        what: what messages call one of them, such as "benchmark".
        built_in: name -> the module that registers it, which is imported when the name is looked up.
    """

    def __init__(self, what: str, built_in: Mapping[str, str]) -> None:
        self.what, self.built_in = what, built_in
        self.members: dict[str, T] = {}

    def register(self, name: str, member: T) -> T:
        """Adds a member. Raises ValueError if the name is taken."""
        if name in self.members or self.built_in.get(name, member.__module__) != member.__module__:
            raise ValueError(f"{self.what} {name!r} exists already; choose another name")
        self.members[name] = member
        return member

    def __getitem__(self, name: str) -> T:
        """Looks a member up. Raises InputError, with the names that exist, if there is none."""
        if name not in self:
            raise InputError(f"unknown {self.what} {name!r}; there are {', '.join(self)}")
        if name not in self.members:
            import_module(self.built_in[name])
        return self.members[name]

    def __contains__(self, name: str) -> bool:
        return name in self.built_in or name in iter(self)

    def __iter__(self) -> Iterator[str]:
        _load_plugins()
        return iter({**self.built_in, **self.members})


@cache
def _load_plugins() -> None:
    for point in entry_points(group=PLUGINS):
        with translated(f"plug-in {point.value}", "fix or uninstall it"):
            point.load()
    for module in filter(None, os.environ.get(MODULES, "").split(",")):
        with translated(f"{MODULES}={module}", "name modules that Python finds, for example on PYTHONPATH"):
            import_module(module)
