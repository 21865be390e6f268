"""An open_clip tower as a directory of transformers: the same hidden states, and a part of a whole model."""

from __future__ import annotations

import sys

import pytest
import torch
from open_clip.transformer import QuickGELU
from transformers import AutoImageProcessor, AutoModel

from encoder.teachers import Teacher, TeacherError, load_teacher
from encoder.teachers.dense_tower import main, to_transformers
from mllm.loading import load_model
from tests import tiny
from tests.test_teachers import open_clip_vit


def check_agreement(teacher: Teacher, model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """What enters the first block, what leaves each, and the embedding."""
    visual, states = teacher.tower, []
    for module in (visual.ln_pre, *visual.transformer.resblocks):
        module.register_forward_hook(lambda module, args, output: states.append(output))
    expected = teacher(pixels)
    with torch.no_grad():
        found = model(pixel_values=pixels, output_hidden_states=True)
    assert len(found.hidden_states) == len(states)
    for ours, theirs in zip(found.hidden_states, states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.pooler_output @ visual.proj, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("act", "changes"),
    [(torch.nn.GELU, {"pos_embed_type": "sin_cos_2d"}), (QuickGELU, {"mlp_ratio": 3.0})],
    ids=["gelu, fixed positions", "quick gelu"],
)
def test_hidden_states_are_the_teachers(act, changes):
    teacher = open_clip_vit(act, **changes)
    model = to_transformers(teacher)
    check_agreement(teacher, model, torch.randn(2, 3, 32, 32))
    assert model.config.hidden_act == {torch.nn.GELU: "gelu", QuickGELU: "quick_gelu"}[act]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ls_init_value": 0.1}, "layer scale"),
        ({"pool_type": "avg"}, "pools by its class token"),
        ({"no_ln_pre": True}, "Identity is in the place of a LayerNorm"),
        ({"block_type": "custom", "qk_norm": True}, "norms of keys"),
    ],
)
def test_what_a_clip_of_transformers_cannot_express_is_refused(changes, words):
    with pytest.raises(TeacherError, match=words):
        to_transformers(open_clip_vit(**changes))


def test_only_open_clips_own_vits(clip_dir):
    with pytest.raises(TeacherError, match="no ViT of open_clip's own"):
        to_transformers(load_teacher(str(clip_dir)).teacher)


def test_written_read_and_made_part_of_a_model(open_clip_dir, language_model_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dense"
    monkeypatch.setattr(sys, "argv", ["dense_tower", str(open_clip_dir), "--out", str(out)])
    assert main() == 0
    assert "6 blocks, 16 patches and a class token" in capsys.readouterr().out
    teacher = load_teacher(str(open_clip_dir)).teacher
    pixels = AutoImageProcessor.from_pretrained(out)(tiny.image(), return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, teacher.image_processor(tiny.image(), return_tensors="pt")["pixel_values"])
    check_agreement(teacher, AutoModel.from_pretrained(out).eval(), pixels)

    options = {"projector": "average_pool", "vision_feature_select_strategy": "default"}
    model, processor = load_model(tiny.model(tmp_path / "model", out, language_model_dir, **options))
    assert processor.num_image_tokens == 4
    assert model.config.vision_config.num_hidden_layers == 5  # of six; LLaVA reads the last but one

    capsys.readouterr()
    assert main() == 2
    assert capsys.readouterr().err == (
        f"error: --out {out}: exists already and is no empty folder; choose another place or remove it\n"
    )
