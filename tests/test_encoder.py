"""The SparseFormer itself: agreement with the official implementation, shapes, types, initial values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from encoder import PRESETS, SparseFormerConfig, SparseFormerVisionModel, geometry
from encoder.configuration import bootstrapped_units, unit
from encoder.layers import QuickGELU
from encoder.official import load_published_weights, published_names
from tests import tiny
from tests.golden import make

OFFICIAL = Path(__file__).parent / "golden" / "official"
OPERATIONS = {"SAMPLING_M": "sample", "PE_INJECT": "pe", "ATTN": "attn", "MLP": "mlp", "ROI_ADJ": "roi"}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.detach().double() - theirs.double()).norm() / theirs.double().norm()).item()


def config_from_official(official: dict) -> SparseFormerConfig:
    details = official["compatible_config"]
    v1 = details["type_num_attn_heads"] == 1
    specs = zip(official["ops_list"], official["width_configs"], official["repeats"], strict=True)
    return SparseFormerConfig(
        units=[unit(" ".join(OPERATIONS[op] for op in ops), width, repeats) for ops, width, repeats in specs],
        num_latent_tokens=official["num_latent_tokens"],
        num_sampling_points=official["num_sampling_points"],
        early_channels=official["conv_dim"],
        class_token=official["head_op"] == "cls",
        shared_embedding=official["same_token_embedding"],
        repeat_embedding=details["use_stage_embedding"],
        transition_norm=details["transition_ln"],
        roi_head="linear" if details["type_op_adjust"] == 1 else "mlp",
        mixing_hidden_size=None if v1 else details["pg_inner_dim"],
        mixing_bias=details["mixing_bias"],
        sampling_padding=details["grid_sample_config"]["padding_mode"],
        attention_head_dim=None if v1 else 64,
        num_attention_heads=64 if v1 else None,
        hidden_act="quick_gelu" if details["clip_quick_gelu"] else "gelu",
        layer_norm_eps=details["ln_eps"],
        projection_dim=official["proj_dim"],
        projection_bias=official["proj_bias"],
    )


@pytest.mark.parametrize("case", ["v1_tiny", "btsp_augreg_tiny", "btsp_clip_tiny"])
def test_agrees_with_the_official_implementation(case):
    config = config_from_official(json.loads((OFFICIAL / f"{case}.config.json").read_text()))
    golden = load_file(OFFICIAL / f"{case}.io.safetensors")
    for dtype, bound, gradient_bound in ((torch.float64, 1e-6, 1e-5), (torch.float32, 1e-4, 1e-3)):
        model = SparseFormerVisionModel(config).eval()
        load_published_weights(model, load_file(OFFICIAL / f"{case}.weights.safetensors"), case)
        model.to(dtype)
        outputs = model(golden["input"].to(dtype))
        assert relative(outputs.image_embeds, golden["output"]) < bound
        assert relative(outputs.last_hidden_state, golden["token_embedding"]) < bound
        assert relative(outputs.rois, golden["token_roi"]) < bound
        assert relative(outputs.all_rois[config.units[0]["repeats"]], golden["hidden_roi.0"]) < bound
        (outputs.image_embeds**2).sum().backward()
        ours, names = dict(model.named_parameters()), published_names(model)
        gradients = [name for name in golden if name.startswith("grad.")]
        assert gradients
        for name in gradients:
            assert relative(ours[names[name.removeprefix("grad.")]].grad, golden[name]) < gradient_bound


@pytest.mark.parametrize("case", list(make.CASES))
def test_agrees_with_golden(case):
    golden = load_file(make.FILE)
    for name, value in make.outputs(case).items():
        assert relative(value, golden[f"{case}.{name}"]) < 1e-9, name


@pytest.mark.parametrize("case", list(make.CASES))
def test_bfloat16_autocast_keeps_the_geometry_in_float32(case):
    model, images = make.model_and_input(case)
    model, images = model.float(), images.float()
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images, output_sampling_points=True)
    assert rough.rois.dtype == torch.float32
    assert all(points.dtype == torch.float32 for points in rough.sampling_points)
    assert rough.image_embeds.dtype == torch.bfloat16
    assert relative(rough.image_embeds, exact.image_embeds) < 0.03
    assert relative(rough.rois, exact.rois) < 0.01


def test_a_model_in_bfloat16_keeps_the_geometry_in_float32():
    model, images = make.model_and_input("clip")
    exact = model(images).image_embeds
    outputs = model.to(torch.bfloat16)(images.bfloat16())
    assert outputs.rois.dtype == torch.float32
    assert relative(outputs.image_embeds, exact) < 0.05


def test_shapes_of_everything_it_returns():
    model, _ = make.model_and_input("clip")
    outputs = model(torch.randn(2, 3, 40, 72).double(), output_hidden_states=True, output_sampling_points=True)
    assert outputs.last_hidden_state.shape == (2, 16, 128)
    assert outputs.pooler_output.shape == (2, 128)
    assert outputs.image_embeds.shape == (2, 24)
    assert [tuple(rois.shape) for rois in outputs.all_rois] == [(2, 15, 4)] * 4  # the start and three steps
    assert torch.equal(outputs.all_rois[-1], outputs.rois)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 16, 128)] * 4
    assert torch.equal(model.norm(outputs.hidden_states[-1]), outputs.last_hidden_state)
    assert [tuple(points.shape) for points in outputs.sampling_points] == [(2, 15, 16, 2)] * 4
    assert model(torch.randn(1, 3, 32, 32).double()).hidden_states is None
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        model(torch.randn(2, 1, 32, 32))


@pytest.mark.parametrize("case", list(make.CASES))
def test_what_all_images_share_is_computed_once(case):
    """Before the first reading tokens and RoIs are the same for all images; in training each has its own."""
    model, images = make.model_and_input(case)
    images = torch.cat([images, images.flip(3)])
    sizes = []
    model.layers[0].sample.mixing.reduce.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    with torch.no_grad():
        together = model(images)
        assert sizes == [1] + [4] * (len(sizes) - 1)
        sizes.clear()
        trained = model.train()(images)
        assert set(sizes) == {4}
        model.eval()
        for name in ("image_embeds", "last_hidden_state", "rois"):
            assert torch.allclose(trained[name], together[name], atol=1e-12)
            one_by_one = torch.cat([model(image[None])[name] for image in images])
            assert torch.allclose(one_by_one, together[name], atol=1e-12)
    assert {rois.shape for rois in together.all_rois} == {together.rois.shape}


def test_the_configuration_says_what_is_returned():
    model = SparseFormerVisionModel(tiny.sparseformer_config(output_hidden_states=True)).eval()
    images = torch.zeros(1, 3, 32, 32)
    assert len(model(images).hidden_states) == 3
    assert model(images, output_hidden_states=False).hidden_states is None
    model.config.return_dict = False
    assert isinstance(model(images), tuple)
    assert "hidden_states" in model(images, return_dict=True)


def test_another_number_of_tokens_starts_from_its_own_grid():
    model, images = make.model_and_input("clip")
    own = model.config.num_tokens
    with torch.no_grad():
        assert torch.equal(model(images, num_tokens=own).image_embeds, model(images).image_embeds)
        for count in (2, 6, own + 4):
            outputs = model(images, num_tokens=count)
            assert outputs.last_hidden_state.shape[1] == count
            # What a model that was built for so many tokens does, with the same weights elsewhere.
            config = SparseFormerConfig(**{**model.config.to_dict(), "num_latent_tokens": count - 1})
            other = SparseFormerVisionModel(config).to(model.dtype).eval()
            weights = model.state_dict() | {"latent.rois": geometry.initial_rois(count - 1)}
            other.load_state_dict(weights)
            assert torch.equal(other(images).image_embeds, outputs.image_embeds)
    with pytest.raises(ValueError, match="num_tokens=1: choose at least 2"):
        model(images, num_tokens=1)
    v1, images = make.model_and_input("v1")
    with pytest.raises(ValueError, match="has learned"):
        v1(images, num_tokens=v1.config.num_tokens + 1)


@pytest.mark.parametrize("case", list(make.CASES))
def test_attention_implementations_and_checkpointing_agree(case):
    model, images = make.model_and_input(case)
    expected = make.outputs(case)
    model.set_attn_implementation("eager")
    assert relative(model(images).image_embeds, expected["image_embeds"]) < 1e-10
    model.set_attn_implementation("sdpa")
    model.train()  # no dropout anywhere, and stochastic depth at rate 0
    model.gradient_checkpointing_enable()
    (model(images).image_embeds ** 2).sum().backward()
    assert relative(model.early_convolution.conv.weight.grad, expected["grad.conv"]) < 1e-10


def test_the_auto_classes_save_and_load_it(tmp_path):
    model, images = make.model_and_input("clip")
    model = model.float()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SparseFormerConfig)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(images.float()).image_embeds, model(images.float()).image_embeds)


def test_training_starts_from_the_grid():
    model = SparseFormerVisionModel(SparseFormerConfig(units=bootstrapped_units(64, 128, 2), num_latent_tokens=11))
    outputs = model(torch.randn(1, 3, 64, 64), output_sampling_points=True)
    start = geometry.initial_rois(11)
    for rois in outputs.all_rois:
        assert torch.allclose(rois[0], start, atol=1e-6)
    assert torch.equal(start[9:], torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))
    assert torch.equal(start[1, :2], torch.tensor([0.0, 0.25]))  # x varies slowest
    mixing, roi = model.layers[0].sample.mixing, model.layers[0].roi
    assert not mixing.expand.weight.any()
    assert mixing.expand.bias.all()
    assert torch.equal(roi.norm.weight, torch.full((64,), 64**-0.5))
    assert torch.equal(mixing.norm.weight, roi.norm.weight)
    assert model.latent.embedding.std() > 0.5
    assert 0.01 < model.layers[0].repeat_embedding.std() < 0.03
    whole = outputs.sampling_points[0][0, -1]
    assert torch.allclose(whole.mean(0), torch.tensor([0.5, 0.5]), atol=1e-6)
    assert whole.std(0).sub(1 / 3).abs().max() < 1e-3


def test_drop_path_and_gradient_clamp_act_only_while_training():
    settings = make.AUGREG | {"drop_path_rate": 0.9, "clamp_position_gradient": True}
    model = SparseFormerVisionModel(SparseFormerConfig(**settings))
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(model.eval()(images).image_embeds, model(images).image_embeds)
    model.train()
    assert not torch.equal(model(images).image_embeds, model(images).image_embeds)
    positions = torch.zeros(3, requires_grad=True)
    (geometry.clamp_gradient(positions, 0.25) * torch.tensor([5.0, 0.1, -5.0])).sum().backward()
    assert torch.allclose(positions.grad, torch.tensor([0.25, 0.1, -0.25]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_quick_gelu(dtype):
    """Values and gradients, far from zero too, where an exponential would overflow."""
    extremes = torch.tensor([-6e4, -100.0, -30.0, 0.0, 23.0, 24.0, 52.0, 6e4])
    x = torch.cat([torch.linspace(-8, 8, 1000), extremes]).to(dtype)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    expected, value = exact * torch.sigmoid(1.702 * exact), QuickGELU()(ours)
    expected.sum().backward()
    value.sum().backward()
    tolerance = 8 * torch.finfo(dtype).eps
    assert torch.allclose(value.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.allclose(ours.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


def test_early_features_are_what_they_say():
    """Convolution, ReLU, maximum, norm over the channels, in this order, whatever the layout in memory."""
    early = SparseFormerVisionModel(SparseFormerConfig(**make.AUGREG)).early_convolution.double()
    images = torch.randn(2, 3, 20, 36).double()
    features = torch.nn.functional.max_pool2d(early.conv(images).relu(), 3, 2, 1)
    expected = (features - features.mean(1, keepdim=True)) / (features.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    features, extent = early(images)
    assert extent is None
    assert features.shape == expected.shape
    assert torch.allclose(features, expected)


def test_geometry():
    rois = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    moved = geometry.adjust_rois(rois, torch.tensor([[0.5, -0.25, 0.0, 2.0]]).log1p().expm1())
    half = 0.2 * torch.e**2
    assert torch.allclose(moved, torch.tensor([[0.4, 0.5 - half, 0.8, 0.5 + half]]), atol=1e-6)
    offsets = geometry.normalize_offsets(torch.randn(5, 16, 2) * 7 + 3)
    assert torch.allclose(offsets.mean(1), torch.zeros(5, 2), atol=1e-6)
    assert torch.allclose(offsets.std(1), torch.full((5, 2), 1 / 3), atol=1e-4)
    points = geometry.sampling_points(rois, torch.tensor([[[0.5, 0.5], [-0.5, 0.0]]]))
    assert torch.allclose(points, torch.tensor([[[0.6, 0.8], [0.2, 0.6]]]))
    features = geometry.roi_features(rois, 16)
    angle = 0.2 * torch.pi
    assert features.shape == (1, 16)
    assert torch.isclose(features[0, 0], torch.tensor(angle).sin())
    assert geometry.grid_offsets(12).abs().max() < 0.5  # no square number: a grid whose last row is short or full
    assert geometry.initial_rois(1).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    for call in (lambda: geometry.initial_rois(0), lambda: geometry.roi_features(rois, 12)):
        with pytest.raises(ValueError, match="="):
            call()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("units", [unit("sample look", 64)], "look"),
        ("units", [unit("attn attn", 64)], "twice"),
        ("units", [unit("sample pe", 64), unit("attn mlp", 64), unit("attn mlp", 128)], "one width"),
        ("roi_head", "cnn", "roi_head"),
        ("sampling_padding", "mirror", "sampling_padding"),
        ("num_attention_heads", 3, "exactly one"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(field, value, words):
    with pytest.raises(Exception, match=words):
        SparseFormerConfig(**{field: value})


def test_presets_have_their_published_size():
    tokens = {name: SparseFormerConfig(**preset.config).num_tokens for name, preset in PRESETS.items()}
    assert list(tokens.values()) == [49, 64, 81, 49, 49, 49, 64]
