"""A bootstrapped student with its CLIP's text tower, as one directory and as one open_clip model.

The directory is an ordinary transformers model (config.json, model.safetensors, preprocessor_config.json) with two more
files: ``open_clip_config.json``, in open_clip's format, and ``open_clip_text.safetensors``, the weights of all that is
not the image tower. A text tower of transformers is described there in transformers' terms, and has its tokenizer
beside it; see `encoder.transformers_text`. One that open_clip itself takes from transformers has its configuration
beside it, ``open_clip_text_config.json``. So a directory can be moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from data.errors import translated
from data.files import whole_folder
from encoder.configuration import SparseFormerConfig
from encoder.errors import WeightsError
from encoder.image_processing import SparseFormerImageProcessor, load_image_processor
from encoder.modeling import SparseFormerVisionModel
from encoder.open_clip_tower import SparseFormerTower
from encoder.weights import check_finite, check_report, check_weights, read_weights

if TYPE_CHECKING:  # imported where it is used: with timm it takes a second, and a chat needs neither
    import open_clip

Clip: TypeAlias = "open_clip.CLIP | open_clip.CustomTextCLIP"

CONFIG_FILE = "open_clip_config.json"
TEXT_FILE = "open_clip_text.safetensors"
# Where the configuration of a text tower is that open_clip itself takes from transformers; open_clip names its place.
TEXT_CONFIG_FILE = "open_clip_text_config.json"
# Where text_cfg has the configuration of a text tower of transformers.
TRANSFORMERS_TEXT = "transformers_config"

# The smallest towers that open_clip builds; they are thrown away for others.
_NO_VISION = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
_NO_TEXT = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 2, "context_length": 2}


def save_clip(
    directory: str | os.PathLike[str],
    clip_model: Clip,
    tower: SparseFormerVisionModel,
    image_processor: SparseFormerImageProcessor,
    model_config: Mapping[str, Any],
    tokenizer: Any = None,
) -> None:
    """Write ``tower`` and the text side of ``clip_model`` as one directory that `load_clip` reads.

    Every file is complete before it takes its place, and before that the whole is read back: its text embeddings must
    be those of ``clip_model``.

    Args:
        directory: made if it does not exist; files of the same names are replaced.
        clip_model: open_clip's `CLIP` or `CustomTextCLIP`; its ``visual`` is not looked at.
        tower: the student, whose embeddings have the width ``model_config["embed_dim"]``.
        image_processor: how the student's images are prepared.
        model_config: open_clip's configuration of ``clip_model``, as `open_clip.get_model_config` returns it.
        tokenizer: for a text tower whose tokenizer is not open_clip's own.

    Raises:
        ValueError: the parts do not make one CLIP.
    """
    import open_clip

    custom_text = isinstance(clip_model, open_clip.CustomTextCLIP)
    if not custom_text and not isinstance(clip_model, open_clip.CLIP):
        raise ValueError(f"{type(clip_model).__name__}: only open_clip's CLIP and CustomTextCLIP are handled")
    if tower.config.embed_dim != model_config["embed_dim"]:
        raise ValueError(
            f"the tower's projection_dim={tower.config.embed_dim} is not the CLIP's "
            f"embed_dim={model_config['embed_dim']}"
        )
    of_transformers = is_of_transformers(model_config)
    needs_tokenizer = of_transformers or bool(model_config["text_cfg"].get("hf_tokenizer_name"))
    if needs_tokenizer and tokenizer is None:
        name = model_config["text_cfg"].get("hf_tokenizer_name", "that of a text tower of transformers")
        raise ValueError(f"pass tokenizer: {name} is not part of open_clip")
    model_cfg: dict[str, Any] = {**deepcopy(dict(model_config)), "custom_text": custom_text}
    with whole_folder(Path(directory)) as temporary:
        tower.save_pretrained(temporary)
        image_processor.save_pretrained(temporary)
        if needs_tokenizer:
            tokenizer.save_pretrained(temporary)
        text = {name: weight.detach().cpu().clone().contiguous() for name, weight in text_weights(clip_model).items()}
        save_file(text, temporary / TEXT_FILE, metadata={"format": "pt"})
        take_along(model_cfg["text_cfg"], clip_model, temporary)
        config = {"model_cfg": model_cfg, "preprocess_cfg": image_processor.to_open_clip()}
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _check_same_text(clip_model, temporary, tokenizer if of_transformers else None)


def take_along(text_cfg: dict[str, Any], clip_model: Any, folder: Path) -> None:
    """Replaces what ``text_cfg`` names elsewhere, a path or a repository, by what is in the folder."""
    if text_cfg.get("hf_model_name"):
        fields = json.loads(clip_model.text.config.to_json_string(use_diff=False))
        fields = {name: value for name, value in fields.items() if name not in ("_name_or_path", "dtype")}
        (folder / TEXT_CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        text_cfg["hf_model_name"] = TEXT_CONFIG_FILE
    if os.path.isdir(text_cfg.get("hf_tokenizer_name") or ""):
        text_cfg["hf_tokenizer_name"] = "."
    text_cfg.get(TRANSFORMERS_TEXT, {}).pop("_name_or_path", None)


def save_tower(
    directory: str | os.PathLike[str], tower: SparseFormerVisionModel, image_processor: SparseFormerImageProcessor
) -> None:
    """Write a SparseFormer without a text side, as `load_tower` and transformers' auto classes read it.

    Every file is complete before it takes its place; files of the same names are replaced.
    """
    with whole_folder(Path(directory)) as temporary:
        tower.save_pretrained(temporary)
        image_processor.save_pretrained(temporary)


def load_clip(directory: str | os.PathLike[str]) -> tuple[Clip, SparseFormerImageProcessor, Any]:
    """Read what `save_clip` wrote.

    Returns:
        the open_clip model in evaluation mode, whose ``visual`` is a `SparseFormerTower`, in float32 as open_clip's own
        are; the image processor; the tokenizer, called as open_clip's are. ``encode_image``, ``encode_text`` and
        `open_clip.build_zero_shot_classifier` work as with any CLIP.

    Raises:
        WeightsError: a file is missing or damaged, or weights do not fit; all names at fault are listed.
    """
    import open_clip

    folder = Path(directory)
    model_cfg = _read_config(folder)["model_cfg"]
    if model_cfg["text_cfg"].get("hf_model_name") == TEXT_CONFIG_FILE:
        model_cfg["text_cfg"]["hf_model_name"] = str(folder / TEXT_CONFIG_FILE)
    with translated(f"{folder / CONFIG_FILE}: not the configuration of a CLIP", error=WeightsError):
        clip_model: Any = text_model(model_cfg)
    text = read_weights(folder / TEXT_FILE)
    check_weights(
        str(folder / TEXT_FILE), text, {name: tuple(weight.shape) for name, weight in text_weights(clip_model).items()}
    )
    image_processor = load_image_processor(folder, SparseFormerImageProcessor)
    clip_model.visual = SparseFormerTower(load_tower(folder).float(), image_processor)
    with torch.no_grad():
        for name, weight in text_weights(clip_model).items():
            weight.copy_(text[name])
    if is_of_transformers(model_cfg):
        from encoder.transformers_text import load_tokenizer

        return clip_model.eval(), image_processor, load_tokenizer(folder, clip_model.text)
    with translated(f"{folder}: no readable tokenizer there", error=WeightsError):
        return clip_model.eval(), image_processor, open_clip.get_tokenizer(f"local-dir:{folder}")


def load_tower(directory: str | os.PathLike[str]) -> SparseFormerVisionModel:
    """Read a saved SparseFormer strictly: transformers itself would fill what is missing with random values.

    Raises:
        WeightsError: a file is missing, or weights do not fit.
    """
    folder = Path(directory)
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; {folder} is not the directory of a saved SparseFormer")
    with translated(f"{path}: not the configuration of a model", error=WeightsError):
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    if model_type != SparseFormerConfig.model_type:
        raise WeightsError(f"{path}: model_type is {model_type!r}, not {SparseFormerConfig.model_type!r}")
    with translated(str(path), error=WeightsError):
        config = SparseFormerConfig.from_pretrained(folder, local_files_only=True)
    with translated(f"{folder}: the weights cannot be read", error=WeightsError):
        model: SparseFormerVisionModel
        model, report = cast(Any, SparseFormerVisionModel.from_pretrained)(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    check_report(str(folder), report)
    check_finite(str(folder), model.state_dict().items())
    model.eval()
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; {folder} is not the directory of a SparseFormer with a text tower")
    with translated(f"{path}: not open_clip's configuration of a CLIP", error=WeightsError):
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"embed_dim", "text_cfg"} <= set(config["model_cfg"]):
            raise KeyError("model_cfg")
    return config


def is_of_transformers(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration in open_clip's format has a text tower of transformers."""
    return TRANSFORMERS_TEXT in model_cfg["text_cfg"]


def text_model(model_cfg: Mapping[str, Any]) -> Clip:
    """An open_clip model of this configuration, with random weights and next to no image tower."""
    import open_clip

    cfg = deepcopy(dict(model_cfg))
    custom_text = cfg.pop("custom_text", False)
    cfg["vision_cfg"] = dict(_NO_VISION)
    if is_of_transformers(cfg):
        from encoder.transformers_text import TransformersText

        text = TransformersText(cfg["text_cfg"][TRANSFORMERS_TEXT])
        clip_model: Any = open_clip.CustomTextCLIP(**{**cfg, "text_cfg": dict(_NO_TEXT)})
        clip_model.text, clip_model.context_length, clip_model.vocab_size = text, text.context_length, text.vocab_size
        return clip_model
    if cfg["text_cfg"].get("hf_model_name"):
        cfg["text_cfg"]["hf_model_pretrained"] = False  # its weights are in our file
    return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**cfg)


def text_weights(clip_model: Clip) -> dict[str, Tensor]:
    """All weights of a CLIP that are not its image tower's; they share the model's memory."""
    return {name: weight for name, weight in clip_model.state_dict().items() if not name.startswith("visual.")}


def _check_same_text(clip_model: Clip, folder: Path, tokenizer: Any = None) -> None:
    """Raise ValueError unless the saved text tower computes what that of ``clip_model`` does.

    If ``tokenizer`` is given, the saved one must agree with it as well.

    A configuration can have all the right shapes and still be wrong: heads, pooling and QuickGELU leave no trace there.
    """
    saved, _, again = load_clip(folder)
    device = clip_model.logit_scale.device
    saved.to(device)
    was_training = clip_model.training
    texts = ["an image", "two small words more"]
    tokens = again(texts).to(device)
    if tokenizer is not None and not again(texts).equal(tokenizer(texts)):
        raise ValueError("the tokenizer does not read texts as before once it is saved and loaded")
    with torch.no_grad():
        expected = clip_model.eval().encode_text(tokens).double()
        difference = (saved.encode_text(tokens).double() - expected).norm() / expected.norm()
    clip_model.train(was_training)
    low_precision = {torch.float16, torch.bfloat16} & {weight.dtype for weight in text_weights(clip_model).values()}
    if not difference < (5e-2 if low_precision else 1e-4):
        raise ValueError(
            f"model_config does not describe this CLIP: its text embeddings differ by {difference:.1e}; "
            "compare quick_gelu, heads and pool_type with how the model was made"
        )
