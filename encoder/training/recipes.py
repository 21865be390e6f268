"""Recipes: YAML files read into typed dataclasses.

A recipe class is a dataclass whose fields are the keys of the file, nested dataclasses its sections. An unknown key, a
value of the wrong type and a missing value are refused with the file, the key and what exists; a `__post_init__`
refuses contradictions by raising InputError. `key.sub=value` overrides come after the file. In values that begin with
`~/` or `~NAME/`, or with a kind of source before it (`folder:~/`), this is the home directory.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import InputError, reason, shorten, translated
from data.files import check_file, read_text

Recipe = TypeVar("Recipe")
MOST_BYTES = 2**20  # of a recipe

_HOME = re.compile(r"([a-z-]+:)?(?P<path>~[\w.-]*/)")


def load_recipe(cls: type[Recipe], path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        cls: dataclass of the recipe.
        path: YAML file.
        overrides: `"section.key=value"`, the value in YAML; `"list.0.key=value"` changes an item of a list.
    Raises:
        InputError: one line with the file (or override), the key, and what would be right.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"recipe {path}: no such file")
    check_file(path, "recipe", most=MOST_BYTES)
    schema = OmegaConf.structured(cls)
    text = io.StringIO(read_text(path))
    with _translated(f"recipe {path}"):
        given = OmegaConf.load(text)
    if not isinstance(given, DictConfig):
        raise InputError(f"recipe {path}: expected keys and values at the top, found a {_kind(given)}")
    config = _merge(cls, schema, given, f"recipe {path}")
    for override in overrides:
        given, where = _parse_override(override), f"override {override!r}"
        _complete_lists(given, config, where)
        config = _merge(cls, config, given, where)
    with _translated(f"recipe {path}"):
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise InputError(f"recipe {path}: {', '.join(missing)} is missing; give it a value")
        try:
            _check_values(OmegaConf.to_container(config, resolve=True))
            recipe = cast(Recipe, OmegaConf.to_object(config))
        except InputError as error:  # what the classes say of their fields
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
            raise InputError(shorten(f"{where}: unknown key {key!r}; the keys are {', '.join(known)}"))


def _expand_home(value: Any) -> Any:
    """The same with the home directory in place of `~`, at any depth."""
    if isinstance(value, dict):
        return {key: _expand_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_home(item) for item in value]
    if isinstance(value, str) and (home := _HOME.match(value)):
        start = home.start("path")
        return value[:start] + os.path.expanduser(value[start:])
    return value


def _parse_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override {override!r}: expected key=value")
    with _translated(f"override {override!r}"):
        return OmegaConf.from_dotlist([override])


def _complete_lists(given: DictConfig, config: DictConfig, where: str) -> None:
    """Makes what `stages.0.steps=100` gives the whole list, of which one item differs, as merging replaces lists."""
    for key, value in given.items():
        node = config.get(key) if key in config else None
        if isinstance(value, DictConfig) and isinstance(node, DictConfig):
            _complete_lists(value, node, where)
        elif isinstance(value, DictConfig) and isinstance(node, ListConfig):
            items: list[Any] = [OmegaConf.to_container(item) if OmegaConf.is_config(item) else item for item in node]
            for index, part in ((str(index), part) for index, part in value.items()):
                if not index.isdecimal() or int(index) >= len(items):
                    raise InputError(f"{where}: {key!s} has the items 0 to {len(items) - 1}")
                items[int(index)] = OmegaConf.merge(items[int(index)], part) if OmegaConf.is_config(part) else part
            given[key] = items


def _merge(cls: type, config: DictConfig, given: DictConfig, where: str) -> DictConfig:
    plain = _expand_home(OmegaConf.to_container(given))
    _check_shape(cls, plain, where)
    with _translated(where):
        merged = OmegaConf.merge(config, plain)
    assert isinstance(merged, DictConfig)
    return merged


def _check_shape(cls: Any, given: dict[Any, Any], where: str, section: str = "") -> None:
    """Refuse keys that the dataclass has not, and values where it has sections, at any depth."""
    hints = get_type_hints(cls)
    check_keys(
        f"{where}: section {section!r}" if section else where,
        map(str, given),
        [each.name for each in fields(cls)],
    )
    for key, value in given.items():
        name = f"{section}.{key}" if section else str(key)
        hint = hints[str(key)]
        if is_dataclass(hint):
            parts: dict[str, Any] = {name: value}
        elif get_origin(hint) is list and is_dataclass(get_args(hint)[0]) and isinstance(value, list):
            hint = get_args(hint)[0]
            parts = {f"{name}[{index}]": item for index, item in enumerate(value)}
        else:
            for kind, other, words in ((dict, list, "keys and values"), (list, dict, "a list")):
                if get_origin(hint) is kind and isinstance(value, other):
                    raise InputError(f"{where}: {name}: expected {words}, not {shorten(str(value), 60)}")
            if isinstance(value, dict | list) and get_args(hint)[-1:] in ((str,), (int,), (float,)):
                for item in value.values() if isinstance(value, dict) else value:
                    if isinstance(item, dict | list):  # OmegaConf itself lets lists in such a list pass
                        raise InputError(f"{where}: {name}: expected single values, not {shorten(str(item), 60)}")
            continue
        for place, part in parts.items():
            if isinstance(part, dict):
                _check_shape(hint, part, where, place)
            elif not (isinstance(part, str) and "${" in part):
                keys = ", ".join(each.name for each in fields(hint))
                raise InputError(f"{where}: {place}: expected a section with the keys {keys}, not {part!r}")


def _kind(config: Any) -> str:
    return "list" if isinstance(config, ListConfig) else type(config).__name__


def _check_values(value: Any, key: str = "") -> None:
    """Refuse infinity and NaN, as which YAML takes 1e400 too, and NUL, which no path has, at any depth."""
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"{key}: holds the character NUL; take it out")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key}: {value} is no finite number")
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _check_values(item, f"{key}.{name}" if key else str(name))


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """`data.errors.translated`, with the key that OmegaConf tells apart, and all lines of what YAML says."""
    with translated(where):
        try:
            yield
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            raise InputError(f"{where}: {f'{key}: ' if key else ''}{reason(error)}") from error
        except yaml.YAMLError as error:
            raise InputError(shorten(f"{where}: not valid YAML: {error}")) from error
