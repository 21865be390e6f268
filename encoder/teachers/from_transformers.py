"""Teachers of transformers: CLIP with and without its projection, SigLIP, ViT, DINOv2 and DINOv3."""

from __future__ import annotations

import json
import logging
import math
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BaseImageProcessor,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ConvNextModel,
    DINOv3ViTModel,
    SiglipVisionModel,
    ViTForImageClassification,
    ViTModel,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer, Dinov2MLP
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersLayer,
    Dinov2WithRegistersMLP,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer
from transformers.models.vit.modeling_vit import ViTLayer

from encoder.clip import TRANSFORMERS_TEXT, text_model
from encoder.errors import TeacherError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers.blocks import (
    CLIP_NAMES,
    DINOV2_NAMES,
    ROTARY,
    SIGLIP_POOL_NAMES,
    VIT_NAMES,
    Blocks,
    attention_pool,
    attention_weights,
    block_fields,
    check_eps,
    projection_fields,
    rename,
    same_in_all,
)
from encoder.teachers.teacher import (
    Embed,
    LoadedTeacher,
    Teacher,
    TeacherRequest,
    TextSide,
    make_teacher,
    register_teacher,
)
from encoder.transformers_text import TransformersTokenizer, check_tokenizer
from encoder.weights import check_report

logger = logging.getLogger(__name__)

# The class that saved a model with a text tower.
WHOLE: dict[str, Any] = {"CLIPModel": transformers.CLIPModel, "SiglipModel": transformers.SiglipModel}


@register_teacher("transformers")
def load_transformers(request: TeacherRequest) -> LoadedTeacher:
    """Loads a teacher of transformers, from a directory or a hub."""
    name = request.name
    config: Any = transformers.AutoConfig.from_pretrained(name)
    saved_by = (config.architectures or ["no class"])[0]
    if saved_by not in _TOWERS:
        raise TeacherError(f"it was saved by {saved_by}, which is not known; there are {', '.join(_TOWERS)}")
    tower, others = _TOWERS[saved_by]
    options = {"add_pooling_layer": False} if saved_by == "ViTModel" else {}
    if saved_by == "CLIPModel":  # the width of its projections is the whole model's
        config.vision_config.projection_dim = config.text_config.projection_dim = config.projection_dim
    vision = getattr(config, "vision_config", config)
    processor = transformers.AutoImageProcessor.from_pretrained(name)
    if request.random:
        return LoadedTeacher(transformers_teacher(tower(vision, **options), processor, request.image_size))
    model = _read_strictly(tower, name, vision, others, **options)
    teacher = transformers_teacher(model, processor, request.image_size)
    return LoadedTeacher(teacher, _text_side(name, config, teacher) if saved_by in WHOLE and request.text else None)


def _text_side(name: str, config: Any, teacher: Teacher) -> TextSide | None:
    """The text side of a CLIP or SigLIP of transformers; None, and a line in the log, if a student could not keep it.

    Args:
        name: of the hub, or its directory.
        config: the whole model's, whose text_config also has the width of the projection.
        teacher: its image tower.

    Raises:
        TeacherError: weights, tokenizer and towers do not fit each other.
    """
    if not get_tokenizer_config(name):
        logger.warning("%s has no tokenizer_config.json, so its text tower is left out", name)
        return None
    try:
        teacher.image_processor.to_open_clip()  # as a directory with a text tower has it
    except ValueError as error:
        logger.warning("%s: %s, so its text tower is left out", name, error)
        return None
    whole = _read_strictly(WHOLE[config.architectures[0]], name, config)
    bias = getattr(whole, "logit_bias", None)
    model_config: dict[str, Any] = {
        "embed_dim": teacher.embed_dim,
        "text_cfg": {TRANSFORMERS_TEXT: json.loads(whole.text_model.config.to_json_string(use_diff=False))},
    }
    if bias is not None:
        model_config["init_logit_bias"] = 0.0  # its value comes with the weights
    clip: Any = text_model(model_config)
    clip.text.model.load_state_dict(whole.text_model.state_dict())
    if clip.text.projection is not None:
        clip.text.projection.load_state_dict(whole.text_projection.state_dict())
    with torch.no_grad():
        clip.logit_scale.copy_(whole.logit_scale.squeeze())
        if bias is not None:
            clip.logit_bias.copy_(bias.squeeze())
    clip.visual = teacher
    tokenizer = TransformersTokenizer(transformers.AutoTokenizer.from_pretrained(name), clip.text)
    check_tokenizer(tokenizer)
    ids = tokenizer(["an image"])
    if int(ids.max()) >= clip.vocab_size:
        raise TeacherError(f"its tokenizer has the id {int(ids.max())}, its text tower {clip.vocab_size} embeddings")
    clip.eval()
    with torch.no_grad():
        width = clip.encode_text(ids).shape[1]
    if width != teacher.embed_dim:
        raise TeacherError(f"its texts' embeddings are {width} wide, its images' {teacher.embed_dim}")
    return TextSide(clip, tokenizer, model_config)


def _read_strictly(kind: Any, name: str, config: Any, others: tuple[str, ...] = (), **options: Any) -> Any:
    """A model of transformers in float32, all of whose weights come from ``name``.

    Args:
        kind: its class.
        others: how the names of weights begin that are there for other parts.
        **options: of the class.

    Raises:
        WeightsError: weights are missing, or there are some that it has no place for.
    """
    model, report = kind.from_pretrained(name, config=config, output_loading_info=True, dtype=torch.float32, **options)
    check_report(name, report, [key for key in report["unexpected_keys"] if key.startswith(others)])
    return model


def transformers_teacher(
    model: nn.Module, image_processor: BaseImageProcessor, image_size: int | None = None
) -> Teacher:
    """Makes a teacher of one of `READERS`' models.

    It embeds by what is projected or classified, where there is a projection or a classifier; of a `ViTModel` by the
    class token behind the final norm, without its pooler; else by ``pooler_output``.

    Args:
        model: frozen here.
        image_processor: the model's own.
        image_size: side of its images, if not the processor's; position embeddings are interpolated.

    Raises:
        TeacherError: a model of another class, or without a pooled output.
    """
    if type(model) not in READERS:
        known = ", ".join(each.__name__ for each in READERS)
        raise TeacherError(f"{type(model).__name__} is not known; there are {known}")
    if isinstance(model, SiglipVisionModel) and not model.use_head:
        raise TeacherError("this SigLIP has no pooling head, so no embedding of an image")
    processor = SparseFormerImageProcessor.from_transformers(image_processor)
    options: dict[str, Any] = {}
    if image_size is not None:
        processor = processor.resized(image_size)
        if type(model) in _OF_FIXED_SIZE:  # the others interpolate in any case
            options["interpolate_pos_encoding"] = True
    side = processor.output_size[0]
    embed: Embed = partial(_embed, **options)
    whole = isinstance(model, (DINOv3ConvNextModel, ViTForImageClassification))  # which give no patches
    dense = None if whole else partial(_with_patches, **options)
    return make_teacher(model, embed, processor, lambda: READERS[type(model)](model, side), dense=dense)


def _embed(model: nn.Module, pixel_values: Tensor, **options: bool) -> Tensor:
    return _embedding(model, model(pixel_values=pixel_values, **options))


def _with_patches(model: nn.Module, pixel_values: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
    """Embeddings (B, E), and patches (B, D, h, w) that leave the last norm."""
    output = model(pixel_values=pixel_values, **options)
    count = _patches(model, pixel_values.shape[-1])
    patches = output.last_hidden_state[:, -count:].mT.unflatten(-1, (math.isqrt(count), math.isqrt(count)))
    return _embedding(model, output), patches


def _embedding(model: nn.Module, output: Any) -> Tensor:
    embeddings: Tensor
    if isinstance(model, CLIPVisionModelWithProjection):
        embeddings = output.image_embeds
    elif isinstance(model, ViTForImageClassification):
        embeddings = output.logits
    else:
        embeddings = output.last_hidden_state[:, 0] if isinstance(model, ViTModel) else output.pooler_output
    return embeddings


def read_clip(model: CLIPVisionModel | CLIPVisionModelWithProjection, side: int) -> Blocks:
    """Blocks and head of a CLIP; its final norm is applied to the class token alone, which is all that it pools."""
    vision = model.vision_model if isinstance(model, CLIPVisionModelWithProjection) else model
    blocks = list(vision.encoder.layers)
    fields = same_in_all(blocks, _read_clip_layer) | {"class_token": True, "pooling": "token", "projection_dim": None}
    check_eps(fields, vision.post_layernorm)
    head = {"norm": vision.post_layernorm.state_dict()}
    if isinstance(model, CLIPVisionModelWithProjection):
        fields |= projection_fields(model.visual_projection)
        head["projection"] = model.visual_projection.state_dict()
    return Blocks(blocks, CLIP_NAMES, vision.config.hidden_size, _patches(vision, side) + 1, 1, fields, head)


def read_siglip(model: SiglipVisionModel, side: int) -> Blocks:
    """Blocks of a SigLIP and its attention pool; it has neither class token nor projection."""
    blocks, pool, width = list(model.encoder.layers), model.head, model.config.hidden_size
    fields = same_in_all(blocks, _read_clip_layer) | {"class_token": False, "projection_dim": None}
    fields["attention_pool"] = attention_pool(width, pool.attention.num_heads, mlp=True)
    check_eps(fields, model.post_layernorm, pool.layernorm)
    others = {
        name: value
        for name, value in pool.state_dict().items()
        if name != "probe" and not name.startswith("attention.")
    }
    weights = attention_weights(pool.attention, pool.probe[0, 0]) | rename(
        others, SIGLIP_POOL_NAMES, "its pooling head"
    )
    head = {"norm": model.post_layernorm.state_dict(), "attention_pool": weights}
    return Blocks(blocks, CLIP_NAMES, width, _patches(model, side), 0, fields, head)


def read_dinov2(model: Dinov2Model | Dinov2WithRegistersModel, side: int) -> Blocks:
    """Blocks of a DINOv2, with layer scale; it has no projection."""
    blocks, prefix = list(model.encoder.layer), 1 + getattr(model.config, "num_register_tokens", 0)
    fields = same_in_all(blocks, _read_dinov2_layer) | {"class_token": True, "pooling": "token", "projection_dim": None}
    check_eps(fields, model.layernorm)
    head = {"norm": model.layernorm.state_dict()}
    tokens = _patches(model, side) + prefix
    return Blocks(blocks, DINOV2_NAMES, model.config.hidden_size, tokens, prefix, fields, head)


def read_vit(model: ViTModel | ViTForImageClassification, side: int) -> Blocks:
    """Blocks and head of a ViT; its classifier, if it has one, reads the class token."""
    vit = model.vit if isinstance(model, ViTForImageClassification) else model
    blocks = list(vit.layers)
    fields = same_in_all(blocks, _read_vit_layer) | {"class_token": True, "pooling": "token", "projection_dim": None}
    check_eps(fields, vit.layernorm)
    head = {"norm": vit.layernorm.state_dict()}
    if isinstance(model, ViTForImageClassification):
        fields |= projection_fields(model.classifier)
        head |= {"projection": model.classifier.state_dict()} if fields["projection_dim"] else {}
    return Blocks(blocks, VIT_NAMES, vit.config.hidden_size, _patches(vit, side) + 1, 1, fields, head)


def read_nothing(model: DINOv3ViTModel | DINOv3ConvNextModel, side: int) -> Blocks:
    """Raises TeacherError: its blocks are of no use without its positions, or there are none of a ViT's."""
    raise TeacherError(ROTARY if isinstance(model, DINOv3ViTModel) else f"{type(model).__name__} is no ViT")


READERS: dict[type[nn.Module], Any] = {
    CLIPVisionModel: read_clip,
    CLIPVisionModelWithProjection: read_clip,
    SiglipVisionModel: read_siglip,
    ViTModel: read_vit,
    ViTForImageClassification: read_vit,
    Dinov2Model: read_dinov2,
    Dinov2WithRegistersModel: read_dinov2,
    DINOv3ViTModel: read_nothing,
    DINOv3ConvNextModel: read_nothing,
}
# The class that saved a model -> the class of its image tower, and the weights that are not the tower's.
_TOWERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    **{tower.__name__: (tower, ()) for tower in READERS},
    "CLIPModel": (CLIPVisionModelWithProjection, ("text_model.", "text_projection.", "logit_scale")),
    "SiglipModel": (SiglipVisionModel, ("text_model.", "logit_scale", "logit_bias")),
    "ViTModel": (ViTModel, ("pooler.",)),  # behind the class token, which some have and some have not: it is left out
}
# Those that interpolate their positions only if they are told to.
_OF_FIXED_SIZE = (
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipVisionModel,
    ViTModel,
    ViTForImageClassification,
)


def _read_clip_layer(layer: nn.Module) -> dict[str, Any]:
    if type(layer) not in (CLIPEncoderLayer, SiglipEncoderLayer):
        raise TeacherError(f"a {type(layer).__name__} is no layer of CLIP or SigLIP")
    mlp: Any = layer.mlp
    norms = [layer.layer_norm1, layer.layer_norm2]
    return block_fields(mlp.fc1, mlp.fc2, mlp.activation_fn, layer.self_attn.num_heads, norms, False)  # type: ignore


def _read_dinov2_layer(layer: nn.Module) -> dict[str, Any]:
    if type(layer) not in (Dinov2Layer, Dinov2WithRegistersLayer):
        raise TeacherError(f"a {type(layer).__name__} is no layer of DINOv2")
    attention: Any = layer.attention
    mlp: Any = layer.mlp
    if type(mlp) not in (Dinov2MLP, Dinov2WithRegistersMLP):
        raise TeacherError(f"its MLP is gated ({type(mlp).__name__}); a SparseFormer's is not")
    norms = [layer.norm1, layer.norm2]
    return block_fields(mlp.fc1, mlp.fc2, mlp.activation_fn, attention.num_attention_heads, norms, layer_scale=True)  # type: ignore


def _read_vit_layer(layer: nn.Module) -> dict[str, Any]:
    if type(layer) is not ViTLayer:
        raise TeacherError(f"a {type(layer).__name__} is no layer of ViT")
    mlp, norms = layer.mlp, [layer.layernorm_before, layer.layernorm_after]
    heads = layer.attention.num_attention_heads
    return block_fields(mlp.fc1, mlp.fc2, mlp.activation_fn, heads, norms, layer_scale=False)


def _patches(model: Any, side: int) -> int:
    return (side // int(model.config.patch_size)) ** 2
