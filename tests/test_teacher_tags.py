"""TAG=FILE: all that open_clip's table says of a tag holds for weights of it that come from a file."""

from __future__ import annotations

import json
import warnings

import huggingface_hub
import open_clip
import pytest
import torch

from encoder.teachers import TeacherError, load_teacher
from encoder.teachers.from_open_clip import published
from mllm.cli import main
from tests import recipes, tiny

PAIRS = [(name, tag) for name in open_clip.list_models() for tag in open_clip.list_pretrained_tags_by_model(name)]
WITHOUT_QUICK_GELU_IN_THEIR_NAME = [
    ("ViT-B-32", "openai"),
    ("ViT-B-32", "laion400m_e32"),
    ("ViT-L-14-336", "openai"),
    ("ViT-H-14-378", "dfn5b"),
    ("ViT-bigG-14", "metaclip_fullcc"),
    ("RN50", "cc12m"),
]


class Recorder(torch.nn.Module):
    """In the place of open_clip's models: keeps what it is built with."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings
        self.visual = torch.nn.Module()
        self.visual.image_size = settings["vision_cfg"].get("image_size", 224)


@pytest.fixture
def build(monkeypatch):
    """`open_clip.create_model` without weights, and with recorders for models."""
    for kind in ("CLIP", "CustomTextCLIP", "CoCa"):
        monkeypatch.setattr(open_clip.factory, kind, Recorder)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: "weights")
    monkeypatch.setattr(open_clip.factory, "load_checkpoint", lambda *_, **__: {})
    return open_clip.create_model


def test_a_files_tag_builds_what_the_tag_builds(build, tmp_path):
    file = tmp_path / "weights"
    file.touch()
    assert len(PAIRS) > 100
    for name, tag in PAIRS:
        with warnings.catch_warnings():  # open_clip's own, of an activation that is not the tag's
            warnings.simplefilter("ignore")
            theirs = build(name, pretrained=tag)
        ours = build(name, pretrained=str(file), **published(name, tag, str(file)))
        assert ours.visual.preprocess_cfg == theirs.visual.preprocess_cfg
        expected = dict(theirs.settings)
        if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"):
            expected["quick_gelu"] = True
        assert ours.settings == expected, (name, tag)


def test_the_activation_is_the_tags():
    for name, tag in WITHOUT_QUICK_GELU_IN_THEIR_NAME:
        assert published(name, tag, "f")["force_quick_gelu"], (name, tag)
        assert published(name, tag, None)["force_quick_gelu"], (name, tag)
    assert not published("ViT-B-32", "laion2b_s34b_b79k", "f")["force_quick_gelu"]
    assert published("roberta-ViT-B-32", "laion2b_s12b_b32k", "f")["force_quick_gelu"], "its configuration says so"


def test_a_file_without_a_tag():
    assert published("ViT-L-14-336", None, "f")["force_quick_gelu"], "all tags of it agree"
    assert not published("ViT-B-16-SigLIP", None, "f")["force_quick_gelu"]
    assert published("ViT-B-16-SigLIP", None, "f")["force_preprocess_cfg"]["mean"] == (0.5, 0.5, 0.5)
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-bigG-14"):
        with pytest.raises(TeacherError, match=r"f: .* QuickGELU and others GELU.* TAG=FILE .*\(QuickGELU\)") as error:
            published(name, None, "f")
        assert len(str(error.value)) < 300


def test_preprocessing_is_the_tags(caplog):
    def means(name, tag):
        cfg = published(name, tag, "f")["force_preprocess_cfg"]
        return cfg and cfg["mean"]

    assert means("ViT-L-14-quickgelu", "openai") == open_clip.OPENAI_DATASET_MEAN
    assert means("ViT-L-14", "laion2b_s32b_b82k") == (0.5, 0.5, 0.5)
    assert not caplog.text
    assert means("coca_ViT-B-32", None) == open_clip.OPENAI_DATASET_MEAN


@pytest.mark.parametrize("spelling", ["tiny-tagged", "tiny/tagged"])
@pytest.mark.parametrize("pretrained", ["quick={file}", "QUICK={file}"])
def test_a_whole_clip_with_its_tags_activation(monkeypatch, tmp_path, spelling, pretrained):
    model, file = tiny.named_clip(monkeypatch, tmp_path, "tiny-tagged", quick_gelu=True)
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "tiny-tagged", {"quick": {"quick_gelu": True, "mean": (0.1, 0.2, 0.3)}}
    )
    loaded = load_teacher(spelling, pretrained.format(file=file))
    images, words = torch.randn(1, 3, 32, 32), loaded.text.tokenizer(["a dog"])
    torch.testing.assert_close(loaded.teacher(images), model.encode_image(images))
    torch.testing.assert_close(loaded.text.clip.encode_text(words), model.encode_text(words))
    assert loaded.teacher.blocks.fields["hidden_act"] == "quick_gelu"
    assert loaded.text.model_config["quick_gelu"] is True, "which a student's directory keeps"
    assert tuple(loaded.teacher.image_processor.image_mean) == (0.1, 0.2, 0.3)
    assert load_teacher(spelling, pretrained.format(file="gone"), random=True).teacher.embed_dim == 24


def test_a_hubs_model_brings_its_weights():
    with pytest.raises(TeacherError, match="leave pretrained out"):
        load_teacher("hf-hub:some/where", "openai")


@pytest.fixture
def with_a_hubs_tokenizer(monkeypatch, tmp_path):
    """A name whose tokenizer is on a hub that cannot be reached: a file of weights and the tokenizer's directory."""
    _, file = tiny.named_clip(monkeypatch, tmp_path, "tiny-siglip")
    text = open_clip.factory._MODEL_CONFIGS["tiny-siglip"]["text_cfg"]
    text |= {"hf_tokenizer_name": "some/where", "tokenizer_kwargs": {"clean": "canonicalize"}}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    tokenizer = tiny.bpe_tokenizer(tmp_path / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return file, str(tmp_path / "tokenizer")


def test_a_tokenizer_that_is_not_here_is_given(with_a_hubs_tokenizer, monkeypatch, tmp_path):
    file, directory = with_a_hubs_tokenizer
    with pytest.raises(TeacherError, match=r"its tokenizer, some/where, .*; give its directory") as error:
        load_teacher("tiny-siglip", file)
    assert len(str(error.value)) <= 300
    tokenizer = load_teacher("tiny-siglip", file, tokenizer=directory).text.tokenizer
    assert tokenizer(["A Red circle!"]).equal(tokenizer(["a red circle"])), "the configuration's own cleaning"
    assert not tokenizer(["a red circle"]).equal(tokenizer(["a blue circle"]))
    assert load_teacher("tiny-siglip", file, text=False).text is None, "blocks alone need none"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS["tiny-siglip"]["text_cfg"], "vocab_size", 9)
    for wrong in (file, str(tmp_path / "gone"), str(tmp_path), directory):
        with pytest.raises(TeacherError, match=f"tokenizer={wrong}"):
            load_teacher("tiny-siglip", file, tokenizer=wrong)


def test_a_tokenizer_where_none_is_missing(monkeypatch, tmp_path, clip_dir):
    _, file = tiny.named_clip(monkeypatch, tmp_path, "tiny-own")
    for source, pretrained in (("tiny-own", file), (str(clip_dir), None), ("timm:test_vit", None)):
        with pytest.raises(TeacherError, match="leave it out"):
            load_teacher(source, pretrained, tokenizer=str(tmp_path))


def test_a_tokenizer_by_the_command_line(with_a_hubs_tokenizer, tmp_path, capsys):
    file, directory = with_a_hubs_tokenizer
    named = ["--model", "tiny-siglip", "--pretrained", file]
    command = ["zeroshot", "synthetic:test:8:size=32", *named, "--workers", "0", "--json", str(tmp_path / "out.json")]
    assert main([*command, "--tokenizer", directory]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["models"][0]["model"] == "tiny-siglip"
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    stages = [{"name": "a", "steps": 1, "learning_rates": {"focusing": 1e-3}}]
    values = {"pretrained": file, "tokenizer": directory, "stages": stages, "zero_shot": []}
    recipe = recipes.bootstrap(tmp_path / "run", "tiny-siglip", **values, held_out_images=2)
    assert main(["bootstrap", str(recipe)]) == 0
    assert (tmp_path / "run" / "student" / "tokenizer.json").is_file()
