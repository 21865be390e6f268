"""`mllm train-clip` from weights: towers of timm, DINOv2 and BERT; its CLIP is distilled and bootstrapped."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
)

from data import InputError
from encoder.clip import load_clip
from encoder.contrastive.towers import build_clip, dinov2_weights, start_image_tower, vision_fields
from encoder.evaluation.clip_models import load_clip_model
from encoder.teachers import load_teacher
from mllm.cli import main
from tests import recipes

SIZE = 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", "red", "blue", "circle", "square", "."]
RECIPE = {
    "output": "cnn",
    "model": {"vision_cfg": {"image_size": SIZE}, "text_cfg": {"context_length": 12}},
    "image_weights": "lite0",
    "text_weights": "bert",
    "data": [{"labeled": "synthetic:train:64"}],
    "freeze_norm_statistics": True,
    "layer_decay": 0.9,
    "head_rate": 3.0,
    "text_bank": 16,
    "crop_scale": 0.8,
    "jitter": 0.1,
    "ema": 0.9,
    "zero_shot": ["synthetic:validation:16"],
    "evaluation_steps": 2,
    "trainer": recipes.TRAINER | {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Directories of a CNN, a BERT with its tokenizer, and a DINOv2."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    cnn = timm.create_model("tf_efficientnet_lite0", num_classes=5)
    for module in cnn.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    (folder / "lite0").mkdir()
    save_for_hf(cnn, str(folder / "lite0"), safe_serialization=True)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder / "bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    save_dinov2(folder / "dinov2")
    return folder


def save_dinov2(folder: Path) -> Dinov2Model:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 40}
    model = Dinov2Model(Dinov2Config(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # ones and zeros would hide what is mixed up
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    size = {"height": 40, "width": 40}
    BitImageProcessorPil(size=size, do_center_crop=False, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def cnn(folder) -> Path:
    """A CLIP of the CNN and the frozen BERT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train-clip", str(recipes.write(folder, RECIPE))]) == 0
    return folder / "cnn"


def test_towers_are_what_they_started_from(folder, cnn):
    weights = load_file(cnn / "open_clip_model.safetensors")
    bert = load_file(folder / "bert" / "model.safetensors")
    text = {name: weight for name, weight in weights.items() if name.startswith("text.")}
    assert text.keys() == {f"text.transformer.{name}" for name in bert if not name.startswith("pooler.")}
    for name, weight in text.items():  # frozen
        assert torch.equal(weight, bert[name.removeprefix("text.transformer.")]), name
    lite = load_file(folder / "lite0" / "model.safetensors")
    trunk = {name.removeprefix("visual.trunk."): w for name, w in weights.items() if name.startswith("visual.trunk.")}
    assert trunk.keys() == {name for name in lite if not name.startswith("classifier.")}
    for name, weight in trunk.items():
        if "running" in name:
            assert torch.equal(weight, lite[name]), name
        elif weight.is_floating_point():
            assert 0 < (weight - lite[name]).abs().max() < 0.01, name  # trained, not from anew
    logged = [entry for entry in recipes.logged(cnn) if "synthetic:validation:16 top_1" in entry]
    assert [entry["step"] for entry in logged] == [2]


def test_open_clip_loads_it_and_so_do_we(cnn, monkeypatch):
    model = load_clip_model(str(cnn))
    monkeypatch.chdir(cnn)  # where open_clip looks for the configuration of a text tower of transformers
    theirs, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
    tokenizer = open_clip.get_tokenizer("local-dir:.")
    ids = tokenizer(["a red circle."])
    assert ids.tolist() == [[2, 5, 8, 10, 12, 3, 0, 0, 0, 0, 0, 0]]
    assert model.tokenizer(["a red circle."]).equal(ids)
    theirs.eval()
    image = Image.new("RGB", (40, 30), (255, 0, 51))
    pixels = preprocess(image)
    torch.testing.assert_close(model.prepare(image), pixels)
    torch.testing.assert_close(pixels.mean((1, 2)), torch.tensor([1.0, -1.0, -0.6]))  # timm's mean and std are 0.5
    with torch.no_grad():
        torch.testing.assert_close(model.clip.encode_text(ids), theirs.encode_text(ids))
        torch.testing.assert_close(model.clip.encode_image(pixels[None]), theirs.encode_image(pixels[None]))
        bert = theirs.text.transformer(ids, attention_mask=(ids != 0).long()).last_hidden_state
        torch.testing.assert_close(theirs.encode_text(ids)[0], bert[0, :6].mean(0))


def test_dinov2_in_open_clip(folder):
    teacher = load_teacher(str(folder / "dinov2"), image_size=SIZE).teacher
    cfg = {"embed_dim": 16, "vision_cfg": vision_fields(teacher), "text_cfg": {"layers": 1, "width": 8, "heads": 1}}
    assert cfg["vision_cfg"]["image_size"] == SIZE
    visual = build_clip(cfg).visual.eval()
    start_image_tower(visual, teacher, "dinov2")
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(visual(pixels), teacher(pixels) @ visual.proj, rtol=1e-4, atol=1e-4)
    assert dinov2_weights(teacher, visual).keys() | {"proj"} == visual.state_dict().keys()
    with pytest.raises(InputError, match=r"image_weights: lite0 is no VisionTransformer"):
        start_image_tower(visual, load_teacher(str(folder / "lite0")).teacher, "lite0")


def test_distilled_and_bootstrapped(folder, cnn, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    of_cnn = {"output": "vit", "teacher": "cnn", "image_weights": "dinov2", "text_weights": None, "text_bank": 0}
    changes = of_cnn | {"model": {}, "freeze_norm_statistics": False, "data": [{"images": "synthetic:train:64"}]}
    recipe = recipes.write(folder, RECIPE, "vit", **changes)
    assert main(["train-clip", str(recipe)]) == 0
    assert [entry["loss"] <= 2 for entry in recipes.logged(folder / "vit") if "loss" in entry] == [True] * 3
    config = json.loads(Path("vit/open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["patch_size"] == 8
    assert config["preprocess_cfg"]["mean"] == [0.1, 0.2, 0.3]
    ours, theirs = (load_file(f"{name}/open_clip_model.safetensors") for name in ("vit", "cnn"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if not name.startswith("visual."))
    capsys.readouterr()
    assert main(["zeroshot", "synthetic:validation:16", "--model", "vit", "--model", "cnn", "--workers", "0"]) == 0
    assert main(["retrieve", "synthetic:validation:8", "--model", "vit", "--workers", "0"]) == 0
    assert main(["bootstrap", str(recipes.bootstrap(folder, "vit", "student"))]) == 0
    clip, _, tokenizer = load_clip("student")
    ids = tokenizer(["a red circle."])
    with torch.no_grad():  # the student has kept the text tower
        torch.testing.assert_close(clip.encode_text(ids), load_clip_model("cnn").clip.encode_text(ids))


def test_what_does_not_fit(folder, cnn, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    recipe = str(recipes.write(folder, RECIPE, "bad", output="bad"))
    for override, words in (
        ("model.vision_cfg.timm_model_name=tf_efficientnet_lite1", "lite0 does not fit the model; missing: blocks.1.2"),
        ("text_weights=lite0", "text_weights: "),
        ("model.embed_dim=8", "model.embed_dim: bert embeds texts in 16 numbers; leave it out"),
        ("image_weights=nowhere", "image_weights: "),
        ("init_from=lite0", "init_from: lite0: "),
    ):
        assert main(["train-clip", recipe, override]) == 2, override
        *_, error = capsys.readouterr().err.splitlines()
        assert words in error, (override, error)
    assert not Path("bad").exists()
