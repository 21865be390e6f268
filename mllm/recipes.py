"""Recipes: YAML files read into typed dataclasses.

A recipe class is a dataclass whose fields are the keys of the file, nested dataclasses its sections. An unknown key, a
value of the wrong type and a missing value are refused with the file, the key and what exists; a `__post_init__` refuses
contradictions by raising InputError. `key.sub=value` overrides come after the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from data.errors import InputError

Recipe = TypeVar("Recipe")


def load_recipe(cls: type[Recipe], path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        cls: dataclass of the recipe.
        path: YAML file.
        overrides: `"section.key=value"`, the value in YAML.
    Raises:
        InputError: one line with the file (or override), the key, and what would be right.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"recipe {path}: no such file")
    schema = OmegaConf.structured(cls)
    _make_writable(schema)
    try:
        given = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, DictConfig):
        raise InputError(f"recipe {path}: expected keys and values at the top, found a {_kind(given)}")
    config = _merge(cls, schema, given, f"recipe {path}")
    for override in overrides:
        config = _merge(cls, config, _parse_override(override), f"override {override!r}")
    try:
        recipe: Any = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(f"recipe {path}: {_first_line(error)}") from error
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error
    return recipe


def check_keys(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a key that does not exist, and name those that do.

    Raises:
        InputError: `where` opens the message.
    """
    known = sorted(known)
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; the keys are {', '.join(known)}")


def _make_writable(config: DictConfig) -> None:
    """A frozen dataclass becomes a read-only section; the file must still be able to fill it."""
    config._set_flag("readonly", None)
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            _make_writable(node)


def _parse_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override {override!r}: expected key=value")
    try:
        return OmegaConf.from_dotlist([override])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"override {override!r}: {_first_line(error)}") from error


def _merge(cls: type, config: DictConfig, given: DictConfig, where: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(config, given)
    except ConfigKeyError as error:
        full_key = str(error.full_key or error.key)
        section, _, key = full_key.rpartition(".")
        place = f"{where}: section {section!r}" if section else where
        check_keys(place, [key], _keys_of(cls, section))
        raise InputError(f"{where}: {_first_line(error)}") from error  # a key that exists, yet did not fit
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = str(getattr(error, "full_key", None) or "")
        raise InputError(f"{where}: {key + ': ' if key else ''}{_first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _keys_of(cls: Any, section: str) -> list[str]:
    """Field names of the dataclass that a dotted section stands for."""
    for name in filter(None, section.split(".")):
        cls = get_type_hints(cls)[name]
    return [field.name for field in fields(cls)] if is_dataclass(cls) else []


def _kind(config: Any) -> str:
    return "list" if isinstance(config, ListConfig) else type(config).__name__


def _first_line(error: BaseException) -> str:
    """OmegaConf adds lines of detail after the message."""
    return str(error).split("\n", 1)[0].strip()
