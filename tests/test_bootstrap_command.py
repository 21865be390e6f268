"""`mllm bootstrap` through the real main: stages, resuming, the directory that it writes."""

from __future__ import annotations

import json
import re

import open_clip
import pytest
import timm
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoImageProcessor

from encoder import SparseFormerVisionModel, load_clip, load_tower
from encoder.geometry import nested_rois
from encoder.teachers import Teacher
from mllm.cli import main
from mllm.lab.rois import inside
from tests import recipes, tiny


def test_two_stages_make_a_complete_clip(open_clip_dir, tmp_path, capsys, caplog):
    recipe = recipes.bootstrap(tmp_path, open_clip_dir)
    with caplog.at_level("INFO"):
        assert main(["bootstrap", str(recipe), "trainer.report_to=tensorboard"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"5 tokens against 17, held-out cosine to its teacher -?0\.\d+ \(a constant vector: 0\.\d+\)", out)
    assert "teacher: 6 blocks, 17 tokens; student: 5 tokens" in caplog.text
    assert "zero-shot accuracy on synthetic:test:64:" in out
    assert "broken.png" in caplog.text
    assert "stage focusing: early" in caplog.text
    assert "frozen" in caplog.text
    assert not list((tmp_path / "student").glob("stage-*"))
    for stage in ("stage-1-focusing", "stage-2-early"):
        board = EventAccumulator(str(next((tmp_path / "student/runs" / stage).rglob("events.*")).parent)).Reload()
        assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3]

    teacher, _, _ = open_clip.create_model_and_transforms(f"local-dir:{open_clip_dir}")
    student, image_processor, tokenizer = load_clip(tmp_path / "student")
    assert isinstance(student.visual.model, SparseFormerVisionModel)
    words = tokenizer(["a red circle"])
    assert torch.allclose(student.encode_text(words), teacher.encode_text(words), atol=1e-6)
    # Frozen: the late blocks, the final norm and the projection. Trained: the early ones (2 and 3 of six).
    ours, theirs = student.visual.model, teacher.visual
    assert torch.equal(ours.cortex[3].attn.qkv.weight, theirs.transformer.resblocks[5].attn.in_proj_weight)
    assert torch.equal(ours.projection.weight, theirs.proj.T)
    assert not torch.equal(ours.cortex[0].attn.qkv.weight, theirs.transformer.resblocks[2].attn.in_proj_weight)
    pixels = image_processor(images=tiny.image(), return_tensors="pt")["pixel_values"]
    assert student.encode_image(pixels).shape == (1, 16)


@pytest.mark.parametrize("everything", [False, True])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    open_clip_dir, tmp_path, monkeypatch, capsys, caplog, everything
):
    values = {"zero_shot": []}
    if everything:
        rates = {"focusing": 1e-2, "early": 1e-3}
        stages = [
            {"name": "focusing", "steps": 1, "learning_rates": {"focusing": 1e-2}},
            {"name": "early", "steps": 5, "learning_rates": rates, "elastic": [2, 9]},
        ]
        values |= {"stages": stages, "losses": {"relational": 0.5}, "ema": 0.9, "teacher_cache": str(tmp_path / "seen")}
        values |= {"visualize_steps": 2, "report_tokens": [2, 5]}
        values |= {"student": {**recipes.BOOTSTRAP["student"], "num_tokens": 9}}
    whole = recipes.bootstrap(tmp_path / "whole", open_clip_dir, **values)
    caplog.set_level("INFO")
    assert main(["bootstrap", str(whole)]) == 0
    if everything:
        out = capsys.readouterr().out
        assert all(
            {"loss_cosine", "loss_relational"} <= entry.keys() for entry in recipes.logged(tmp_path / "whole/student")
        )
        assert all(f"student: {count} tokens against 17" in out for count in (2, 5, 9))
        drawings = sorted((tmp_path / "whole/student/roi_drawings").iterdir())
        assert [file.name for file in drawings] == ["early-000002.png", "early-000004.png"]
        assert Image.open(drawings[0]).height > 4 * 300

    from encoder.training import spine

    class Killed(BaseException):
        pass

    def stop_in_the_second_stage(trainer, progress):
        if trainer.stage.name == "early":
            trainer.args.max_steps = 2
            fit(trainer, progress)
            raise Killed
        fit(trainer, progress)

    fit = spine.fit
    cut = recipes.bootstrap(tmp_path / "cut", open_clip_dir, **values)
    with monkeypatch.context() as patch:
        patch.setattr(spine, "fit", stop_in_the_second_stage)
        with pytest.raises(Killed):
            main(["bootstrap", str(cut)])
    assert (tmp_path / "cut/student/stage-1-focusing/model.safetensors").is_file()
    assert not (tmp_path / "cut/student/model.safetensors").exists()
    assert main(["bootstrap", str(cut)]) == 2  # not without --resume
    assert main(["bootstrap", str(cut), "--resume"]) == 0
    first, second = (load_clip(tmp_path / name / "student")[0].visual.state_dict() for name in ("whole", "cut"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6), name


def test_stages_have_their_own_warmup_tokens_and_size(open_clip_dir, tmp_path, capsys, caplog):
    stages = [
        {"name": "small", "steps": 2, "warmup_steps": 2, "num_tokens": 3, "image_size": 16},
        {"name": "large", "steps": 1, "learning_rates": {"focusing": 1e-2, "late": 1e-5}, "image_size": 48},
    ]
    stages[0]["trainer"] = {"lr_scheduler_type": "constant_with_warmup"}
    recipe = recipes.bootstrap(
        tmp_path, open_clip_dir, stages=stages, crop_scale=0.5, flip=True, zero_shot=["synthetic:test:8"]
    )
    with caplog.at_level("INFO"):
        assert main(["bootstrap", str(recipe)]) == 0
    rates = [entry["learning_rate"] for entry in recipes.logged(tmp_path / "student") if entry["stage"] == "small"]
    assert rates == pytest.approx([0, 5e-4])  # of 1e-3, over two steps
    assert "with 3 tokens, on images of 16 pixels" in caplog.text
    assert "with 5 tokens, on images of 48 pixels" in caplog.text
    assert "zero-shot accuracy" in capsys.readouterr().out
    student, image_processor, _ = load_clip(tmp_path / "student")
    assert (student.visual.image_size, image_processor.output_size) == ((48, 48), (48, 48))
    assert student.visual.model.config.image_size == 48
    teacher = open_clip.create_model(f"local-dir:{open_clip_dir}").visual
    late = student.visual.model.cortex[3].attn.qkv.weight - teacher.transformer.resblocks[5].attn.in_proj_weight
    assert 0 < late.abs().max() < 1e-4


def test_a_cache_changes_nothing_but_the_time(open_clip_dir, tmp_path, monkeypatch):
    looked_at = []

    def forward(teacher, pixel_values, forward=Teacher.forward):
        looked_at.append(len(pixel_values))
        return forward(teacher, pixel_values)

    monkeypatch.setattr(Teacher, "forward", forward)
    values = {
        "stages": [{"name": "a", "steps": 3, "learning_rates": {"focusing": 1e-2}}],
        "zero_shot": [],
        "held_out_images": 1,
    }
    recipe, weights, seen = recipes.bootstrap(tmp_path, open_clip_dir, **values), [], []
    cache = f"teacher_cache={tmp_path / 'seen'}"
    for run, overrides in (("plain", []), ("filling", [cache]), ("reading", [cache])):
        looked_at.clear()
        assert main(["bootstrap", str(recipe), f"output={tmp_path / run}", *overrides]) == 0
        seen.append(sum(looked_at[:-1]))  # but for the held-out one
        weights.append(load_clip(tmp_path / run)[0].visual.state_dict())
    assert seen == [12, 12, 4]  # the first batch that is known is checked
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name
        assert torch.equal(weights[2][name], value), name


def test_tokens_are_distilled_through_their_rois(open_clip_dir, tmp_path, capsys):
    values = {"losses": {"cosine": 0.0, "tokens": 1.0}, "zero_shot": [], "held_out_images": 1}
    stages = [{"name": "a", "steps": 3, "learning_rates": {"focusing": 1e-2}}]
    recipe = recipes.bootstrap(tmp_path, open_clip_dir, **values, stages=stages)
    assert main(["bootstrap", str(recipe)]) == 0
    assert "held-out cosine" in capsys.readouterr().out


def test_a_classifier_without_blocks_and_without_text(open_clip_dir, tmp_path, capsys, caplog):
    """A CNN of timm's teaches a cortex that starts from nothing, then one that takes the CLIP's blocks."""
    torch.manual_seed(0)
    cnn = timm.create_model("test_convnext2", num_classes=7)
    timm.models.save_for_hf(cnn, str(tmp_path / "cnn"), safe_serialization=True, data_config={"img_size": 32})
    common = {"teacher": f"timm:{tmp_path / 'cnn'}", "zero_shot": [], "held_out_images": 2}
    options = {"num_tokens": 5, "early_channels": 8, "mixing_hidden_size": 8}
    stages = [{"name": "all", "steps": 1, "learning_rates": {"focusing": 1e-2, "early": 1e-2, "head": 1e-2}}]
    nothing = options | {"inherit": False, "width": 32, "depth": 2}
    recipe = recipes.bootstrap(tmp_path / "a", open_clip_dir, **common, student=nothing, stages=stages)
    with caplog.at_level("INFO"):
        assert main(["bootstrap", str(recipe)]) == 0
    assert "teacher: ConvNeXt, 7 features, no blocks to inherit (ConvNeXt is not timm's" in caplog.text
    assert "5 tokens against ConvNeXt, held-out cosine" in capsys.readouterr().out
    donated = {"init_from": str(open_clip_dir), "student": options, "stages": stages}
    recipe = recipes.bootstrap(tmp_path / "b", open_clip_dir, **common, **donated)
    assert main(["bootstrap", str(recipe)]) == 0
    assert "held-out cosine to its teacher" in capsys.readouterr().out
    for folder, blocks in (("a", 2), ("b", 4)):
        output = tmp_path / folder / "student"
        files = ["bad_samples.jsonl", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"]
        assert sorted(file.name for file in output.iterdir()) == files
        student = load_tower(output)
        assert (len(student.cortex), student.config.projection_dim) == (blocks, 7)
        processor = AutoImageProcessor.from_pretrained(output)
        assert list(processor.image_mean) == list(cnn.pretrained_cfg["mean"])
        assert student(**processor(images=tiny.image(), return_tensors="pt")).image_embeds.shape == (1, 7)
    # Which blocks: those of the CLIP. One without blocks asks for a choice, and a new projection for training.
    clip = open_clip.create_model(f"local-dir:{open_clip_dir}")
    ours, theirs = student.cortex[3].mlp.fc1.weight, clip.visual.transformer.resblocks[5].mlp.c_fc.weight
    assert torch.equal(ours, theirs)
    for name, values, words in (
        ("c", {"student": options}, "no blocks can be inherited: ConvNeXt"),
        ("d", donated | {"stages": [{"learning_rates": {"focusing": 1e-2}}]}, "name 'head'"),
        ("e", {"zero_shot": ["synthetic:test:64"]}, "has no text tower"),
    ):
        assert main(["bootstrap", str(recipes.bootstrap(tmp_path / name, open_clip_dir, **{**common, **values}))]) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_rehearsal_needs_neither_weights_nor_images_and_writes_nothing(open_clip_dir, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/open_clip_config.json").write_text((open_clip_dir / "open_clip_config.json").read_text())
    recipe = recipes.bootstrap(tmp_path, tmp_path / "bare", images=["/nowhere"], held_out="nowhere")
    before = sorted(tmp_path.iterdir())
    assert main(["bootstrap", str(recipe), "--dry-run", "2", "trainer.per_device_train_batch_size=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["teacher", "student", "stage focusing", "stage early"]
    assert "2 images at a time on cpu" in lines[3]
    assert "images/s, peak memory" in lines[3]
    assert main(["bootstrap", str(recipe), "--dry-run", "2", f"teacher_cache={tmp_path / 'seen'}"]) == 0
    assert capsys.readouterr().out.count("the teacher's outputs cached: ") == 2
    assert sorted(tmp_path.iterdir()) == before
    assert main(["bootstrap", str(recipe), "--dry-run", "0"]) == 2


def test_rois_can_stay_on_the_grid(open_clip_dir, tmp_path, capsys):
    stages = [{"name": "a", "steps": 2, "learning_rates": {"focusing": 1e-1}}]
    recipe = recipes.bootstrap(tmp_path, open_clip_dir, stages=stages, zero_shot=[], held_out_images=1)
    assert main(["bootstrap", str(recipe), "student.move_rois=false"]) == 0
    student = load_tower(tmp_path / "student")
    assert "latent.rois" not in dict(student.named_parameters())
    rois = student(torch.randn(1, 3, 32, 32)).all_rois
    assert len(rois) == 1
    assert torch.equal(rois[0][0], nested_rois(4))
    capsys.readouterr()
    figures = tmp_path / "rois.json"
    assert main(["rois", "--model", str(tmp_path / "student"), "--count", "3", "--json", str(figures)]) == 0
    step = json.loads(figures.read_text())["steps"][-1]
    assert 0 < step["before"] < 1
    assert f"points on objects before {step['before']:.1%}" in capsys.readouterr().out


def test_points_inside_a_mask():
    mask = torch.tensor([[True, False, False, False], [False, False, False, True]])
    points = torch.tensor([[0.1, 0.1], [0.1, 0.6], [0.99, 0.99], [1.0, 0.9], [-0.01, 0.1], [0.3, 0.2]])
    assert inside(points, mask).tolist() == [True, False, True, False, False, False]
