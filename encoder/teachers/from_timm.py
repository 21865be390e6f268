"""Teachers of timm: by name, from a hub, a file or a directory; ViTs of any pooling, and any other tower."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from timm.layers import Attention, AttentionPoolLatent, GluMlp, LayerScale, SwiGLU
from timm.layers import Mlp as TimmMlp
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from encoder.errors import TeacherError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers.blocks import (
    ROTARY,
    TIMM_NAMES,
    TIMM_POOL_NAMES,
    Blocks,
    activation_name,
    attention_pool,
    block_fields,
    check_eps,
    projection_fields,
    rename,
    same_in_all,
)
from encoder.teachers.teacher import LoadedTeacher, Teacher, TeacherRequest, Trunk, make_teacher, register_teacher
from encoder.weights import check_weights, read_weights, weights_file

logger = logging.getLogger(__name__)

# The weights of an attention pool's query, which is folded.
QUERY_NAMES = ("latent", "q.weight", "q.bias")


@register_teacher("timm")
def load_timm(request: TeacherRequest) -> LoadedTeacher:
    """`load_teacher` for timm."""
    name, pretrained = request.name, request.pretrained
    settings: dict[str, Any] = {"pretrained": not request.random}
    if request.directory:
        name = f"local-dir:{name}"
    elif pretrained and request.random:  # a tag says how images are prepared, a file is not looked for
        name = f"{name}.{pretrained}" if timm.is_model_pretrained(f"{name}.{pretrained}") else name
    elif pretrained and Path(pretrained).exists():
        settings |= _from_file(name, weights_file(pretrained))
    elif pretrained:
        name = f"{name}.{pretrained}"
    model: Any
    try:
        model = timm.create_model(name, **settings)
    except RuntimeError:
        if state := settings.get("pretrained_cfg_overlay", {}).get("state_dict"):  # torch would name every weight
            empty = timm.create_model(name, num_classes=settings["num_classes"])
            check_weights(str(pretrained), state, {key: tuple(each.shape) for key, each in empty.state_dict().items()})
        raise
    published = model.pretrained_cfg.get("num_classes", model.num_classes)
    if request.directory and published != model.num_classes:  # else it stays random
        raise TeacherError(f"config.json: num_classes is {published}, in model_args {model.num_classes}; make it one")
    model.pretrained_cfg.pop("state_dict", None)  # which are the model's by now
    return LoadedTeacher(timm_teacher(model, request.image_size))


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


def timm_teacher(model: Any, image_size: int | None = None) -> Teacher:
    """Makes a teacher of a model of timm's. It embeds by its output: logits of a classifier, else pooled features.

    Args:
        model: frozen here; its ``pretrained_cfg`` says how images are prepared.
        image_size: side of its images, if not the published one; position embeddings are resized.
    """
    config = resolve_model_data_config(model)
    if image_size is not None:
        config["input_size"] = (3, image_size, image_size)
        if hasattr(model, "set_input_size"):  # which a CNN does without
            model.set_input_size((image_size, image_size))
    elif isinstance(model, (VisionTransformer, Eva)):  # built for another size than it was published for
        config["input_size"] = (3, *model.patch_embed.img_size)
    processor = SparseFormerImageProcessor.from_timm(config)
    trunk = Trunk(model, lambda output: output)
    return make_teacher(model, lambda tower, pixels: tower(pixels), processor, lambda: read_blocks(model), trunk)


def read_blocks(model: nn.Module) -> Blocks:
    """Blocks and head of timm's `VisionTransformer`; TeacherError says what cannot be inherited."""
    if isinstance(model, Eva) and model.rope is not None:
        raise TeacherError(ROTARY)
    if type(model) is not VisionTransformer:
        raise TeacherError(f"{type(model).__name__} is not timm's VisionTransformer")
    blocks = list(model.blocks)
    fields = same_in_all(blocks, _read_block) | {"class_token": model.has_class_token}
    norms = [norm for norm in (model.norm, model.fc_norm) if not isinstance(norm, nn.Identity)]
    if len(norms) != 1:
        raise TeacherError(f"it has {len(norms)} final norms, not one")
    check_eps(fields, *norms)
    head: dict[str, dict[str, Tensor]] = {"norm": norms[0].state_dict()}
    if model.attn_pool is not None:
        fields["attention_pool"], head["attention_pool"] = _read_pool(model, fields)
    else:
        fields["pooling"] = _pooling(model)
    fields |= projection_fields(model.head)
    if isinstance(model.head, nn.Linear):
        head["projection"] = model.head.state_dict()
    num_tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    return Blocks(blocks, TIMM_NAMES, model.embed_dim, num_tokens, model.num_prefix_tokens, fields, head)


def _read_block(block: nn.Module) -> dict[str, Any]:
    if isinstance(block, ResPostBlock):
        raise TeacherError("it is a post-norm block; a SparseFormer's are pre-norm")
    if type(block) is not Block:
        raise TeacherError(f"a {type(block).__name__} is no plain pre-norm block")
    attention, mlp = block.attn, block.mlp
    if type(attention) is not Attention:
        raise TeacherError(f"its attention is a {type(attention).__name__}")
    if isinstance(mlp, (GluMlp, SwiGLU)):
        raise TeacherError(f"its MLP is gated ({type(mlp).__name__}); a SparseFormer's is not")
    if type(mlp) is not TimmMlp:
        raise TeacherError(f"its MLP is a {type(mlp).__name__}")
    qk_norm = not isinstance(attention.q_norm, nn.Identity)
    norms = [block.norm1, block.norm2, *([attention.q_norm, attention.k_norm] if qk_norm else [])]
    layer_scale = isinstance(block.ls1, LayerScale)
    return block_fields(mlp.fc1, mlp.fc2, mlp.act, attention.num_heads, norms, layer_scale, qk_norm)


def _pooling(model: VisionTransformer) -> str:
    if model.global_pool == "token":
        return "token"
    if model.global_pool == "avg" and not model.pool_include_prefix:
        return "normed_mean" if isinstance(model.fc_norm, nn.Identity) else "mean"
    raise TeacherError(f"its pooling is {model.global_pool!r}; 'token', 'avg' of the patches, and 'map' are known")


def _read_pool(model: VisionTransformer, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """SigLIP's attention pool: the fields and the weights of an `AttentionPool`."""
    pool: Any = model.attn_pool
    if type(pool) is not AttentionPoolLatent or pool.mlp is None or pool.latent_len != 1 or pool.pool != "token":
        raise TeacherError(f"its {type(pool).__name__} pools otherwise than SigLIP's attention pool")
    if model.has_class_token or not isinstance(model.fc_norm, nn.Identity):
        raise TeacherError("its attention pool leaves out the class token or is followed by a norm")
    check_eps(fields, pool.norm)
    if activation_name(pool.mlp.act) != fields["hidden_act"]:
        raise TeacherError("its attention pool has another activation than its blocks")
    weights = pool.state_dict()
    query = pool.q(pool.latent)[0, 0]
    others = {name: value for name, value in weights.items() if name not in QUERY_NAMES}
    described = attention_pool(query.shape[0], pool.num_heads, mlp=True)
    return described, {"query": query, **rename(others, TIMM_POOL_NAMES, "its attention pool")}
