"""Teachers by name: `open_clip:NAME`, `timm:NAME`, `transformers:DIR_OR_NAME`, or the directory of a saved model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from encoder.clip import CONFIG_FILE, Clip, text_model, text_weights
from encoder.teachers.base import Teacher, TeacherError
from encoder.teachers.open_clip_towers import OpenClipTeacher
from encoder.teachers.timm_towers import TimmTeacher
from encoder.teachers.transformers_towers import TransformersTeacher

logger = logging.getLogger(__name__)


@dataclass
class TextSide:
    """What makes a CLIP of an image tower: text tower and logit scale, tokenizer, open_clip's configuration."""

    clip: Clip
    tokenizer: Any
    model_config: dict[str, Any]


@dataclass
class LoadedTeacher:
    """A teacher and, if it is one of open_clip's, the text side of its CLIP."""

    teacher: Teacher
    text: TextSide | None = None


# What the libraries raise for names, files and hubs that they cannot read.
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, SafetensorError)


def load_teacher(source: str, pretrained: str | None = None) -> LoadedTeacher:
    """Load a pre-trained tower.

    Args:
        source: ``open_clip:NAME``, ``timm:NAME[.TAG]``, ``transformers:NAME`` or ``transformers:DIRECTORY``; a
            directory that one of the three wrote; or the bare name of one of open_clip's models.
        pretrained: weights of a named model of open_clip or timm: a tag or a local file in a format of that library.
            For open_clip ``TAG=FILE`` takes the weights from FILE and the preprocessing from TAG.

    Raises:
        TeacherError: it cannot be found or loaded; one line that says why. Also a tower without a final
            representation of square pictures. That a tower has no blocks to inherit is no error here: see
            `Teacher.refusal`.
    """
    library, _, name = source.partition(":")
    if Path(source).is_dir():
        library, name = _library_of(Path(source)), source
    elif library not in LIBRARIES:
        library, name = "open_clip", source
    directory = Path(name).is_dir()
    if pretrained and (directory or library == "transformers"):
        raise TeacherError(f"{source} brings its own weights; leave pretrained out")
    try:
        return LIBRARIES[library](name, pretrained, directory)
    except _UNREADABLE as error:
        raise TeacherError(f"{source} cannot be loaded: {' '.join(str(error).split())}") from error


def _library_of(directory: Path) -> str:
    """Which library wrote this directory, by its configuration file."""
    if (directory / CONFIG_FILE).is_file():
        return "open_clip"
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if "architecture" in config:
            return "timm"
        if "architectures" in config:
            return "transformers"
    except (OSError, ValueError, TypeError) as error:
        raise TeacherError(f"{directory} is not the directory of a model: {CONFIG_FILE} and {path}: {error}") from error
    raise TeacherError(f"{path} names no architecture, as timm's, or architectures, as transformers', does")


def _from_open_clip(name: str, pretrained: str | None, directory: bool) -> LoadedTeacher:
    schema, _ = open_clip.factory.parse_model_name(name)
    identifier = f"local-dir:{name}" if directory else name
    if not directory and schema is None and pretrained is None:
        raise TeacherError("set pretrained as well, for a name of open_clip's; a directory would bring its weights")
    tag, _, file = (
        ("", "", pretrained) if pretrained and Path(pretrained).is_file() else (pretrained or "").partition("=")
    )
    # open_clip's own word for these is a line in the log and then an error
    if file and not Path(file).is_file():
        raise TeacherError(f"there is no such file {file}")
    if pretrained and not file and not open_clip.pretrained.is_pretrained_cfg(name, pretrained):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise TeacherError(f"{pretrained!r} is no file and no tag of it; there are {tags or 'none'}")
    clip = open_clip.create_model(
        identifier,
        pretrained=file or pretrained,
        require_pretrained=True,
        force_preprocess_cfg=_preprocessing(name, tag or None, file) if file else None,
    ).eval()
    teacher = OpenClipTeacher(clip.visual)
    config = open_clip.get_model_config(identifier)
    clip, config = _without_decoder(clip, config)
    return LoadedTeacher(teacher, TextSide(clip, open_clip.get_tokenizer(identifier), config))


def _preprocessing(name: str, tag: str | None, file: str) -> dict[str, Any]:
    """How pictures are prepared for weights from a local file, which does not say it: as its published tags do."""
    fields = ("mean", "std", "interpolation", "resize_mode")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag is not None and tag not in tags:
        raise TeacherError(f"{tag!r} is no tag of {name}; there are {', '.join(tags) or 'none'}")
    found = [
        {field: cfg[field] for field in fields if field in cfg}
        for cfg in (open_clip.get_pretrained_cfg(name, each) for each in ([tag] if tag else tags))
    ]
    if not found or any(cfg != found[0] for cfg in found):
        logger.warning(
            "%s: %s has no one published preprocessing; open_clip's default is taken, TAG=FILE chooses", file, name
        )
        return {}
    return found[0]


def _without_decoder(clip: nn.Module, config: dict[str, Any]) -> tuple[Clip, dict[str, Any]]:
    """A CoCa as the contrastive CLIP that it also is; another CLIP as it is."""
    if not isinstance(clip, open_clip.CoCa):
        return clip, config
    config = deepcopy({key: value for key, value in config.items() if key != "multimodal_cfg"})
    config["text_cfg"]["output_tokens"] = False  # which only the decoder reads
    clip.visual.output_tokens = False
    plain = text_model({**config, "custom_text": True})
    given = clip.state_dict()
    with torch.no_grad():
        for name, weight in text_weights(plain).items():
            weight.copy_(given[name])
    plain.visual = clip.visual
    return plain.eval(), config


def _from_timm(name: str, pretrained: str | None, directory: bool) -> LoadedTeacher:
    overlay = None
    if directory:
        name = f"local-dir:{name}"
    elif pretrained and Path(pretrained).is_file():
        # Files of numpy arrays are the originals' of Google's ViTs, which timm's own loader of the model reads.
        overlay = {"file": pretrained, "custom_load": Path(pretrained).suffix in (".npz", ".npy")}
    elif pretrained:
        name = f"{name}.{pretrained}"
    return LoadedTeacher(TimmTeacher(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)))


# The class that saved a model -> the class of its image tower, and the weights that are not the tower's.
_TOWERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "CLIPModel": (
        transformers.CLIPVisionModelWithProjection,
        ("text_model.", "text_projection.", "logit_scale"),
    ),
    "CLIPVisionModelWithProjection": (transformers.CLIPVisionModelWithProjection, ()),
    "CLIPVisionModel": (transformers.CLIPVisionModel, ()),
    "SiglipModel": (transformers.SiglipVisionModel, ("text_model.", "logit_scale", "logit_bias")),
    "SiglipVisionModel": (transformers.SiglipVisionModel, ()),
    "Dinov2Model": (transformers.Dinov2Model, ()),
}


def _from_transformers(name: str, pretrained: str | None, directory: bool) -> LoadedTeacher:
    config: Any = transformers.AutoConfig.from_pretrained(name)
    saved_by = (config.architectures or ["no class"])[0]
    if saved_by not in _TOWERS:
        raise TeacherError(f"it was saved by {saved_by}, which is not known; there are {', '.join(_TOWERS)}")
    tower, others = _TOWERS[saved_by]
    if saved_by == "CLIPModel":  # the width of its projection is the whole model's
        config.vision_config.projection_dim = config.projection_dim
    config = getattr(config, "vision_config", config)
    model, report = tower.from_pretrained(name, config=config, output_loading_info=True, dtype=torch.float32)
    surplus = [key for key in report["unexpected_keys"] if not key.startswith(others)]
    if report["missing_keys"] or surplus:
        raise TeacherError(f"missing weights: {sorted(report['missing_keys'])}; unexpected ones: {sorted(surplus)}")
    return LoadedTeacher(TransformersTeacher(model, transformers.AutoImageProcessor.from_pretrained(name)))


LIBRARIES: dict[str, Callable[[str, str | None, bool], LoadedTeacher]] = {
    "open_clip": _from_open_clip,
    "timm": _from_timm,
    "transformers": _from_transformers,
}
