"""An open_clip ViT as a directory of transformers: a dense tower for a model, in place of a student.

    python -m encoder.teachers.dense_tower TEACHER --out DIR

TEACHER is what `load_teacher` takes: a directory that open_clip wrote, or a name. DIR then is a `CLIPVisionModel` with
an image processor, as every other encoder is. It computes what the teacher does, which is tried before it is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from data.errors import InputError
from data.files import check_new_folder, whole_folder
from encoder.errors import TeacherError
from encoder.teachers.blocks import CLIP_NAMES, check_eps
from encoder.teachers.loading import load_teacher
from encoder.teachers.teacher import Teacher

_TOLERANCE = 1e-4  # relative, of rounding in float32


def to_transformers(teacher: Teacher) -> CLIPVisionModel:
    """The teacher's tower without its projection, in float32; its hidden states are those of the teacher's blocks.

    Raises:
        TeacherError: it is no ViT of open_clip's, or one that a `CLIPVisionModel` cannot express.
    """
    visual: Any = teacher.tower
    if not isinstance(visual, VisionTransformer):
        raise TeacherError(f"a {type(visual).__name__} is no ViT of open_clip's own; only those are converted")
    blocks = teacher.inheritable()
    fields = blocks.fields
    if fields["layer_scale"] or fields["qk_norm"] or fields.get("pooling") != "token":
        raise TeacherError("a CLIPVisionModel pools by its class token, and has neither layer scale nor norms of keys")
    if visual.patch_size[0] != visual.patch_size[1]:
        raise TeacherError(f"its patches of {visual.patch_size} pixels are not square")
    check_eps(fields, visual.ln_pre)
    config = CLIPVisionConfig(
        hidden_size=blocks.width,
        intermediate_size=round(fields["mlp_ratio"] * blocks.width),
        num_hidden_layers=len(blocks.modules),
        num_attention_heads=blocks.width // fields["attention_head_dim"],
        image_size=teacher.image_size,
        patch_size=visual.patch_size[0],
        hidden_act=fields["hidden_act"],
        layer_norm_eps=fields["layer_norm_eps"],
    )
    model = CLIPVisionModel(config)
    model.eval()
    with torch.no_grad():
        model.embeddings.class_embedding.copy_(visual.class_embedding)
        model.embeddings.patch_embedding.weight.copy_(visual.conv1.weight)
        model.embeddings.position_embedding.weight.copy_(visual.positional_embedding)
    model.pre_layrnorm.load_state_dict(visual.ln_pre.state_dict())
    model.post_layernorm.load_state_dict(visual.ln_post.state_dict())
    for index, layer in enumerate(model.encoder.layers):
        layer.load_state_dict(_layer_weights(blocks.weights(index)))
    _check_same(teacher, model)
    return model


def _layer_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain unit's weights under the names of a layer of CLIP's, which holds queries, keys and values apart."""
    names: dict[str, list[str]] = {}
    for theirs, ours in CLIP_NAMES.items():
        names.setdefault(ours, []).append(theirs)
    parts = ((each, weights[ours].chunk(len(each))) for ours, each in names.items())
    return {name: part for each, chunks in parts for name, part in zip(each, chunks, strict=True)}


@torch.no_grad()
def _check_same(teacher: Teacher, model: CLIPVisionModel) -> None:
    """Raise TeacherError unless the patches that leave the last block are the teacher's."""
    parameter = next(teacher.tower.parameters())
    side = teacher.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = teacher.with_patches(pixels.to(parameter))[1].flatten(2).mT.float().cpu()
    found = model(pixels).last_hidden_state[:, 1:]
    difference = float((found - expected).norm() / expected.norm())
    if not difference < _TOLERANCE:
        raise TeacherError(f"the converted tower's patches differ by {difference:.1e} from its own")


def save_dense_tower(source: str, out: Path, pretrained: str | None = None) -> CLIPVisionModel:
    """Load an open_clip tower and write it to ``out``, whole or not at all.

    Raises:
        TeacherError: it cannot be loaded or expressed.
        InputError: ``out`` is there already.
    """
    check_new_folder(f"--out {out}", out)
    teacher = load_teacher(source, pretrained, text=False).teacher
    model = to_transformers(teacher)
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        teacher.image_processor.save_pretrained(folder)
    return model


def main() -> int:
    """Writes the directory; says on stdout what it is."""
    parser = argparse.ArgumentParser(prog="python -m encoder.teachers.dense_tower", description=__doc__)
    parser.add_argument("teacher", metavar="TEACHER", help="a directory that open_clip wrote, or open_clip:NAME")
    parser.add_argument("--pretrained", metavar="TAG_OR_FILE", help="weights of a name")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="the directory to write")
    args = parser.parse_args()
    try:
        model = save_dense_tower(args.teacher, args.out, args.pretrained)
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    patches = model.embeddings.num_patches
    sys.stdout.write(f"{args.out}: {model.config.num_hidden_layers} blocks, {patches} patches and a class token\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
