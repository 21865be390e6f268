"""Recipes: YAML files read into typed dataclasses.

A recipe class is a dataclass whose fields are the keys of the file, nested dataclasses its sections. An unknown key, a
value of the wrong type and a missing value are refused with the file, the key and what exists; a `__post_init__`
refuses contradictions by raising InputError. `key.sub=value` overrides come after the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

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
    except MissingMandatoryValue as error:
        missing = ", ".join(sorted(OmegaConf.missing_keys(config)))
        raise InputError(f"recipe {path}: {missing} is missing; give it a value") from error
    except OmegaConfBaseException as error:
        raise InputError(f"recipe {path}: {_first_line(error)}") from error
    except ValueError as error:  # InputError, or what a class of encoder/ says of its fields
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
    _check_shape(cls, given, where)
    try:
        merged = OmegaConf.merge(config, given)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = str(getattr(error, "full_key", None) or "")
        raise InputError(f"{where}: {key + ': ' if key else ''}{_first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _check_shape(cls: Any, given: DictConfig, where: str, section: str = "") -> None:
    """Refuse keys that the dataclass has not, and values where it has sections, at any depth."""
    hints = get_type_hints(cls)
    check_keys(
        f"{where}: section {section!r}" if section else where,
        map(str, given),
        [each.name for each in fields(cls)],
    )
    for key in map(str, given):
        name = f"{section}.{key}" if section else key
        value = given._get_node(key)
        hint = hints[key]
        if is_dataclass(hint):
            parts: dict[str, Any] = {name: value}
        elif get_origin(hint) is list and is_dataclass(get_args(hint)[0]) and isinstance(value, ListConfig):
            hint = get_args(hint)[0]
            parts = {f"{name}[{index}]": item for index, item in enumerate(value._iter_ex(resolve=False))}
        else:
            continue
        for place, part in parts.items():
            if not isinstance(part, DictConfig):
                keys = ", ".join(each.name for each in fields(hint))
                raise InputError(f"{where}: {place}: expected a section with the keys {keys}, not {part!r}")
            if not part._is_none() and not part._is_interpolation():
                _check_shape(hint, part, where, place)


def _kind(config: Any) -> str:
    return "list" if isinstance(config, ListConfig) else type(config).__name__


def _first_line(error: BaseException) -> str:
    """OmegaConf adds lines of detail after the message."""
    return str(error).split("\n", 1)[0].strip()
