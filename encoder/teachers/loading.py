"""Teachers by name: `open_clip:NAME`, `timm:NAME`, `transformers:DIR_OR_NAME`, or the directory of a saved model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import open_clip
import timm
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import nn

from encoder.clip import CONFIG_FILE, Clip, text_model, text_weights
from encoder.teachers.base import Teacher, TeacherError
from encoder.teachers.open_clip_towers import OpenClipTeacher
from encoder.teachers.text_side import WHOLE, TextSide, read_strictly, transformers_text_side
from encoder.teachers.timm_towers import TimmTeacher
from encoder.teachers.transformers_towers import TransformersTeacher

logger = logging.getLogger(__name__)


@dataclass
class LoadedTeacher:
    """A teacher and, if it has one, the text side of its CLIP."""

    teacher: Teacher
    text: TextSide | None = None


# What the libraries raise for names, files and hubs that they cannot read.
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, SafetensorError)


@dataclass(frozen=True)
class _Wanted:
    """What `load_teacher` was asked for; ``directory``: whether ``name`` is one."""

    name: str
    pretrained: str | None
    directory: bool
    image_size: int | None
    random: bool


def load_teacher(
    source: str, pretrained: str | None = None, image_size: int | None = None, random: bool = False
) -> LoadedTeacher:
    """Load a pre-trained tower.

    Args:
        source: ``open_clip:NAME``, ``timm:NAME[.TAG]``, ``transformers:NAME`` or ``transformers:DIRECTORY``; a
            directory that one of the three wrote; or the bare name of one of open_clip's models.
        pretrained: weights of a named model of open_clip or timm: a tag or a local file in a format of that library.
            For open_clip ``TAG=FILE`` takes the weights from FILE and the preprocessing from TAG.
        image_size: side of its pictures in pixels, if not the published one: position embeddings are interpolated by
            its library, and what it resizes pictures to changes alike.
        random: leave the weights at their random start; no file of weights is looked for. To rehearse.

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
        with _quiet_hub():
            return LIBRARIES[library](_Wanted(name, pretrained, directory, image_size, random))
    except _UNREADABLE as error:
        if any(isinstance(each, _UNREACHABLE) for each in _chain(error)):
            raise TeacherError(
                f"{source} is not on this machine, and the hub that has it cannot be reached; "
                f"fetch it where there is a network, and {_WAYS[library]}"
            ) from error
        raise TeacherError(f"{source} cannot be loaded: {' '.join(str(error).split())}") from error


# Of the hub's client, and of downloads without it.
_UNREACHABLE = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError, URLError)
_WAYS = {
    "open_clip": "give the file of weights as pretrained (TAG=FILE), or a directory that open_clip wrote",
    "timm": "give the file of weights as pretrained, or a directory that timm wrote",
    "transformers": "give its directory: transformers:DIRECTORY",
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's client warns of each of its tries, of which there are a dozen; what came of them is said once."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "huggingface_hub.utils._http")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


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


def _from_open_clip(wanted: _Wanted) -> LoadedTeacher:
    name, pretrained = wanted.name, wanted.pretrained
    schema, _ = open_clip.factory.parse_model_name(name)
    identifier = f"local-dir:{name}" if wanted.directory else name
    if not wanted.directory and schema is None and pretrained is None:
        raise TeacherError("set pretrained as well, for a name of open_clip's; a directory would bring its weights")
    tag, _, file = (
        ("", "", pretrained) if pretrained and Path(pretrained).is_file() else (pretrained or "").partition("=")
    )
    settings: dict[str, Any] = {"force_image_size": wanted.image_size}
    if file or wanted.random:
        published = not wanted.directory and schema is None
        settings["force_preprocess_cfg"] = _preprocessing(name, tag or None, file) if published else None
    if wanted.random:
        settings |= {"load_weights": False, "pretrained_text": False}
        return LoadedTeacher(OpenClipTeacher(open_clip.create_model(identifier, **settings).visual))
    # open_clip's own word for these is a line in the log and then an error
    if file and not Path(file).is_file():
        raise TeacherError(f"there is no such file {file}")
    if pretrained and not file and not open_clip.pretrained.is_pretrained_cfg(name, pretrained):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise TeacherError(f"{pretrained!r} is no file and no tag of it; there are {tags or 'none'}")
    clip = open_clip.create_model(identifier, pretrained=file or pretrained, require_pretrained=True, **settings).eval()
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


def _from_timm(wanted: _Wanted) -> LoadedTeacher:
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


def _from_transformers(wanted: _Wanted) -> LoadedTeacher:
    name = wanted.name
    config: Any = transformers.AutoConfig.from_pretrained(name)
    saved_by = (config.architectures or ["no class"])[0]
    if saved_by not in _TOWERS:
        raise TeacherError(f"it was saved by {saved_by}, which is not known; there are {', '.join(_TOWERS)}")
    tower, others = _TOWERS[saved_by]
    if saved_by == "CLIPModel":  # the width of its projections is the whole model's
        config.vision_config.projection_dim = config.text_config.projection_dim = config.projection_dim
    vision = getattr(config, "vision_config", config)
    processor = transformers.AutoImageProcessor.from_pretrained(name)
    if wanted.random:
        return LoadedTeacher(TransformersTeacher(tower(vision), processor, wanted.image_size))
    teacher = TransformersTeacher(read_strictly(tower, name, vision, others), processor, wanted.image_size)
    return LoadedTeacher(teacher, transformers_text_side(name, config, teacher) if saved_by in WHOLE else None)


LIBRARIES: dict[str, Callable[[_Wanted], LoadedTeacher]] = {
    "open_clip": _from_open_clip,
    "timm": _from_timm,
    "transformers": _from_transformers,
}
