"""Vision models of transformers: CLIP with and without its projection, SigLIP, ViT, DINOv2 and DINOv3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

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
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer, Dinov2MLP
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersLayer,
    Dinov2WithRegistersMLP,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer
from transformers.models.vit.modeling_vit import ViTLayer

from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers.base import (
    ROTARY,
    Blocks,
    Teacher,
    TeacherError,
    attention_pool,
    attention_weights,
    block_fields,
    check_eps,
    projection_fields,
    rename,
    same_in_all,
)

MLP_NAMES = {
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
# CLIP's and SigLIP's layers have the same names.
CLIP_NAMES = MLP_NAMES | {
    "layer_norm1.weight": "attn.norm.weight",
    "layer_norm1.bias": "attn.norm.bias",
    "self_attn.q_proj.weight": "attn.qkv.weight",
    "self_attn.k_proj.weight": "attn.qkv.weight",
    "self_attn.v_proj.weight": "attn.qkv.weight",
    "self_attn.q_proj.bias": "attn.qkv.bias",
    "self_attn.k_proj.bias": "attn.qkv.bias",
    "self_attn.v_proj.bias": "attn.qkv.bias",
    "self_attn.out_proj.weight": "attn.proj.weight",
    "self_attn.out_proj.bias": "attn.proj.bias",
    "layer_norm2.weight": "mlp.norm.weight",
    "layer_norm2.bias": "mlp.norm.bias",
}
ATTENTION_NAMES = {
    "attention.q_proj.weight": "attn.qkv.weight",
    "attention.k_proj.weight": "attn.qkv.weight",
    "attention.v_proj.weight": "attn.qkv.weight",
    "attention.q_proj.bias": "attn.qkv.bias",
    "attention.k_proj.bias": "attn.qkv.bias",
    "attention.v_proj.bias": "attn.qkv.bias",
    "attention.o_proj.weight": "attn.proj.weight",
    "attention.o_proj.bias": "attn.proj.bias",
}
DINOV2_NAMES = (
    MLP_NAMES
    | ATTENTION_NAMES
    | {
        "norm1.weight": "attn.norm.weight",
        "norm1.bias": "attn.norm.bias",
        "layer_scale1.lambda1": "attn.scale",
        "norm2.weight": "mlp.norm.weight",
        "norm2.bias": "mlp.norm.bias",
        "layer_scale2.lambda1": "mlp.scale",
    }
)
VIT_NAMES = (
    MLP_NAMES
    | ATTENTION_NAMES
    | {
        "layernorm_before.weight": "attn.norm.weight",
        "layernorm_before.bias": "attn.norm.bias",
        "layernorm_after.weight": "mlp.norm.weight",
        "layernorm_after.bias": "mlp.norm.bias",
    }
)
# Of SigLIP's pooling head, beside its attention.
POOL_NAMES = MLP_NAMES | {"layernorm.weight": "mlp.norm.weight", "layernorm.bias": "mlp.norm.bias"}


class TransformersTeacher(Teacher):
    """One of `READERS`' models.

    Its final representation is what is projected or classified, where there is a projection or a classifier; of a
    `ViTModel` the class token behind the final norm, without its pooler; else ``pooler_output``.

    Args:
        model: frozen here.
        image_processor: the model's own.
        image_size: side of its images, if not the processor's; position embeddings are interpolated.

    Raises:
        TeacherError: a model of another class, or without a pooled output.
    """

    look: Callable[..., Any]

    def __init__(self, model: nn.Module, image_processor: BaseImageProcessor, image_size: int | None = None):
        if type(model) not in READERS:
            known = ", ".join(each.__name__ for each in READERS)
            raise TeacherError(f"{type(model).__name__} is not known; there are {known}")
        if isinstance(model, SiglipVisionModel) and not model.use_head:
            raise TeacherError("this SigLIP has no pooling head, so no final representation of an image")
        processor = SparseFormerImageProcessor.from_transformers(image_processor)
        look: Callable[..., Any] = model
        if image_size is not None:
            processor = processor.resized(image_size)
            if type(model) in _OF_FIXED_SIZE:  # the others interpolate in any case
                look = partial(model, interpolate_pos_encoding=True)
        side = processor.output_size[0]
        object.__setattr__(self, "look", look)  # before the Module is made, which looks at one image
        super().__init__(model, processor, lambda: READERS[type(model)](model, side))

    def represent(self, pixel_values: Tensor) -> Tensor:
        output = self.look(pixel_values=pixel_values)
        if isinstance(self.tower, CLIPVisionModelWithProjection):
            return output.image_embeds
        if isinstance(self.tower, ViTForImageClassification):
            return output.logits
        return output.last_hidden_state[:, 0] if isinstance(self.tower, ViTModel) else output.pooler_output

    def block(self, index: int) -> Callable[[Tensor], Tensor]:
        return partial(self.inheritable().modules[index], attention_mask=None)


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
    weights = attention_weights(pool.attention, pool.probe[0, 0]) | rename(others, POOL_NAMES, "its pooling head")
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


def read_dinov3(model: DINOv3ViTModel, side: int) -> Blocks:
    """Refuses: its blocks are of no use without its positions."""
    raise TeacherError(ROTARY)


def read_convnext(model: DINOv3ConvNextModel, side: int) -> Blocks:
    """Refuses: there are no blocks of a ViT's."""
    raise TeacherError(f"{type(model).__name__} is no ViT")


READERS: dict[type[nn.Module], Any] = {
    CLIPVisionModel: read_clip,
    CLIPVisionModelWithProjection: read_clip,
    SiglipVisionModel: read_siglip,
    ViTModel: read_vit,
    ViTForImageClassification: read_vit,
    Dinov2Model: read_dinov2,
    Dinov2WithRegistersModel: read_dinov2,
    DINOv3ViTModel: read_dinov3,
    DINOv3ConvNextModel: read_convnext,
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
    return (side // model.config.patch_size) ** 2
