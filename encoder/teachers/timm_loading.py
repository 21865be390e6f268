"""Teachers of timm by name, from a hub, a file of weights or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from encoder.teachers.timm_towers import TimmTeacher
from encoder.teachers.wanted import LoadedTeacher, Wanted


def load_timm(wanted: Wanted) -> LoadedTeacher:
    """`load_teacher` for timm."""
    name, pretrained = wanted.name, wanted.pretrained
    settings: dict[str, Any] = {}
    if wanted.directory:
        name = f"local-dir:{name}"
    elif pretrained and Path(pretrained).is_file():
        # Files of numpy arrays are the originals' of Google's ViTs, which timm's own loader of the model reads.
        custom = Path(pretrained).suffix in (".npz", ".npy")
        settings["pretrained_cfg_overlay"] = {"file": pretrained, "custom_load": custom}
    elif pretrained:
        name = f"{name}.{pretrained}"
    if wanted.image_size is not None:
        settings["img_size"] = wanted.image_size
    return LoadedTeacher(TimmTeacher(timm.create_model(name, pretrained=not wanted.random, **settings)))
