"""SparseFormers as teachers of smaller ones: of fewer tokens, blocks or channels."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from encoder.clip import CONFIG_FILE, load_clip, load_tower
from encoder.configuration import SparseFormerConfig
from encoder.errors import TeacherError
from encoder.heads.grid import splat
from encoder.image_processing import SparseFormerImageProcessor, load_image_processor
from encoder.modeling import SparseFormerVisionModel
from encoder.teachers.blocks import Blocks
from encoder.teachers.teacher import LoadedTeacher, Teacher, TeacherRequest, TextSide, make_teacher, register_teacher

_FIELDS = (
    "attention_head_dim",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "layer_scale",
    "qk_norm",
    "class_token",
    "pooling",
    "attention_pool",
    "projection_dim",
    "projection_bias",
)


@register_teacher("sparseformer")
def load_sparseformer(request: TeacherRequest) -> LoadedTeacher:
    """Loads the directory of a SparseFormer, with the text tower that it has from its own teacher."""
    folder = Path(request.name)
    if not request.directory:
        raise TeacherError(f"{request.name} is no directory; a SparseFormer is taken from one")
    processor = load_image_processor(folder, SparseFormerImageProcessor)
    if request.image_size is not None:
        processor = processor.resized(request.image_size)
    if request.random:
        config = SparseFormerConfig.from_pretrained(folder, local_files_only=True)
        return LoadedTeacher(sparseformer_teacher(SparseFormerVisionModel(config), processor))
    if not request.text or not (folder / CONFIG_FILE).is_file():
        return LoadedTeacher(sparseformer_teacher(load_tower(folder).float(), processor))
    clip, _, tokenizer = load_clip(folder)
    teacher = sparseformer_teacher(clip.visual.model, processor)
    model_config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    return LoadedTeacher(teacher, TextSide(clip, tokenizer, model_config))


def sparseformer_teacher(model: SparseFormerVisionModel, image_processor: SparseFormerImageProcessor) -> Teacher:
    """Makes a teacher of a SparseFormer. It embeds by what is projected, or else pooled.

    Args:
        model: frozen here.
    """
    return make_teacher(model, _embed, image_processor, lambda: read_blocks(model), dense=_with_patches)


def _embed(model: nn.Module, pixel_values: Tensor) -> Tensor:
    embedding: Tensor = model(pixel_values).embedding
    return embedding


def _with_patches(model: nn.Module, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (B, E), and tokens that leave the cortex, put on a grid of about as many patches, (B, D, h, h)."""
    outputs = model(pixel_values, output_hidden_states=True)
    latent = outputs.hidden_states[-1][:, -outputs.rois.shape[1] :]
    side = max(2, round(latent.shape[1] ** 0.5))
    return outputs.embedding, splat(latent, outputs.rois, side, side)


def read_blocks(model: SparseFormerVisionModel) -> Blocks:
    """Its cortex and head; TeacherError if the blocks of its cortex are no plain ones, or run more than once."""
    config, blocks = model.config, model.cortex
    if any(block.ops != ("attn", "mlp") or block.repeats != 1 for block in blocks) or not blocks:
        raise TeacherError("its cortex has other blocks than plain ones")
    names = {name: name for name in blocks[0].state_dict()}
    head = {name: module.state_dict() for name, module in model.head.items()}
    fields = {name: getattr(config, name) for name in _FIELDS}
    return Blocks(blocks, names, config.hidden_size, config.num_tokens, None, fields, head)
