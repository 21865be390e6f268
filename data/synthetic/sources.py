"""Generated scenes as sources: ``synthetic:SPLIT:COUNT[:KEY=VALUE ...]``, such as ``synthetic:train:10000:size=64``.

| option | for | what | default |
|---|---|---|---|
| ``size`` | all | pixels, one number or HEIGHTxWIDTH | what the caller wants, or 64 |
| ``seed`` | all | of all scenes | 0 |
| ``scale`` | all | how large objects and letters are, ``0.3``, or in each scene something between: ``0.4-1`` | 1 |
| ``classes`` | labeled | ``objects`` or ``texts``, of which each image shows one | objects |
| ``objects`` | the others | the most in one scene | 6 |
| ``text`` | the others | fraction of scenes that have something to read | 0.3 |
| ``questions`` | conversations | how many in one, 1 to 6 | 4 |
| ``descriptions`` | conversations | fraction whose last turn asks for a description instead | 0.15 |
| ``captions`` | conversations | fraction that asks for nothing but a description | 0 |
| ``lists`` | conversations | fraction that asks for nothing but a list of all that is there | 0 |
| ``categories`` | conversations | of questions, ``count+color``, or ways to ask, ``color.words`` | all but box, point |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from data.errors import InputError
from data.sources import DenseImages, Given, LabeledImages, parse_options, refuse_files, register_source
from data.synthetic.captions import CLASS_NAMES, TEMPLATES, TEXT_NAMES, TEXT_TEMPLATES
from data.synthetic.datasets import (
    SceneCaptions,
    SceneConversations,
    SceneImages,
    SceneTexts,
    SceneTurns,
    ZeroShotScenes,
)
from data.synthetic.dense import dense_scenes
from data.synthetic.scene import SceneConfig, parse_scale, parse_size
from data.synthetic.vocabulary import SHAPES

FORM = "synthetic:SPLIT:COUNT[:KEY=VALUE ...], for example synthetic:train:10000:size=64"
_ANY: dict[str, Callable[[str], Any]] = {"size": parse_size, "seed": int, "scale": parse_scale}
_SCENES: dict[str, Callable[[str], Any]] = {**_ANY, "objects": int, "text": float}
_TURNS: dict[str, Callable[[str], Any]] = {"questions": int, "categories": lambda text: text.split("+")}
_TURNS |= dict.fromkeys(("descriptions", "captions", "lists"), float)


@register_source("images", "synthetic")
def _open_images(address: str, given: Given) -> SceneImages:
    return SceneImages(*_read(address, given, _SCENES)[0])


@register_source("labeled", "synthetic")
def _open_labeled(address: str, given: Given) -> LabeledImages:
    scenes, options = _read(address, given, {**_ANY, "classes": str})
    classes = options.get("classes", "objects")
    if classes == "objects":
        return LabeledImages(ZeroShotScenes(*scenes), CLASS_NAMES, TEMPLATES)
    if classes == "texts":
        return LabeledImages(SceneTexts(*scenes), TEXT_NAMES, TEXT_TEMPLATES)
    raise InputError(f"synthetic:{address}: classes={classes}: choose objects or texts")


def _dense(address: str, given: Given, masks: bool) -> DenseImages:
    scenes = SceneImages(*_read(address, given, _SCENES)[0])
    return dense_scenes(scenes, lambda scene: scene.objects, lambda thing: thing.shape, SHAPES, masks)


@register_source("segmented", "synthetic")
def _open_segmented(address: str, given: Given) -> DenseImages:
    return _dense(address, given, masks=True)


@register_source("boxed", "synthetic")
def _open_boxed(address: str, given: Given) -> DenseImages:
    return _dense(address, given, masks=False)


@register_source("captioned", "synthetic")
def _open_captioned(address: str, given: Given) -> SceneCaptions:
    refuse_files(f"synthetic:{address}", given)
    return SceneCaptions(*_read(address, given, _SCENES)[0])


@register_source("conversations", "synthetic")
def _open_conversations(address: str, given: Given) -> SceneConversations:
    scenes, options = _read(address, given, _SCENES | _TURNS)
    asked = {name: value for name, value in options.items() if name in _TURNS}
    return SceneConversations(*scenes, asked=SceneTurns(**asked))


def _read(
    address: str, given: Given, converters: Mapping[str, Callable[[str], Any]]
) -> tuple[tuple[str, int, SceneConfig], dict[str, Any]]:
    """Split, number of scenes and what they are; all options."""
    source = f"synthetic:{address}"
    parts, options = parse_options(source, converters, FORM)
    if len(parts) != 2 or not re.fullmatch(r"\d{1,18}", parts[1]):
        raise InputError(f"{source}: generated scenes are written {FORM}")
    height, width = options.get("size") or given.image_size or (64, 64)
    named = (("max_objects", "objects"), ("text_probability", "text"), ("seed", "seed"))
    fields = {field: options[name] for field, name in named if name in options}
    if "scale" in options:
        fields["min_scale"], fields["max_scale"] = options["scale"]
    config = SceneConfig(height, width, **fields)
    return (parts[0], int(parts[1]), config), options
