"""`mllm quantize`: fewer bytes, nearly the same logits, and every command still loads it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from data import InputError
from encoder.layers import GeometryLinear
from mllm.exporting.quantized import quantize
from mllm.generation import answer, question
from mllm.loading import load_model
from tests.shapes import EXAMPLES, MODEL


@pytest.mark.parametrize(
    ("bits", "smaller", "difference", "stored"), [(8, 2.0, 0.05, torch.int8), (4, 2.5, 0.3, torch.uint8)]
)
def test_fewer_bits(tmp_path, bits, smaller, difference, stored):
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    report = quantize(MODEL, tmp_path / "out", bits)
    assert report["bytes"]["before"] / report["bytes"]["after"] > smaller
    assert 0 < report["difference"] < difference
    model, processor = load_model(tmp_path / "out", "cpu")
    tower, language = model.model.vision_tower, model.model.language_model
    assert {tower.layers[0].attn.qkv.weight.dtype, language.layers[0].mlp.up_proj.weight.dtype} == {stored}
    kept = [module for module in model.modules() if isinstance(module, GeometryLinear)]
    assert {module.weight.dtype for module in [*kept, model.lm_head]} == {torch.float32}
    asked = question("what colour is the circle?", [Image.open(EXAMPLES / "scene-1.png")])
    assert answer(model, processor, [asked], 4) == answer(*load_model(MODEL, "cpu"), [asked], 4)


def test_without_bitsandbytes(tmp_path, monkeypatch):
    monkeypatch.setattr("mllm.finetuning.quantization.is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match=r"--bits 8: needs bitsandbytes: pip install 'sparseformer-mllm\[qlora\]'"):
        quantize(MODEL, tmp_path / "out", 8)
    assert not (tmp_path / "out").exists()
