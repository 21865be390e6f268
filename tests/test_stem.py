"""A stem that was a CNN's: the same maps, saved and loaded, trained or not, images of several sizes, bootstrapped."""

from __future__ import annotations

import json
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from data import InputError
from encoder import SparseFormerVisionModel, load_tower
from encoder.bootstrapping import LOSSES, Stage, StudentOptions, apply_stage, build_student, check_losses, student_parts
from encoder.bootstrapping.losses import Target
from encoder.configuration import SparseFormerConfig
from encoder.errors import WeightsError
from encoder.macs import tower_macs
from encoder.teachers import Teacher, load_teacher, open_clip_teacher, timm_teacher
from mllm.cli import main
from tests import recipes, tiny

SIZE = 64
OPTIONS = {"num_tokens": 5, "width": 32, "depth": 2, "early_channels": 8, "mixing_hidden_size": 8, "stem": "inherit"}


def cnn(name: str = "test_efficientnet", **options) -> torch.nn.Module:
    """One of timm's smallest, whose norms have statistics of their own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **options)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def student_of(teacher: Teacher, source: Teacher | None = None, **options) -> SparseFormerVisionModel:
    """A student with the stem of ``source`` or its teacher, and weights that are large enough to make a difference."""
    torch.manual_seed(1)
    student = build_student(teacher, StudentOptions(**{**OPTIONS, **options}), stem_from=source or teacher)
    with torch.no_grad():
        for parameter in (*student.layers.parameters(), *student.latent.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return student.eval()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return timm_teacher(cnn(), SIZE)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("test_efficientnet", [8, 16]),
        ("test_resnet", [16, 4]),
        ("test_convnext", [8]),
        ("test_maxvit", [8, 16]),  # convolutions and attention, buffers that are not saved
        ("test_mambaout", [8, 32]),  # channels last
    ],
)
def test_maps_are_those_of_timm_also_after_loading(name, strides, tmp_path):
    model = cnn(name)
    teacher = timm_teacher(model)
    student = student_of(teacher, stem_strides=strides)
    student.save_pretrained(tmp_path)
    loaded = load_tower(tmp_path)  # from these two files alone
    images = torch.randn(2, 3, teacher.image_size, teacher.image_size)
    features = timm.create_model(name, features_only=True, feature_cls="getter")
    features.model.load_state_dict(model.state_dict(), strict=False)
    expected = dict(zip(features.feature_info.reduction(), features.eval()(images), strict=True))
    for each in (student, loaded):
        for found, stride in zip(each.stem.stages(images), sorted(strides), strict=True):
            torch.testing.assert_close(found, expected[stride])
        assert each.stem.stride == min(strides)
    torch.testing.assert_close(loaded(images).image_embeds, student(images).image_embeds)


def test_efficientnet_maps_are_those_of_features_only():
    """The class of features that timm itself takes for this family."""
    model = cnn("tf_efficientnet_lite0")
    features = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3)).eval()
    features.load_state_dict(model.state_dict(), strict=False)
    images = torch.randn(1, 3, SIZE, SIZE)
    stem = student_of(timm_teacher(model, SIZE)).stem
    for found, expected in zip(stem.stages(images), features(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_stem_of_another_tower_sees_images_as_that_does():
    """The teacher's images have another mean and deviation."""
    ours, theirs = timm_teacher(cnn(), SIZE), timm_teacher(cnn("test_resnet"), SIZE)
    theirs.image_processor.image_mean, theirs.image_processor.image_std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    stem = student_of(ours, theirs).stem
    image = tiny.image(width=SIZE, height=SIZE)
    seen, expected = (processor(images=image, return_tensors="pt")["pixel_values"] for processor in (
        ours.image_processor, theirs.image_processor
    ))  # fmt: skip
    assert (seen - expected).abs().max() > 0.1
    torch.testing.assert_close(stem.stages(seen), theirs.trunk.with_maps(expected, [2, 3])[1], atol=1e-4, rtol=1e-3)


def test_stages_train_at_their_rate_or_not_at_all_and_statistics_never_change(teacher):
    student = student_of(teacher).train()
    student.gradient_checkpointing_enable()
    parts = student_parts(student, 2)
    assert sorted(id(p) for each in parts.values() for p in each) == sorted(map(id, student.parameters()))
    assert {id(p) for p in parts["stem"]} == {id(p) for p in student.stem.stages.parameters()}
    before = {name: buffer.clone() for name, buffer in student.named_buffers()}
    for rates, trained in (({"focusing": 1e-3}, False), ({"focusing": 1e-3, "stem": 0}, False), ({"stem": 1e-4}, True)):
        student.zero_grad(set_to_none=True)
        assert ("stem" in apply_stage(student, Stage(learning_rates=rates), early_blocks=2)) == trained
        student(torch.randn(2, 3, SIZE, SIZE)).image_embeds.square().sum().backward()
        reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parts["stem"]]
        assert all(reached) if trained else not any(reached)
        assert all(p.grad is not None for p in student.stem.projections.parameters()) == (not trained)
    assert all(torch.equal(before[name], buffer) for name, buffer in student.named_buffers())


def test_checkpointed_stages_have_the_same_gradients(teacher):
    images, gradients = torch.randn(2, 3, SIZE, SIZE), []
    for checkpointing in (False, True):
        student = student_of(teacher).train()
        if checkpointing:
            student.gradient_checkpointing_enable()
        student(images).image_embeds.square().sum().backward()
        gradients.append([parameter.grad for parameter in student.stem.parameters()])
    torch.testing.assert_close(*gradients)


def test_mixed_sizes_tokens_and_focus(teacher):
    student = student_of(teacher).double()
    sizes = [(64, 48), (40, 80), (64, 80), (64, 48)]
    images = [torch.randn(3, *size, dtype=torch.float64) for size in sizes]
    padded = torch.zeros(4, 3, 64, 80, dtype=torch.float64)
    for row, image in zip(padded, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    focus = torch.tensor([[[0.1, 0.2, 0.6, 0.9]]] * 4, dtype=torch.float64)
    together = student(padded, num_tokens=4, image_sizes=sizes, focus_rois=focus).image_embeds
    for index, image in enumerate(images):
        alone = student(image[None], num_tokens=4, focus_rois=focus[:1]).image_embeds[0]
        torch.testing.assert_close(together[index], alone)


def test_in_bfloat16_on_the_meta_device_and_compiled(teacher):
    student = student_of(teacher)
    images = torch.randn(2, 3, SIZE, SIZE)
    expected = student(images).image_embeds
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images).image_embeds, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.cosine_similarity(student(images).image_embeds.float(), expected).min() > 0.99
    assert torch.cosine_similarity(student.bfloat16()(images).image_embeds.float(), expected).min() > 0.99
    stem = torch.nn.Sequential(*list(teacher.tower.children())[:2], *teacher.tower.blocks[:4])
    plain = tower_macs(build_student(teacher, StudentOptions(**OPTIONS)), SIZE, SIZE)
    more = tower_macs(student, SIZE, SIZE) - plain
    early = (SIZE // 2) ** 2 * 7 * 7 * 3 * 8
    projections = (SIZE // 8) ** 2 * 32 * 8 + (SIZE // 16) ** 2 * 48 * 8
    assert more == tower_macs(stem, SIZE, SIZE) + projections - early


def test_a_clip_whose_tower_is_a_cnn(tmp_path):
    torch.manual_seed(0)
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": SIZE}
    text = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()
    teacher = open_clip_teacher(clip.visual)
    images = torch.randn(2, 3, SIZE, SIZE)
    embeddings, patches = teacher.with_patches(images)
    torch.testing.assert_close(embeddings, clip.visual(images))
    assert patches.shape == (2, teacher.patch_width, 2, 2)
    student = student_of(teacher)
    assert student.config.stem == {"architecture": "test_efficientnet", "out_indices": [2, 3]}
    assert student.config.projection_dim == 24


def test_tokens_learn_what_a_cnn_says_of_places(teacher):
    images = torch.randn(2, 3, SIZE, SIZE)
    embeddings, last, places = teacher.with_places(images)
    torch.testing.assert_close(embeddings, teacher(images))
    assert last.shape == (2, teacher.patch_width, 2, 2)
    torch.testing.assert_close(places.mean(dim=(2, 3)), embeddings)  # its head is linear and it pools by the mean
    student = student_of(teacher)
    output = student(images, output_token_embeds=True)
    assert output.token_embeds.shape == (2, 4, 7)
    torch.testing.assert_close(output.token_embeds, student.projection(output.last_hidden_state[:, 1:]))
    whole = output.rois * 0 + torch.tensor([0.0, 0.0, 1.0, 1.0])
    target = Target(embeddings, last, places)
    expected = 1 - torch.cosine_similarity(output.token_embeds, embeddings[:, None], dim=-1).mean()
    loss = LOSSES["places"](replace(output, rois=whole), target)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert student.cortex[0].attn.qkv.weight.grad.abs().sum() > 0


def test_places_of_what_has_none(open_clip_dir):
    vit = load_teacher(str(open_clip_dir)).teacher
    with pytest.raises(ValueError, match="only a CNN of timm's embeds"):
        check_losses({"places": 1.0}, build_student(vit, StudentOptions(num_tokens=5)), vit)


def test_what_is_no_stem(teacher, open_clip_dir, tmp_path):
    with pytest.raises(ValueError, match=r"stem_strides: no map has the stride 3; there are \[2, 4, 8, 16, 32\]"):
        student_of(teacher, stem_strides=[3, 8])
    with pytest.raises(ValueError, match="a VisionTransformer is none"):
        student_of(teacher, load_teacher(str(open_clip_dir)).teacher)
    other = timm_teacher(cnn(act_layer=torch.nn.Tanh), SIZE)
    with pytest.raises(ValueError, match="made with other arguments"):
        student_of(other)
    with pytest.raises(ValueError, match="stem: the tower's weights"):
        student_of(timm_teacher(cnn(channel_multiplier=2.0), SIZE))
    with pytest.raises(StrictDataclassError, match="architecture, a name of timm's, and out_indices"):
        SparseFormerConfig(stem={"architecture": "test_resnet"})
    with pytest.raises(InputError, match="stem: no_such_net: Unknown model"):
        SparseFormerVisionModel(tiny.sparseformer_config(stem={"architecture": "no_such_net", "out_indices": [2]}))
    student_of(teacher).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["stem"]["architecture"] = "test_resnet"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_tower(tmp_path)


def test_bootstrapped_from_a_cnn_and_resumed(tmp_path, capsys):
    """Frozen, then trained; the losses that read the last map; interrupted in between."""
    timm.models.save_for_hf(cnn(), str(tmp_path / "cnn"), safe_serialization=True)
    stages = [
        {"name": "focusing", "steps": 2, "learning_rates": {"focusing": 1e-2, "early": 1e-2, "head": 1e-2}},
        {"name": "all", "steps": 3, "learning_rates": {"stem": 1e-2, "focusing": 1e-2, "early": 1e-2, "head": 1e-2}},
    ]
    values = {
        "teacher_image_size": SIZE, "zero_shot": [], "held_out_images": 4, "stages": stages,
        "student": OPTIONS | {"width": 64}, "losses": {"cosine": 1.0, "tokens": 0.5, "focus": 0.1},
    }  # fmt: skip
    recipe = str(recipes.bootstrap(tmp_path, tmp_path / "cnn", **values))
    assert main(["bootstrap", recipe, f"output={tmp_path / 'whole'}"]) == 0
    assert main(["bootstrap", recipe, "--dry-run", "1"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseFormerVisionModel, "forward", _fails_at_step(4))
        assert main(["bootstrap", recipe]) == 130
    assert main(["bootstrap", recipe, "--resume"]) == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "student"))
    torch.testing.assert_close(resumed, whole, atol=0, rtol=0)
    teacher = load_teacher(str(tmp_path / "cnn")).teacher
    prefix = "inherited_stem.stages.net.model."
    changed = {
        name: not torch.equal(value, teacher.tower.state_dict()[name.removeprefix(prefix)])
        for name, value in whole.items()
        if name.startswith(prefix)
    }
    assert {name for name, differs in changed.items() if not differs} == {
        name for name in changed if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert main(["bootstrap", recipe, f"output={tmp_path / 'x'}", "student.stem=null"]) == 2
    assert "learning_rates name 'stem', which this student has not" in capsys.readouterr().err


def _fails_at_step(step: int):
    forward, calls = SparseFormerVisionModel.forward, []

    def failing(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == step:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    return failing
