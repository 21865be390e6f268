"""Teachers, what a student inherits, what each stage trains."""

from __future__ import annotations

import open_clip
import pytest
import torch
from transformers import TrainingArguments

from encoder.bootstrapping import (
    Stage,
    StudentOptions,
    apply_stage,
    build_student,
    cosine_distance,
    held_out_cosine,
    student_parts,
)
from encoder.errors import WeightsError
from encoder.teachers import open_clip_teacher
from encoder.training.averaging import WeightAverage


def tiny_clip(quick_gelu: bool = False, **vision) -> open_clip.CLIP:
    torch.manual_seed(0)
    settings = {"image_size": 32, "layers": 6, "width": 64, "head_width": 16, "patch_size": 8} | vision
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=24, vision_cfg=settings, text_cfg=text, quick_gelu=quick_gelu).eval()


def test_a_true_size_l14_is_inherited():
    config = open_clip.get_model_config("ViT-L-14-quickgelu")
    with torch.device("meta"):
        clip = open_clip.CLIP(
            **{k: v for k, v in config.items() if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
        )
        student = build_student(open_clip_teacher(clip.visual))
    assert student.config.num_tokens == 64  # a quarter of 257
    assert student.config.num_hidden_layers == 16
    assert student.config.heads(1024) == 16
    assert student.config.heads(512) == 8
    # The published CLIP-L/64 student has just these parameters.
    assert sum(parameter.numel() for parameter in student.parameters()) == 212_188_476


def test_student_options():
    teacher = open_clip_teacher(tiny_clip().visual)
    student = build_student(teacher, StudentOptions(num_tokens=9, first_block=3, inherit=False))
    assert student.config.num_tokens == 9
    assert len(student.cortex) == 3
    assert not torch.equal(student.cortex[0].attn.qkv.weight, teacher.blocks.weights(3)["attn.qkv.weight"])
    assert torch.equal(student.projection.weight, teacher.tower.proj.T)
    with pytest.raises(ValueError, match="first_block=6"):
        build_student(teacher, StudentOptions(first_block=6))
    with pytest.raises(ValueError, match="num_tokens=1"):
        build_student(teacher, StudentOptions(num_tokens=1))


def test_gradients_reach_what_a_stage_trains_and_nothing_else():
    teacher = open_clip_teacher(tiny_clip().visual)
    student = build_student(teacher).train()
    with torch.no_grad():  # zeros at the start of the offsets and RoI heads would stop gradients behind them
        for name, parameter in student.named_parameters():
            if name.endswith(("offset.weight", "delta.weight", "expand.weight")):
                parameter.normal_(std=0.02)
    images = torch.randn(2, 3, 32, 32)
    parts = student_parts(student, 2)
    whole = [id(p) for parameters in parts.values() for p in parameters]
    assert sorted(whole) == sorted(id(p) for p in student.parameters())
    for rates in ({"focusing": 1e-3}, {"rois": 1e-2}, {"focusing": 1e-3, "early": 1e-4}, {"late": 1e-4, "head": 1e-4}):
        student.zero_grad(set_to_none=True)
        trained = apply_stage(student, Stage(learning_rates=rates), early_blocks=2)
        cosine_distance(student(images).image_embeds, teacher(images)).backward()
        expected = {id(p) for parameters in trained.values() for p in parameters}
        for name, parameter in student.named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            if id(parameter) not in expected:
                assert parameter.grad is None, name
            elif not name.endswith("qkv.bias"):
                assert reached, name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    with pytest.raises(ValueError, match=r"\['middle'\]"):
        Stage(learning_rates={"middle": 1.0})


def test_a_stage_says_what_trains(caplog):
    student = build_student(open_clip_teacher(tiny_clip().visual))
    total = sum(parameter.numel() for parameter in student.parameters())
    late = sum(parameter.numel() for block in student.cortex[2:] for parameter in block.parameters())
    stage = Stage("third", {"late": 1e-5}, steps=7, num_tokens=9, image_size=48)
    with caplog.at_level("INFO"):
        apply_stage(student, stage, early_blocks=2)
    assert "stage third: focusing" in caplog.messages[0]
    assert "frozen" in caplog.messages[0]
    assert "stage third: late" in caplog.messages[3]
    assert "trains at learning rate 1e-05" in caplog.messages[3]
    assert caplog.messages[-1] == (
        f"stage third: {late / 1e6:.3f} M of {total / 1e6:.3f} M parameters train for 7 steps, with 9 tokens, "
        "on images of 48 pixels"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"num_tokens": 1}, "num_tokens=1"),
        ({"image_size": 0}, "image_size=0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"elastic": [4]}, "fewest, most"),
        ({"elastic": [1, 4]}, "fewest, most"),
        ({"elastic": [5, 4]}, "fewest, most"),
        ({"elastic": [2, 4], "num_tokens": 3}, "one of num_tokens and elastic"),
        ({"warmup_steps": 1, "trainer": {"warmup_steps": 2}}, "given twice"),
    ],
)
def test_stages_that_make_no_sense(values, words):
    with pytest.raises(ValueError, match=words):
        Stage(**values)


def test_elastic_tokens_are_random_and_the_same_everywhere():
    stage = Stage(elastic=[3, 6])
    counts = [stage.tokens_at(step, seed=42) for step in range(200)]
    assert set(counts) == {3, 4, 5, 6}
    assert counts == [Stage(elastic=[3, 6]).tokens_at(step, seed=42) for step in range(200)]
    assert counts != [stage.tokens_at(step, seed=43) for step in range(200)]
    assert [Stage(num_tokens=4).tokens_at(step, 42) for step in range(3)] == [4, 4, 4]
    assert Stage().tokens_at(5, 42) is None


def test_the_average_by_hand(tmp_path):
    student = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    average, arguments = WeightAverage(student, decay=0.15), TrainingArguments(str(tmp_path), use_cpu=True)
    expected = 0.0
    # The first value is taken; then d = min(0.15, 2 / 11) and min(0.15, 3 / 12).
    for value, kept in ((1.0, 0.0), (2.0, 0.15), (5.0, 0.15)):
        student.weight.fill_(value)
        average.on_step_end(arguments, None, None)
        expected = kept * expected + (1 - kept) * value
        assert average.model.weight.item() == pytest.approx(expected)
    slow = WeightAverage(student.bfloat16(), decay=0.999)  # 5.0
    slow.averaged.float()
    for value in (1.0, 3.0):
        student.weight.fill_(value)
        slow.on_step_end(arguments, None, None)
    assert slow.model.weight.item() == pytest.approx(1.0 * 2 / 11 + 3.0 * 9 / 11)

    average.save(tmp_path)
    resumed = WeightAverage(student.float(), decay=0.15)
    arguments.resume_from_checkpoint = str(tmp_path)
    resumed.on_train_begin(arguments, None, None)
    assert resumed.averaged.n_averaged == 3
    assert torch.equal(resumed.model.weight, average.model.weight)
    arguments.resume_from_checkpoint = str(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="go on without ema"):
        resumed.on_train_begin(arguments, None, None)


def test_the_teacher_stays_in_eval_mode():
    teacher = open_clip_teacher(tiny_clip().visual).train()
    assert not teacher.training
    assert not teacher.tower.training


def test_the_cosine_of_a_constant_vector():
    """No vector is nearer to all embeddings of the teacher; what it reaches is what a student must surpass."""
    torch.manual_seed(0)
    teacher = open_clip_teacher(tiny_clip().visual)
    student = build_student(teacher, StudentOptions(num_tokens=4, early_channels=8, mixing_hidden_size=8))
    batches = [{"pixel_values": torch.randn(size, 3, teacher.image_size, teacher.image_size)} for size in (3, 2)]
    cosine, constant = held_out_cosine(student, teacher, batches, torch.device("cpu"))
    theirs = torch.nn.functional.normalize(torch.cat([teacher(batch["pixel_values"]) for batch in batches]), dim=-1)
    ours = torch.cat([student.eval()(batch["pixel_values"]).embedding for batch in batches])
    assert cosine == pytest.approx(torch.cosine_similarity(ours, theirs).mean().item(), abs=1e-5)
    best = theirs.mean(dim=0)
    assert constant == pytest.approx(torch.cosine_similarity(best[None], theirs).mean().item(), abs=1e-5)
    for other in (*theirs, best + 0.1 * torch.randn_like(best)):
        assert torch.cosine_similarity(other[None], theirs).mean() < constant
