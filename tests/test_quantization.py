"""int8 encoders: which layers, how exact the products, how close the embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from encoder import PRESETS, SparseFormerConfig, SparseFormerVisionModel, quantize
from encoder import quantization as quantization
from encoder.configuration import bootstrapped_units
from encoder.errors import WeightsError
from encoder.layers import GeometryLinear, MixingGenerator
from encoder.quantization import Int8Linear
from tests import tiny


def random_images(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size), clouds of colour that differ from image to image."""
    return F.interpolate(torch.randn(count, 3, 6, 6), size=(size, size), mode="bicubic")


def shaken(config: SparseFormerConfig) -> SparseFormerVisionModel:
    """Random weights with which RoIs move."""
    torch.manual_seed(0)
    model = SparseFormerVisionModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def test_embeddings_stay_close_at_full_width():
    """A CLIP-B student of the published widths, with three of its eight blocks."""
    preset = PRESETS["sparseformer_btsp_openai_clip_base"].config
    model = shaken(SparseFormerConfig(**{**preset, "units": bootstrapped_units(384, 768, 3)}))
    images = random_images(4, 112)
    exact = model(images)
    rough = quantize(model)(images)
    assert F.cosine_similarity(exact.image_embeds, rough.image_embeds).min() > 0.99
    # What tells images apart survives too, not only what all of them share.
    assert (exact.image_embeds - exact.image_embeds.mean(0)).norm() > 0.05 * exact.image_embeds.norm()
    centered = [out.image_embeds - out.image_embeds.mean(0) for out in (exact, rough)]
    assert F.cosine_similarity(*centered).min() > 0.99
    assert (exact.rois - model.latent.rois).abs().max() > 0.03
    assert (exact.rois - rough.rois).abs().max() < 0.01


def test_which_layers():
    model = shaken(tiny.sparseformer_config(projection_dim=8))
    floats = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantize(model)
    left = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    plain = {name for name, module in left.items() if not isinstance(module, (GeometryLinear, MixingGenerator))}
    assert plain == {"projection", "layers.0.sample.mixing.reduce", "layers.2.sample.mixing.reduce"}
    replaced = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    assert replaced == floats - set(left)
    assert {"layers.0.attn.qkv", "layers.0.mlp.fc2", "layers.1.0", "layers.0.sample.mixing.out"} <= replaced
    assert not model.training


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_as_exact_as_eight_bits(bias):
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias).requires_grad_(False)
    linear.weight[3] = 0  # a channel without a scale of its own
    x = torch.randn(2, 5, 96)
    x[0, 0] *= 1000  # a token that would cost the others their precision if all had one factor
    x[0, 1] = 0
    ours, exact = Int8Linear(linear)(x), linear(x)
    error = (ours - exact).norm(dim=-1) / exact.norm(dim=-1).clamp(min=1e-6)
    assert ours.shape == exact.shape
    assert error.max() < 0.03
    assert torch.equal(ours[0, 1], exact[0, 1])


def test_fewer_bits_where_the_processor_cuts_sums(monkeypatch):
    quantization.largest_weight.cache_clear()
    assert quantization.largest_weight() in (127, 64)
    monkeypatch.setattr(quantization, "int8_matmul", lambda *_: (torch.tensor(32767.0), torch.tensor(1.0)))
    quantization.largest_weight.cache_clear()
    assert quantization.largest_weight() == 64
    quantization.largest_weight.cache_clear()


def test_saving_is_refused(tmp_path):
    model = quantize(shaken(tiny.sparseformer_config(projection_dim=8)))
    with pytest.raises(WeightsError, match="an int8 encoder is not saved: save the float one"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_refused():
    model = shaken(tiny.sparseformer_config())
    with pytest.raises(ValueError, match=r"on cpu in torch.bfloat16: int8 needs one on the CPU in float32"):
        quantize(model.bfloat16())
