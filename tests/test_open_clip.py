"""A SparseFormer as the image tower of an open_clip model: drop-in, zero-shot, one directory, strict loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoImageProcessor, AutoModel, PreTrainedTokenizerFast, RobertaConfig

from encoder import SparseFormerVisionModel
from encoder.clip import load_clip, load_tower, save_clip
from encoder.errors import WeightsError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.open_clip_tower import SparseFormerTower
from tests import tiny

WIDTH = 12
CONFIG = {
    "embed_dim": WIDTH,
    "vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
FILES = [
    "config.json",
    "model.safetensors",
    "open_clip_config.json",
    "open_clip_text.safetensors",
    "preprocessor_config.json",
]


def make_tower(**changes) -> SparseFormerVisionModel:
    torch.manual_seed(1)
    return SparseFormerVisionModel(tiny.sparseformer_config(**{"projection_dim": WIDTH, **changes})).eval()


def make_clip(kind: type = open_clip.CLIP, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    clip = kind(**{**CONFIG, **changes}).eval()
    with torch.no_grad():
        clip.logit_scale.fill_(2.5)
    return clip


@pytest.fixture
def tower():
    return make_tower()


@pytest.fixture
def processor():
    return SparseFormerImageProcessor(size=32, crop_size=32, image_mean=[0.1, 0.2, 0.3])


@pytest.fixture
def saved(tmp_path, tower, processor) -> Path:
    save_clip(tmp_path / "clip", make_clip(), tower, processor, CONFIG)
    return tmp_path / "clip"


def test_drop_in(tower, processor):
    clip = make_clip()
    clip.visual = SparseFormerTower(tower, processor)
    pixels = torch.randn(3, 3, 32, 32)
    embeddings = clip.encode_image(pixels)
    assert isinstance(embeddings, torch.Tensor)
    assert torch.equal(embeddings, tower(pixels).image_embeds)
    torch.testing.assert_close(clip.encode_image(pixels, normalize=True).norm(dim=-1), torch.ones(3))
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=12)(["a dog", "a cat"])
    images, texts, scale = clip(pixels, tokens)
    assert (images.shape, texts.shape) == ((3, WIDTH), (2, WIDTH))
    torch.testing.assert_close(clip.get_logits(pixels, tokens)[0], scale * images @ texts.T)
    assert clip.encode_image(torch.randn(1, 3, 20, 48)).shape == (1, WIDTH), "any size"
    clip.visual.num_tokens = 3
    assert torch.equal(clip.encode_image(pixels), tower(pixels, num_tokens=3).image_embeds)
    assert not torch.equal(clip.encode_image(pixels), embeddings)


def test_open_clip_finds_the_preprocessing(tower, processor):
    clip = make_clip()
    clip.visual = SparseFormerTower(tower, processor)
    cfg = open_clip.get_model_preprocess_cfg(clip)
    assert cfg["size"] == [32, 32]
    assert SparseFormerImageProcessor.from_open_clip(clip).to_dict() == processor.to_dict()
    assert clip.visual.image_size == (32, 32)
    assert clip.visual.image_mean == (0.1, 0.2, 0.3)


def test_zero_shot_tells_images_apart(saved, processor):
    """Class weights from open_clip's own tokenizer, templates and text tower; predictions follow the image tower."""
    clip, _, tokenizer = load_clip(saved)
    names = ["red circle", "blue square", "green star"]
    weights = open_clip.build_zero_shot_classifier(clip, tokenizer, names, ["a picture of a {}.", "one {}"])
    assert weights.shape == (WIDTH, 3)
    teacher = open_clip.build_zero_shot_classifier(make_clip(), tokenizer, names, ["a picture of a {}.", "one {}"])
    torch.testing.assert_close(weights, teacher)
    # A projection under which one image lies at each class, so that the truth is known.
    pixels = torch.randn(3, 3, 32, 32)
    model = clip.visual.model.double()
    pixels, weights = pixels.double(), weights.double()
    with torch.no_grad():
        pooled = model(pixels).pooler_output
        model.projection.weight.copy_((torch.linalg.pinv(pooled) @ weights.T[[2, 0, 1]]).T)
        logits = clip.encode_image(pixels, normalize=True) @ weights
    assert logits.argmax(dim=-1).tolist() == [2, 0, 1]


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_save_and_load(tmp_path, tower, processor, kind):
    clip = make_clip(kind, quick_gelu=True, init_logit_bias=-3.0)
    directory = tmp_path / "made" / "clip"
    config = {**CONFIG, "quick_gelu": True, "init_logit_bias": 0.0}
    save_clip(directory, clip, tower, processor, config)
    assert sorted(file.name for file in directory.iterdir()) == FILES, "no temporary folder is left"
    loaded, image_processor, tokenizer = load_clip(directory)
    assert type(loaded) is kind
    assert not loaded.training
    assert image_processor.to_dict() == processor.to_dict()
    pixels, tokens = torch.randn(2, 3, 32, 32), tokenizer(["a dog", "two red circles"])
    assert tokens.shape == (2, 12)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(pixels), tower(pixels).image_embeds)
        torch.testing.assert_close(loaded.encode_text(tokens), clip.encode_text(tokens))
    weights, reference = loaded.visual.model.state_dict(), tower.state_dict()
    assert weights.keys() == reference.keys()
    assert all(torch.equal(weights[name], reference[name]) for name in weights)
    assert loaded.logit_scale == 2.5
    assert loaded.logit_bias == -3.0


def test_the_directory_is_also_a_plain_transformers_model(saved, tower):
    pixels = torch.randn(1, 3, 32, 32)
    model = AutoModel.from_pretrained(saved)
    torch.testing.assert_close(model(pixels).image_embeds, tower(pixels).image_embeds)
    assert type(AutoImageProcessor.from_pretrained(saved)) is SparseFormerImageProcessor


def test_saving_again_replaces(saved, tower, processor):
    clip = make_clip()
    with torch.no_grad():
        clip.logit_scale.fill_(1.0)
        clip.text_projection.mul_(2)
    save_clip(saved, clip, tower, processor, CONFIG)
    loaded = load_clip(saved)[0]
    assert loaded.logit_scale == 1.0
    assert torch.equal(loaded.text_projection, clip.text_projection)


@pytest.mark.parametrize(
    ("made_with", "config"),
    [
        ({"quick_gelu": True}, CONFIG),
        ({}, {**CONFIG, "quick_gelu": True}),
        ({}, {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "heads": 4}}),
        ({}, {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "no_causal_mask": True}}),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, tower, processor, made_with, config):
    with pytest.raises(ValueError, match="model_config does not describe this CLIP"):
        save_clip(tmp_path / "clip", make_clip(**made_with), tower, processor, config)
    assert not (tmp_path / "clip").exists()


def test_a_tokenizer_that_is_not_open_clips(tmp_path, tower, processor):
    words = ["[PAD]", "[UNK]", "a", "two", "image", "small", "words", "more"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        tmp_path / "t"
    )
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path / "t"), context_length=12)
    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": 8, "hf_tokenizer_name": "nobody/nothing"}}
    clip = make_clip(text_cfg=config["text_cfg"])
    with pytest.raises(ValueError, match="nobody/nothing"):
        save_clip(tmp_path / "clip", clip, tower, processor, config)
    save_clip(tmp_path / "clip", clip, tower, processor, config, tokenizer=tokenizer)
    loaded, _, again = load_clip(tmp_path / "clip")
    assert again(["two small dogs"])[0, :4].tolist() == [3, 5, 1, 0]
    torch.testing.assert_close(loaded.encode_text(again(["an image"])), clip.encode_text(tokenizer(["an image"])))


def test_the_directory_needs_no_other(tmp_path, tower, processor):
    """open_clip's own text tower of transformers is built from a path, which may be gone where the student is used."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    there = str(tmp_path / "text")
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(there)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    RobertaConfig(vocab_size=8, pad_token_id=0, **sizes).save_pretrained(there)
    text = {"hf_model_name": there, "hf_tokenizer_name": there, "hf_model_pretrained": False, "context_length": 6}
    config = {**CONFIG, "text_cfg": {**text, "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}}
    clip = open_clip.CustomTextCLIP(**config).eval()
    tokenizer = open_clip.tokenizer.HFTokenizer(there, context_length=6)
    save_clip(tmp_path / "student", clip, tower, processor, config, tokenizer.tokenizer)
    expected = clip.encode_text(tokenizer(["a dog"]))
    shutil.rmtree(there)
    (tmp_path / "student").rename(tmp_path / "moved")
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "moved").glob("*.json"))
    loaded, _, again = load_clip(tmp_path / "moved")
    torch.testing.assert_close(loaded.encode_text(again(["a dog"])), expected)


def test_parts_that_do_not_make_a_clip(tmp_path, tower, processor):
    clip = make_clip()
    with pytest.raises(ValueError, match="projection_dim=9"):
        save_clip(tmp_path, clip, make_tower(projection_dim=9), processor, CONFIG)
    with pytest.raises(ValueError, match="projection_dim is None"):
        SparseFormerTower(make_tower(projection_dim=None), processor)
    with pytest.raises(ValueError, match="SparseFormerVisionModel"):
        save_clip(tmp_path, tower, tower, processor, CONFIG)
    with pytest.raises(ValueError, match="cannot resize"):
        save_clip(tmp_path, clip, tower, SparseFormerImageProcessor(size=40, crop_size=32), CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_text_weights_are_loaded_strictly(saved):
    path = saved / "open_clip_text.safetensors"
    weights = load_file(path)
    broken = {name: weight for name, weight in weights.items() if name not in ("ln_final.bias", "text_projection")}
    broken["ln_final.weight"] = torch.ones(3)
    broken["visual.proj"] = torch.ones(3)
    save_file(broken, path)
    with pytest.raises(WeightsError) as error:
        load_clip(saved)
    message = str(error.value)
    assert str(path) in message
    for name in (
        "text_projection",
        "ln_final.bias",
        "unexpected: visual.proj",
        "ln_final.weight (3,) instead of (16,)",
    ):
        assert name in message


def test_the_tower_is_loaded_strictly(saved):
    path = saved / "model.safetensors"
    weights = load_file(path)
    del weights["norm.weight"]
    weights["surplus"] = torch.ones(3)
    weights["norm.bias"] = torch.ones(3)
    save_file(weights, path, metadata={"format": "pt"})
    for load in (load_clip, load_tower):
        with pytest.raises(WeightsError) as error:
            load(saved)
        message = str(error.value)
        for part in (str(saved), "missing: norm.weight", "unexpected: surplus", "norm.bias"):
            assert part in message
        assert "\n" not in message


def test_a_student_in_half_precision_is_loaded_in_one_dtype(tmp_path, tower, processor):
    clip = make_clip()
    save_clip(tmp_path, clip, tower.half(), processor, CONFIG)
    loaded, _, tokenizer = load_clip(tmp_path)
    assert {weight.dtype for weight in loaded.state_dict().values() if weight.is_floating_point()} == {torch.float32}
    loaded(torch.zeros(1, 3, 32, 32), tokenizer(["a dog"]))


@pytest.mark.parametrize("file", ["model", "open_clip_text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(saved, file, value):
    path = saved / f"{file}.safetensors"
    weights = load_file(path)
    name = "norm.weight" if file == "model" else "ln_final.weight"
    weights[name][3] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{saved}.*: {name} holds NaN or infinite values"):
        load_clip(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_named(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=str(saved)):
        load_clip(saved)
    (saved / name).unlink()
    with pytest.raises(WeightsError, match=str(saved)):
        load_clip(saved)


def test_directories_of_something_else(saved, tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no such file"):
        load_tower(tmp_path)
    (saved / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(WeightsError, match="model_type is 'clip'"):
        load_clip(saved)
    (saved / "open_clip_config.json").write_text(json.dumps({"vision_cfg": {}}))
    with pytest.raises(WeightsError, match="not open_clip's configuration"):
        load_clip(saved)


def test_lock_leaves_the_last_groups_trainable(tower, processor):
    clip = make_clip()
    clip.visual = SparseFormerTower(tower, processor)
    block = f"layers.{len(tower.layers) - 1}."
    expected = {
        0: set(),
        1: {"projection.weight"},
        2: {"projection.weight", "norm.weight", "norm.bias"}
        | {name for name, _ in tower.named_parameters() if name.startswith(block)},
        9: {name for name, _ in tower.named_parameters()},
    }
    for groups, names in expected.items():
        clip.lock_image_tower(unlocked_groups=groups)
        assert {name for name, weight in tower.named_parameters() if weight.requires_grad} == names


def test_gradient_checkpointing(tower, processor):
    clip = make_clip()
    clip.visual = SparseFormerTower(tower, processor)
    clip.train()
    pixels = torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        clip.set_grad_checkpointing(enable)
        assert tower.layers[-1].gradient_checkpointing is enable
        clip.zero_grad()
        clip.encode_image(pixels).square().sum().backward()
        gradients.append(tower.early_convolution.conv.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)
