"""Teachers of timm by name, from a hub, a file of weights or a directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import timm

from encoder.teachers.base import TeacherError
from encoder.teachers.timm_towers import TimmTeacher
from encoder.teachers.wanted import LoadedTeacher, Wanted
from encoder.weights import check_weights, read_weights, weights_file

logger = logging.getLogger(__name__)


def load_timm(wanted: Wanted) -> LoadedTeacher:
    """`load_teacher` for timm."""
    name, pretrained = wanted.name, wanted.pretrained
    settings: dict[str, Any] = {"pretrained": not wanted.random}
    if wanted.directory:
        name = f"local-dir:{name}"
    elif pretrained and wanted.random:  # a tag says how images are prepared, a file is not looked for
        name = f"{name}.{pretrained}" if timm.is_model_pretrained(f"{name}.{pretrained}") else name
    elif pretrained and Path(pretrained).exists():
        settings |= _from_file(name, weights_file(pretrained))
    elif pretrained:
        name = f"{name}.{pretrained}"
    if wanted.image_size is not None:
        settings["img_size"] = wanted.image_size
    model: Any
    try:
        model = timm.create_model(name, **settings)
    except RuntimeError:
        if state := settings.get("pretrained_cfg_overlay", {}).get("state_dict"):  # torch would name every weight
            empty = timm.create_model(name, num_classes=settings["num_classes"])
            check_weights(str(pretrained), state, {key: tuple(each.shape) for key, each in empty.state_dict().items()})
        raise
    published = model.pretrained_cfg.get("num_classes", model.num_classes)
    if wanted.directory and published != model.num_classes:  # else it stays random
        raise TeacherError(f"config.json: num_classes is {published}, in model_args {model.num_classes}; make it one")
    model.pretrained_cfg.pop("state_dict", None)  # which are the model's by now
    return LoadedTeacher(TimmTeacher(model))


def _from_file(name: str, file: Path) -> dict[str, Any]:
    """Settings of `timm.create_model` that take the weights in a file, without another's classifier."""
    if file.suffix in (".npz", ".npy"):  # the originals of Google's ViTs, which timm's own loader of the model reads
        return {"pretrained_cfg_overlay": {"file": str(file), "custom_load": True}}
    weights: dict[str, Any] = read_weights(file)
    published = timm.get_pretrained_cfg(name)
    if published is None:
        raise TeacherError(f"{name!r} is no model of timm's; timm.list_models() names them")
    classes = published.num_classes
    classifiers = [published.classifier] if isinstance(published.classifier, str) else published.classifier or ()
    found = {len(weights[f"{each}.weight"]) if f"{each}.weight" in weights else 0 for each in classifiers}
    if classes and found != {classes}:
        logger.info("%s has a classifier of %s classes, not %d: it is left out", file, max(found, default=0), classes)
        parts = tuple(f"{each}." for each in classifiers)
        weights = {key: weight for key, weight in weights.items() if not key.startswith(parts)}
        classes = 0
    return {"num_classes": classes, "pretrained_cfg_overlay": {"state_dict": weights, "num_classes": classes}}
