"""Composed drawings as sources: ``drawings:SPLIT[:COUNT][:KEY=VALUE ...]``, such as ``drawings:train:10000:size=224``.

| split | drawings of | names | for |
|---|---|---|---|
| ``train`` | seven artists | nine tenths | training |
| ``validation`` | the same | the same | other compositions |
| ``artist`` | an artist whom nobody trains on | those of training | what is learned of names |
| ``names`` | the artists of training | a tenth that nobody trains on | what is learned of the rest |

| option | for | what | default |
|---|---|---|---|
| ``size`` | all | pixels, one number or HEIGHTxWIDTH | what the caller wants, or of 128 to 448 |
| ``seed`` | all | of all scenes | 0 |
| ``objects`` | all | the most in one scene; with 1 every drawing has its turn | 6; labeled: always 1 |
| ``names`` | all | only so many of the most common names | all |
| ``text`` | all but labeled | fraction of scenes that have something to read | 0.3 |
| ``questions`` | conversations | how many in one, 1 to 6 | 4 |
| ``categories`` | conversations | of questions, ``count+color`` | all |
| ``short`` | conversations | fraction of questions that ask for a word or phrase | 0.5 |
| ``descriptions`` | conversations | fraction whose last turn asks for a description instead | 0.2 |
| ``captions`` | conversations | fraction that asks for nothing but a description | 0.1 |

Without COUNT there are as many items as the split has drawings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from data.drawings.captions import TEMPLATES
from data.drawings.conversations import DrawnConversations, DrawnTurns
from data.drawings.datasets import DrawnCaptions, DrawnImages, LabeledDrawings
from data.drawings.index import GROUPS, load_index
from data.drawings.scene import SceneConfig
from data.errors import InputError
from data.sources import DenseImages, Given, LabeledImages, parse_options, refuse_files, register_source
from data.synthetic.dense import dense_scenes
from data.synthetic.scene import parse_size

FORM = "drawings:SPLIT[:COUNT][:KEY=VALUE ...], for example drawings:train:10000:size=224"
_SINGLE: dict[str, Callable[[str], Any]] = {"size": parse_size, "seed": int, "names": int}
_SCENES: dict[str, Callable[[str], Any]] = {**_SINGLE, "objects": int, "text": float}
_TURNS: dict[str, Callable[[str], Any]] = {"questions": int, "categories": lambda text: text.split("+")}
_TURNS |= dict.fromkeys(("short", "descriptions", "captions"), float)


@register_source("images", "drawings")
def _open_images(address: str, given: Given) -> DrawnImages:
    return DrawnImages(*_read(address, given, _SCENES)[:3])


@register_source("labeled", "drawings")
def _open_labeled(address: str, given: Given) -> LabeledImages:
    dataset = LabeledDrawings(*_read(f"{address}:objects=1", given, {**_SINGLE, "objects": int})[:3])
    return LabeledImages(dataset, [name.text for name in load_index().names], TEMPLATES)


def _dense(address: str, given: Given, masks: bool) -> DenseImages:
    scenes = DrawnImages(*_read(address, given, _SCENES)[:3])
    return dense_scenes(scenes, lambda scene: scene.things, lambda thing: thing.name.group, GROUPS, masks)


@register_source("segmented", "drawings")
def _open_segmented(address: str, given: Given) -> DenseImages:
    return _dense(address, given, masks=True)


@register_source("boxed", "drawings")
def _open_boxed(address: str, given: Given) -> DenseImages:
    return _dense(address, given, masks=False)


@register_source("captioned", "drawings")
def _open_captioned(address: str, given: Given) -> DrawnCaptions:
    refuse_files(f"drawings:{address}", given)
    return DrawnCaptions(*_read(address, given, _SCENES)[:3])


@register_source("conversations", "drawings")
def _open_conversations(address: str, given: Given) -> DrawnConversations:
    split, count, config, options = _read(address, given, _SCENES | _TURNS)
    return DrawnConversations(split, count, config, DrawnTurns(**options))


def _read(
    address: str, given: Given, converters: Mapping[str, Callable[[str], Any]]
) -> tuple[str, int, SceneConfig, dict[str, Any]]:
    """Split, number of scenes and what they are; the other options."""
    source = f"drawings:{address}"
    (split, *count), options = parse_options(source, converters, FORM)
    if len(count) > 1 or not re.fullmatch(r"\d{0,18}", "".join(count)):
        raise InputError(f"{source}: composed drawings are written {FORM}")
    height, width = options.pop("size", None) or given.image_size or (None, None)
    fields = {name: options.pop(name) for name in ("objects", "names", "text", "seed") if name in options}
    return split, int("".join(count) or 0), SceneConfig(height, width, **fields), options
