"""The CLIP that trains: built by open_clip, its towers started from weights, written as a directory of open_clip."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import resize_pos_embed, set_model_preprocess_cfg
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, BertModel, Dinov2Model

from data.errors import InputError, translated
from data.materials import model_path
from encoder.clip import CONFIG_FILE, Clip, is_of_transformers, take_along, text_weights
from encoder.contrastive.recipe import TrainClipRecipe
from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers import LoadedTeacher, Teacher, TeacherError, load_teacher
from encoder.teachers.blocks import OPEN_CLIP_NAMES
from encoder.weights import check_report, check_weights

WEIGHTS = "open_clip_model.safetensors"
CONTEXT_LENGTH = 32  # tokens of a text, if text_cfg does not say: captions are short


@dataclass
class BuiltClip:
    """A CLIP, and what is written beside its weights.

    Attributes:
        model_cfg: its configuration in open_clip's format.
        teacher: whose embeddings it learns, if it does.
    """

    clip: Any
    model_cfg: dict[str, Any]
    tokenizer: Any
    teacher: Teacher | None = None

    @property
    def image_processor(self) -> SparseFormerImageProcessor:
        return SparseFormerImageProcessor.from_open_clip(self.clip)


def build(recipe: TrainClipRecipe, nonscalar_logit_scale: bool = False) -> BuiltClip:
    """The CLIP as it starts.

    Args:
        nonscalar_logit_scale: its logit scale has the shape (1,) instead of ().

    Raises:
        InputError: open_clip cannot build it from these fields; weights cannot be had, or do not fit.
    """
    model, tokenizer, image, loaded = recipe.model.model_cfg(), None, None, None
    if recipe.image_weights is not None:
        image = _loaded("image_weights", recipe.image_weights, text=False).teacher
        model["vision_cfg"] = vision_fields(image) | model["vision_cfg"]
    if recipe.text_weights is not None:
        bert = str(model_path(recipe.text_weights))
        fields, width = text_fields(bert)
        if model.get("embed_dim", width) != width:
            raise InputError(f"model.embed_dim: {recipe.text_weights} embeds texts in {width} numbers; leave it out")
        model |= {"embed_dim": width, "text_cfg": fields | model["text_cfg"]}
        with translated("text_weights", "give the directory of a BERT and its tokenizer"):
            tokenizer = HFTokenizer(bert, context_length=model["text_cfg"]["context_length"])
    if recipe.teacher is not None:
        loaded = _loaded("teacher", recipe.teacher)
        if loaded.text is None or is_of_transformers(loaded.text.model_config):
            raise InputError(f"teacher: {recipe.teacher}: give a CLIP of open_clip's, whose text tower is kept")
        model |= {name: value for name, value in loaded.text.model_config.items() if name != "vision_cfg"}
        tokenizer = loaded.text.tokenizer
    if model.get("quick_gelu") and image is not None and isinstance(image.tower, Dinov2Model):
        raise InputError("image_weights: a DINOv2 has GELU, the CLIP QuickGELU; take another teacher, or timm's tower")
    clip = build_clip(model, nonscalar_logit_scale)
    if image is not None:
        start_image_tower(clip.visual, image, str(recipe.image_weights))
    if recipe.text_weights is not None:
        start_text_tower(clip.text, bert)
    if loaded is not None and loaded.text is not None:
        theirs = text_weights(loaded.text.clip)
        with torch.no_grad():
            for name, weight in text_weights(clip).items():
                weight.copy_(theirs[name].reshape(weight.shape))
    if recipe.init_from is not None:
        start_from(clip, recipe.init_from)
    shown = PreprocessCfg(clip.visual.image_size)
    if image is not None:
        shown.mean, shown.std = tuple(image.image_processor.image_mean), tuple(image.image_processor.image_std)
    shown.mean, shown.std = tuple(recipe.mean or shown.mean), tuple(recipe.std or shown.std)
    set_model_preprocess_cfg(clip, asdict(shown))
    tokenizer = tokenizer or SimpleTokenizer(context_length=clip.context_length)
    return BuiltClip(clip, model, tokenizer, None if loaded is None else loaded.teacher)


def build_clip(model_cfg: Mapping[str, Any], nonscalar_logit_scale: bool = False) -> Clip:
    """An untrained CLIP; raises InputError if open_clip cannot build it from these fields."""
    config = copy.deepcopy(dict(model_cfg))
    custom = config.pop("custom_text", False) or config["text_cfg"].get("hf_model_name")
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with translated("model: open_clip cannot build it"):
        return kind(**config, nonscalar_logit_scale=nonscalar_logit_scale)


def vision_fields(teacher: Teacher) -> dict[str, Any]:
    """The fields of open_clip's ``vision_cfg`` with which it builds a tower like this one.

    Raises:
        InputError: it has none for it.
    """
    tower: Any = teacher.tower
    if isinstance(tower, Dinov2Model):
        config = tower.config
        if config.hidden_act != "gelu" or config.use_swiglu_ffn:
            raise InputError(f"image_weights: a DINOv2 with {config.hidden_act} and a gated MLP is not handled")
        return {
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "head_width": config.hidden_size // config.num_attention_heads,
            "mlp_ratio": config.mlp_ratio,
            "patch_size": config.patch_size,
            "image_size": teacher.image_size,
            "ls_init_value": config.layerscale_value,
            "no_ln_pre": True,
            "norm_kwargs": {"eps": config.layer_norm_eps},
        }
    if hasattr(tower, "pretrained_cfg"):
        return {"timm_model_name": tower.pretrained_cfg["architecture"], "image_size": teacher.image_size}
    raise InputError(f"image_weights: a {type(tower).__name__} is neither timm's nor transformers' Dinov2Model")


def start_image_tower(visual: nn.Module, teacher: Teacher, source: str) -> None:
    """Loads a tower's weights, but for its classifier, strictly into open_clip's; what projects stays random.

    Raises:
        WeightsError: they do not fit.
    """
    tower: Any = teacher.tower
    if isinstance(visual, TimmModel):
        trunk: Any = visual.trunk
        classifier = tower.pretrained_cfg["classifier"]
        weights = {name: weight for name, weight in tower.state_dict().items() if not name.startswith(f"{classifier}.")}
        check_weights(source, weights, _shapes(trunk))
        trunk.load_state_dict(weights)
    elif isinstance(visual, VisionTransformer) and isinstance(tower, Dinov2Model):
        weights = dinov2_weights(teacher, visual)
        check_weights(source, {**weights, "proj": visual.proj}, _shapes(visual))
        visual.load_state_dict(weights, strict=False)
    else:
        raise InputError(f"image_weights: {source} is no {type(visual).__name__}; leave model.vision_cfg out")


@torch.no_grad()
def dinov2_weights(teacher: Teacher, visual: VisionTransformer) -> dict[str, Tensor]:
    """The weights of a DINOv2 under the names of open_clip's ViT, for its size of images.

    Its patches have a bias, open_clip's have none: it is added to their positions, with the same result.
    """
    tower: Any = teacher.tower
    embeddings, blocks = tower.embeddings, teacher.inheritable()
    patch, grid = embeddings.patch_embeddings.projection, visual.grid_size
    tokens = torch.empty(1, 1 + grid[0] * grid[1], blocks.width)
    sides = [rows * size for rows, size in zip(grid, visual.patch_size, strict=True)]
    positions = embeddings.interpolate_pos_encoding(tokens, *sides)[0].clone()
    positions[1:] += patch.bias
    weights = {
        "conv1.weight": patch.weight,
        "class_embedding": embeddings.cls_token[0, 0],
        "positional_embedding": positions,
        **{f"ln_post.{name}": weight for name, weight in blocks.head["norm"].items()},
    }
    theirs = {ours: name for name, ours in OPEN_CLIP_NAMES.items()}
    for index in range(len(blocks.modules)):
        units = blocks.weights(index)
        weights |= {f"transformer.resblocks.{index}.{theirs[name]}": weight for name, weight in units.items()}
    return weights


def start_text_tower(text: Any, directory: str) -> None:
    """Loads a BERT of transformers strictly, without the pooler that its mean state does not need."""
    bert: Any = BertModel
    model, report = bert.from_pretrained(directory, local_files_only=True, output_loading_info=True)
    check_report(directory, report)
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("pooler.")}
    check_weights(directory, weights, _shapes(text.transformer))
    text.transformer.load_state_dict(weights)


def start_from(clip: Any, folder: str) -> None:
    """Loads the weights that `save_open_clip` wrote; position embeddings are resized, those that do not train stay.

    Raises:
        InputError: there are none, or of another model.
    """
    with translated(f"init_from: {folder}", "name what mllm train-clip made of the same model"):
        weights = load_file(Path(folder) / WEIGHTS)
        weights["logit_scale"] = weights["logit_scale"].reshape(clip.logit_scale.shape)
        positions = getattr(clip.visual, "positional_embedding", None)
        if positions is not None and not positions.requires_grad:  # whose grid may be another
            weights["visual.positional_embedding"] = positions
        resize_pos_embed(weights, clip)
        clip.load_state_dict(weights)


def save_open_clip(folder: Path, built: BuiltClip) -> None:
    """Writes an open_clip directory, in which the logit scale is a scalar.

    The configuration of a text tower of transformers lies in it as `TEXT_CONFIG_FILE`. open_clip itself looks for that
    in the working directory; `encoder.teachers` says where it is.
    """
    clip = built.clip
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    if isinstance(built.tokenizer, HFTokenizer):
        built.tokenizer.save_pretrained(folder)
    model_cfg = copy.deepcopy(built.model_cfg)
    take_along(model_cfg["text_cfg"], clip, folder)
    config = {"model_cfg": model_cfg, "preprocess_cfg": clip.visual.preprocess_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _loaded(field: str, source: str, text: bool = True) -> LoadedTeacher:
    try:
        return load_teacher(source, text=text)
    except TeacherError as error:
        raise InputError(f"{field}: {error}") from error


def text_fields(directory: str) -> tuple[dict[str, Any], int]:
    """The fields of ``text_cfg`` of a BERT whose mean state is the embedding, and its width."""
    with translated("text_weights", "give the directory of a BERT of transformers"):
        if not Path(directory).is_dir():
            raise NotADirectoryError(f"{directory} is no directory")
        config: Any = AutoConfig.from_pretrained(directory, local_files_only=True)
        if config.model_type != "bert":
            raise ValueError(f"{directory} holds a {config.model_type}")
    fields: dict[str, Any] = {"hf_model_name": directory, "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler"}
    fields |= {"hf_tokenizer_name": ".", "hf_proj_type": None, "context_length": CONTEXT_LENGTH}
    return fields, config.hidden_size


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
