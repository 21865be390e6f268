"""Packed weights: agreement at their number of rows and at others, which layers, what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from encoder import pack
from encoder.packing import PackedLinear
from tests.golden import make

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="MKL packs the weights")


def rows_of(model: nn.Module) -> dict[str, int]:
    return {name: module.rows for name, module in model.named_modules() if isinstance(module, PackedLinear)}


@pytest.mark.parametrize("case", list(make.CASES))
def test_agrees_with_golden(case, tmp_path):
    golden = load_file(make.FILE)
    model, images = make.model_and_input(case)
    model, images = model.float(), images.float()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert pack(model, lambda: model(images)) is model
    assert set(rows_of(model)) == linear
    assert not model.training
    outputs = model(images)
    for ours, name in ((outputs.image_embeds, "image_embeds"), (outputs.rois, "rois")):
        theirs = golden[f"{case}.{name}"]
        assert (ours.double() - theirs).norm() / theirs.norm() < 1e-5
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(weights)
    assert all(torch.equal(value, weights[name]) for name, value in saved.items())


def test_rows_of_a_language_model():
    """Each layer is packed for its own rows; another prompt is answered alike; tied weights stay as they are."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=50
    )
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    prompts = [torch.randint(50, (2, length)) for length in (7, 3)]
    with torch.no_grad():
        plain = [model(ids).logits for ids in prompts]
        for length, ids in zip((7, 3), prompts, strict=True):  # packing again is for the new length
            pack(model, lambda ids=ids: model(ids))
            assert set(rows_of(model).values()) == {2 * length}
            assert type(model.lm_head) is nn.Linear
            assert len(rows_of(model)) == 2 * 7
            for other, logits in zip(prompts, plain, strict=True):
                assert torch.allclose(model(other).logits, logits, atol=1e-5)


def test_layers_that_stay():
    model = nn.ModuleDict({name: nn.Linear(4, 3) for name in ("met", "one row", "unmet", "float64")})
    model["float64"].double()
    rows = {"met": torch.ones(5, 4), "one row": torch.ones(1, 4), "float64": torch.ones(5, 4).double()}
    pack(model, lambda: [model[name](x) for name, x in rows.items()])
    assert rows_of(model) == {"met": 5}
    assert "rows=5" in repr(model["met"])


def test_refused(monkeypatch):
    layer = nn.Sequential(nn.Linear(4, 3, device="meta"))
    with pytest.raises(ValueError, match="0 is on meta"):
        pack(layer, lambda: None)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no MKL"):
        pack(layer, lambda: None)
