"""Teachers of open_clip: by name, from a hub or a directory; its ViTs, its ResNets, and timm's towers inside it.

What open_clip's table says of a tag holds for a file as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from open_clip.transform import merge_preprocess_dict
from open_clip.transformer import (
    Attention,
    AttentionalPooler,
    CustomResidualAttentionBlock,
    LayerScale,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from data.errors import translated
from encoder.clip import TEXT_CONFIG_FILE, Clip, text_model, text_weights
from encoder.errors import TeacherError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers import from_timm
from encoder.teachers.blocks import (
    OPEN_CLIP_NAMES,
    Blocks,
    attention_pool,
    attention_weights,
    block_fields,
    check_eps,
    projection_fields,
    same_in_all,
)
from encoder.teachers.open_clip_weights import load_weights_file
from encoder.teachers.teacher import (
    LoadedTeacher,
    Teacher,
    TeacherRequest,
    TextSide,
    Trunk,
    make_teacher,
    register_teacher,
)
from encoder.weights import weights_file

logger = logging.getLogger(__name__)


@register_teacher("open_clip")
def load_open_clip(request: TeacherRequest) -> LoadedTeacher:
    """`load_teacher` for open_clip."""
    identifier, built_in = _identify(request)
    tag, file = _tag_and_file(identifier, request.pretrained or "") if built_in else (None, None)
    settings: dict[str, Any] = {"force_image_size": request.image_size}
    if built_in:
        settings |= published(identifier, tag, file)
    config = open_clip.get_model_config(identifier)
    if config["text_cfg"].get("hf_model_name") == TEXT_CONFIG_FILE:  # beside it; open_clip would look where we work
        config["text_cfg"]["hf_model_name"] = str(Path(request.name) / TEXT_CONFIG_FILE)
        settings["text_cfg"] = config["text_cfg"] | {"hf_model_pretrained": False}
    if request.random:
        settings |= {"load_weights": False, "pretrained_text": False}
        return LoadedTeacher(open_clip_teacher(open_clip.create_model(identifier, **settings).visual))
    tokenizer = _tokenizer(identifier, config, request.tokenizer) if request.text else None  # before much is read
    if file:
        clip, whole = _from_file(identifier, file, settings)
    else:
        clip, whole = open_clip.create_model(identifier, pretrained=tag, require_pretrained=True, **settings), True
    teacher = open_clip_teacher(clip.eval().visual)
    if not (whole and request.text):
        return LoadedTeacher(teacher)
    if settings.get("force_quick_gelu"):
        config["quick_gelu"] = True
    clip, config = _without_decoder(clip, config)
    return LoadedTeacher(teacher, TextSide(clip, tokenizer, config))


def _from_file(name: str, file: str, settings: dict[str, Any]) -> tuple[Any, bool]:
    """A model of open_clip's table with the weights in a file, and whether that has the text side, too."""
    weights_file(file)
    size = settings["force_image_size"]
    of_timm = size is not None and "timm_model_name" in open_clip.get_model_config(name)["vision_cfg"]
    if of_timm:  # timm resizes the tower itself, not its weights
        preprocessing = (settings["force_preprocess_cfg"] or {}) | {"size": size}
        settings = settings | {"force_image_size": None, "force_preprocess_cfg": preprocessing}
    with _quiet(logging.root):  # of weights that were not given
        clip: Any = open_clip.create_model(name, load_weights=False, pretrained_text=False, **settings)
    whole = load_weights_file(clip, file)
    if of_timm:
        clip.visual.set_input_size(size)
    return clip, whole


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Nothing that is logged directly there, which open_clip does on the root, is heard."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _tokenizer(identifier: str, config: dict[str, Any], directory: str | None) -> Any:
    """open_clip's tokenizer of the model: its own, or one of transformers in a directory, else from its hub.

    Raises:
        TeacherError: it cannot be had, or a directory is given for a model with open_clip's own.
    """
    text = config["text_cfg"]
    name = text.get("hf_tokenizer_name")
    if directory is None:
        with translated(
            f"its tokenizer{f', {name},' if name else ''} cannot be read",
            "give its directory as tokenizer",
            TeacherError,
        ):
            return open_clip.get_tokenizer(identifier)
    if not name:
        raise TeacherError(f"tokenizer={directory}: {identifier} has open_clip's own; leave it out")
    with translated(f"tokenizer={directory}", "give the directory of a tokenizer of transformers", TeacherError):
        if not Path(directory).is_dir():
            raise NotADirectoryError("is no directory")
        tokenizer = HFTokenizer(
            directory,
            context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            **text.get("tokenizer_kwargs", {}),
        )
        if (last := int(tokenizer(["an image"]).max())) >= text["vocab_size"]:
            raise ValueError(f"has the id {last}, the text tower {text['vocab_size']} embeddings")
    return tokenizer


def _identify(request: TeacherRequest) -> tuple[str, bool]:
    """The model as open_clip names it, and whether it is one of its own table, which needs to be told the weights."""
    if request.directory:
        return f"local-dir:{request.name}", False
    schema, _ = open_clip.factory.parse_model_name(request.name)
    if schema is not None:
        if request.pretrained is not None:
            raise TeacherError(f"{request.name} brings its own weights; leave pretrained out")
        return request.name, False
    name = request.name.replace("/", "-")  # OpenAI's own spelling, ViT-B/32
    if open_clip.get_model_config(name) is None:
        raise TeacherError(
            f"{request.name!r} is no directory and no model of open_clip's, which open_clip.list_models() names"
        )
    if request.pretrained is None:
        raise TeacherError("set pretrained as well, for a name of open_clip's; a directory would bring its weights")
    return name, True


def _tag_and_file(name: str, pretrained: str) -> tuple[str | None, str | None]:
    """TAG, FILE or TAG=FILE taken apart; TeacherError for a tag that the model does not have, and no file."""
    if open_clip.pretrained.is_pretrained_cfg(name, pretrained):
        return pretrained, None
    if Path(pretrained).exists():
        return None, pretrained
    tag, _, file = pretrained.partition("=")
    if not open_clip.pretrained.is_pretrained_cfg(name, tag):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise TeacherError(f"{tag!r} is no tag of {name}{'' if file else ' and no file'}; there are {tags}")
    return tag, file


def published(name: str, tag: str | None, file: str | None) -> dict[str, Any]:
    """What the weights ask of `open_clip.create_model`: their activation and how images are prepared.

    A file does not say it, and open_clip itself only warns of an activation that is not the tag's. Without a tag it is
    what all tags of the model have in common.

    Raises:
        TeacherError: without a tag, if some tags' weights need QuickGELU and others' GELU.
    """
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(name)
    entries = {each: open_clip.get_pretrained_cfg(name, each) for each in tags}
    usual = open_clip.get_model_config(name).get("quick_gelu", False)
    quick = {each: entry.get("quick_gelu", usual) for each, entry in entries.items()} or {name: usual}
    if len(set(quick.values())) > 1:
        one, other = (next(each for each in quick if quick[each] is value) for value in (True, False))
        raise TeacherError(
            f"{file}: some weights of {name} need QuickGELU and others GELU, which a file does not say; give TAG=FILE "
            f"with the tag that they are of, or were trained like, such as {one} (QuickGELU) or {other} (GELU)"
        )
    found = [merge_preprocess_dict({}, entry) for entry in entries.values()]
    if file and (not found or any(each != found[0] for each in found)):
        logger.warning(
            "%s: %s has no one published preprocessing; open_clip's default is taken, TAG=FILE chooses", file, name
        )
        found = []
    return {"force_quick_gelu": quick.popitem()[1], "force_preprocess_cfg": found[0] if found else None}


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


def open_clip_teacher(visual: nn.Module) -> Teacher:
    """Makes a teacher of an image tower of open_clip, ``clip_model.visual``. One of timm's inside is read as timm's.

    Args:
        visual: frozen here; its ``preprocess_cfg`` says how images are prepared.
    """
    processor = SparseFormerImageProcessor.from_open_clip(visual)
    trunk = Trunk(visual.trunk, visual.head) if isinstance(visual, TimmModel) else None
    return make_teacher(visual, _embed, processor, lambda: read_blocks(visual), trunk)


def _embed(visual: nn.Module, pixel_values: Tensor) -> Tensor:
    output: Tensor | tuple[Tensor, Tensor] = visual(pixel_values)
    return output[0] if isinstance(output, tuple) else output  # CoCa's towers also return tokens


def read_blocks(visual: nn.Module) -> Blocks:
    """Blocks and head of open_clip's own ViT, or of timm's in it; TeacherError says what cannot be inherited."""
    if isinstance(visual, TimmModel):
        return _read_timm_blocks(visual)
    if not isinstance(visual, VisionTransformer):
        raise TeacherError(f"{type(visual).__name__} is not open_clip's VisionTransformer")
    blocks = list(visual.transformer.resblocks)
    fields = same_in_all(blocks, _read_block) | {"class_token": True}
    head: dict[str, dict[str, Tensor]] = {}
    if visual.attn_pool is None:
        final: nn.Module = visual.ln_post
        fields["pooling"] = _pooling(visual)
    else:
        final = visual.attn_pool.ln_k
        fields["attention_pool"], head["attention_pool"] = _read_pool(visual)
    check_eps(fields, final, visual.ln_post)
    head["norm"] = final.state_dict()
    if visual.proj is not None:
        head["projection"] = {"weight": visual.proj.T}
        fields |= {"projection_dim": visual.proj.shape[1], "projection_bias": False}
    else:
        fields["projection_dim"] = None
    width, num_tokens = blocks[0].mlp.c_proj.out_features, visual.positional_embedding.shape[0]
    return Blocks(blocks, OPEN_CLIP_NAMES, width, num_tokens, 1, fields, head)


def _read_block(block: nn.Module) -> dict[str, Any]:
    if type(block) not in (ResidualAttentionBlock, CustomResidualAttentionBlock):
        raise TeacherError(f"a {type(block).__name__} is no residual attention block of open_clip")
    attention: Any = block.attn
    if type(attention) not in (nn.MultiheadAttention, Attention):
        raise TeacherError(f"its attention is a {type(attention).__name__}")
    qk_norm = isinstance(attention, Attention) and not isinstance(attention.ln_q, nn.Identity)
    norms = [block.ln_1, block.ln_2, *([attention.ln_q, attention.ln_k] if qk_norm else [])]
    layer_scale = isinstance(block.ls_1, LayerScale)
    mlp: Any = block.mlp
    return block_fields(mlp.c_fc, mlp.c_proj, mlp.gelu, attention.num_heads, norms, layer_scale, qk_norm)


def _pooling(visual: VisionTransformer) -> str:
    if visual.pool_type == "tok":
        return "token"
    if visual.pool_type == "avg":
        return "mean" if visual.final_ln_after_pool else "normed_mean"
    raise TeacherError(f"its pooling is {visual.pool_type!r}; 'tok', 'avg' and an attention pool are known")


def _read_pool(visual: VisionTransformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """CoCa's attention pool: the fields and the weights of an `AttentionPool`."""
    pool: Any = visual.attn_pool
    if type(pool) is not AttentionalPooler or visual.attn_pool_contrastive is not None or visual.pool_type != "tok":
        raise TeacherError("its attention pool is followed by another one, or by a mean, as only experiments have it")
    weights = attention_weights(pool.attn, pool.ln_q(pool.query[0]))  # the first query's output is what 'tok' takes
    weights |= {f"norm.{name}": value for name, value in visual.ln_post.state_dict().items()}
    return attention_pool(pool.attn.embed_dim, pool.attn.num_heads, norm=True), weights


def _read_timm_blocks(visual: TimmModel) -> Blocks:
    """Blocks and head of a tower of timm's, whose projection comes after timm's own head."""
    parts = dict(visual.head.named_children())
    if more := sorted(set(parts) - {"drop", "proj"}):
        raise TeacherError(f"its projection has {', '.join(more)}; only a single Linear can be inherited")
    blocks = from_timm.read_blocks(visual.trunk)
    if "proj" not in parts:
        return blocks
    if "projection" in blocks.head:
        raise TeacherError("it has two projections, timm's and open_clip's")
    head = blocks.head | {"projection": parts["proj"].state_dict()}
    return replace(blocks, head=head, fields=blocks.fields | projection_fields(parts["proj"]))
