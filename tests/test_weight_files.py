"""Files of weights as they lie on disks: OpenAI's archives, training checkpoints, towers alone, and damaged ones."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from encoder.errors import WeightsError
from encoder.teachers import TeacherError, load_teacher
from encoder.torchscript import read_torchscript
from encoder.weights import read_weights
from tests import tiny

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def clip(monkeypatch, tmp_path):
    """A model of open_clip's table, whose only tag needs QuickGELU."""
    model, file = tiny.named_clip(monkeypatch, tmp_path, "tiny-clip", quick_gelu=True)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"openai": {"quick_gelu": True}})
    os.remove(file)
    return model


def check(file: Path, clip: torch.nn.Module, atol: float = 1e-5) -> None:
    loaded = load_teacher("tiny-clip", str(file))
    torch.testing.assert_close(loaded.teacher(IMAGES), clip.encode_image(IMAGES), rtol=0, atol=atol)
    words = loaded.text.tokenizer(["a dog"])
    torch.testing.assert_close(loaded.text.clip.encode_text(words), clip.encode_text(words), rtol=0, atol=atol)


class OpenAIs(torch.nn.Module):
    """A CLIP as OpenAI published it: in half precision, with numbers of its size among its buffers."""

    def __init__(self, clip):
        super().__init__()
        self.visual, self.transformer, self.token_embedding = clip.visual, clip.transformer, clip.token_embedding
        self.positional_embedding, self.text_projection = clip.positional_embedding, clip.text_projection
        self.ln_final, self.logit_scale = clip.ln_final, clip.logit_scale
        self.register_buffer("input_resolution", torch.tensor(32))
        self.register_buffer("context_length", torch.tensor(16))
        self.register_buffer("vocab_size", torch.tensor(49408))

    def forward(self, images):
        return self.visual(images) * self.logit_scale.exp()


def test_openais_archive(clip, tmp_path):
    for parameter in clip.parameters():  # numbers that half precision has
        parameter.data = parameter.data.half().float()
    expected = {name: weight.clone() for name, weight in clip.state_dict().items()}
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.trace(OpenAIs(clip), IMAGES).half().save(str(file))
    weights = read_weights(file)
    clip.float()
    assert weights["visual.conv1.weight"].dtype == torch.float16
    assert set(weights) - set(expected) == {"input_resolution", "context_length", "vocab_size"}
    assert all(torch.equal(weights[name].float(), weight) for name, weight in expected.items())
    check(file, clip)
    torch.save(weights | {"transformer.resblocks.0.attn_mask": clip.attn_mask}, tmp_path / "scripted.pt")
    check(tmp_path / "scripted.pt", clip)


def test_an_archives_code_is_not_run_and_its_pickle_is_restricted(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'HOSTILE'}",)

    file = tmp_path / "archive.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Hostile()}, protocol=2))
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/code/__torch__.py", "this is no code")
    with pytest.raises(pickle.UnpicklingError, match=r"system, which is neither a module nor a tensor"):
        read_torchscript(file)
    with pytest.raises(WeightsError, match="neither a module nor a tensor") as error:
        read_weights(file)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "HOSTILE").exists()


def prefixed(weights, prefix):
    return {prefix + name: weight for name, weight in weights.items()}


TRAINED = {
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model": lambda w: {"model": w, "args": argparse.Namespace(lr=0.1)},
    "teacher": lambda w: {"student": prefixed(w, "student."), "teacher": w},
    "ema": lambda w: {"state_dict": prefixed(w, "x."), "state_dict_ema": w},
    "nested": lambda w: {"model": {"state_dict": w}},
    "ddp": lambda w: {"state_dict": prefixed(w, "module.")},
    "lightning": lambda w: {"state_dict": prefixed(w, "model."), "pytorch-lightning_version": "2.5"},
    "compiled": lambda w: prefixed(w, "_orig_mod."),
    "compiled tower": lambda w: {name.replace("visual.", "visual._orig_mod."): each for name, each in w.items()},
    "all at once": lambda w: {"model": prefixed(w, "module._orig_mod.")},
    "numpy numbers": lambda w: {
        "state_dict": w,
        "best": np.float64(0.5),
        "step": np.int64(4),
        "history": np.ones(3, dtype=np.float32),
        "optimizer": {"param_groups": [{"lr": np.float32(0.1)}]},
    },
    "numpy weights": lambda w: {name: weight.numpy() for name, weight in w.items()},
    "half": lambda w: {name: weight.bfloat16() for name, weight in w.items()},
}


@pytest.mark.parametrize("kind", TRAINED)
def test_training_checkpoints(clip, tmp_path, kind):
    torch.save(TRAINED[kind](clip.state_dict()), tmp_path / "file.pt")
    check(tmp_path / "file.pt", clip, atol=0.05 if kind == "half" else 1e-5)


def test_numpy_1s_names_of_numbers(tmp_path):
    """A checkpoint of an older NumPy, whose names of modules have no underscore."""
    torch.save({"state_dict": {"a": torch.ones(2)}, "best": np.float64(0.5)}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name.replace("new", "old", 1), new.read(name).replace(b"numpy._core", b"numpy.core"))
    assert torch.equal(read_weights(tmp_path / "old.pt")["a"], torch.ones(2))


def test_a_vision_tower_alone(clip, tmp_path, caplog):
    tower = clip.visual.state_dict()
    for number, weights in enumerate((tower, prefixed(tower, "visual."))):
        save_file({name: each.contiguous() for name, each in weights.items()}, tmp_path / f"{number}.safetensors")
        loaded = load_teacher("tiny-clip", str(tmp_path / f"{number}.safetensors"))
        assert loaded.text is None
        torch.testing.assert_close(loaded.teacher(IMAGES), clip.encode_image(IMAGES))


def test_transformers_weights_for_a_name_of_open_clip(clip, tmp_path):
    tower = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3}
    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tower | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(vision_config=vision, text_config=text | {"max_position_embeddings": 16}, projection_dim=24)
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_teacher("tiny-clip", str(tmp_path / "model.safetensors"))
    expected = model.get_image_features(IMAGES).pooler_output
    torch.testing.assert_close(loaded.teacher(IMAGES), expected, rtol=0, atol=1e-5)
    words = loaded.text.tokenizer(["a dog"])
    expected = model.get_text_features(words).pooler_output
    torch.testing.assert_close(loaded.text.clip.encode_text(words), expected, rtol=0, atol=1e-5)
    other = SiglipModel(SiglipConfig(vision_config=vision, text_config=text | {"vocab_size": 50}))
    other.save_pretrained(tmp_path / "siglip")
    with pytest.raises(TeacherError, match=r"transformers' weights of another model than CLIP .* transformers:DIR"):
        load_teacher("tiny-clip", str(tmp_path / "siglip" / "model.safetensors"))


def test_positions_of_another_image_size(clip, tmp_path):
    torch.save(clip.state_dict(), tmp_path / "file.pt")
    loaded = load_teacher("tiny-clip", str(tmp_path / "file.pt"), image_size=48)
    assert (loaded.teacher.num_tokens, loaded.teacher.image_size) == (37, 48)
    weights = clip.state_dict()
    open_clip.model.resize_pos_embed(weights, loaded.text.clip)
    assert torch.equal(loaded.teacher.tower.positional_embedding, weights["visual.positional_embedding"])


def test_timms_checkpoints(tmp_path, caplog):
    model = timm.create_model("test_vit", num_classes=7).eval()
    features = timm.create_model("test_vit", num_classes=0)
    features.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
    torch.save({"state_dict": prefixed(model.state_dict(), "module."), "best": np.float64(1)}, tmp_path / "own.pth")
    dino = prefixed(features.state_dict(), "module.backbone.") | {"module.head.mlp.0.weight": torch.ones(2)}
    contents = {"student": dino, "teacher": dino, "args": argparse.Namespace(arch="vit"), "epoch": 1}
    torch.save(contents, tmp_path / "dino.pth")
    together = prefixed(dino, "teacher.") | prefixed(dino, "student.")
    torch.save({"state_dict": together}, tmp_path / "together.pth")
    expected = features.eval()(torch.zeros(1, 3, 160, 160))
    for file in ("own.pth", "dino.pth", "together.pth"):
        teacher = load_teacher("timm:test_vit", str(tmp_path / file)).teacher
        assert teacher.embed_dim == 64
        assert torch.equal(teacher(torch.zeros(1, 3, 160, 160)), expected)
        assert "state_dict" not in teacher.tower.pretrained_cfg
    resized = load_teacher("timm:test_vit", str(tmp_path / "own.pth"), image_size=96).teacher
    assert (resized.image_size, resized.num_tokens) == (96, 37)


def damaged(directory: Path) -> dict[str, str]:
    """Files that are no weights, and what is said of them."""
    clips = {"visual.conv1.weight": torch.ones(1), **{f"wrong.{n}": torch.ones(1) for n in range(900)}}
    contents = {
        "empty.pt": b"",
        "page.pt": b"<html>403</html>",
        "page.safetensors": b"<html>403</html>",
        "lfs.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
        "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    torch.save([1, 2], directory / "list.pt")
    torch.save({}, directory / "nothing.pt")
    torch.save({"state_dict": {}, "args": argparse.Namespace(a=1)}, directory / "namespace.pt")
    torch.save(clips, directory / "wrong.pt")
    torch.save(Path("x"), directory / "object.pt")
    os.mkfifo(directory / "pipe.pt")
    (directory / "folder.pt").mkdir()
    (directory / "loop.pt").symlink_to("loop.pt")
    return {
        "empty.pt": "is empty",
        "page.pt": "no readable file of weights",
        "page.safetensors": "not a readable safetensors file",
        "lfs.pt": "pointer of Git LFS",
        "lfs.safetensors": "pointer of Git LFS",
        "list.pt": "not a state dict",
        "nothing.pt": "not a state dict",
        "namespace.pt": "not a state dict",
        "wrong.pt": "and 8",
        "object.pt": "no readable file of weights",
        "pipe.pt": "is no regular file",
        "folder.pt": "is no regular file",
    }


@pytest.mark.parametrize("name", ["tiny-clip", "timm:test_vit"])
def test_what_is_no_weights_is_one_line(clip, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file, words in damaged(tmp_path).items():
        with pytest.raises(TeacherError, match=words) as error:
            load_teacher(name, file)
        assert file in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) <= 300
    with pytest.raises(TeacherError, match="is no regular file"):
        load_teacher(name, "/dev/zero")


LFS = b"version https://git-lfs.github.com/spec/v1\n"
OF_TEXT = b'{"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": {"hidden_size": "x"}}'
DIRECTORIES = [
    ("open_clip", "open_clip_model.safetensors", LFS, "open_clip_model.safetensors: is a pointer of Git LFS"),
    ("open_clip", "open_clip_model.safetensors", b"\x01", "header"),
    ("open_clip", "open_clip_config.json", None, "is no regular file"),
    ("open_clip", "open_clip_config.json", b"[1]", "open_clip: "),
    ("clip", "model.safetensors", LFS, "model.safetensors: is a pointer of Git LFS"),
    ("clip", "model.safetensors", None, "is no regular file"),
    ("clip", "config.json", None, "is no regular file"),
    ("clip", "config.json", b"[1]", "names no architecture"),
    ("clip", "config.json", b"\xff", "is not the directory of a model"),
    ("clip", "config.json", OF_TEXT, "hidden_size"),
    ("clip", "preprocessor_config.json", None, "is no regular file"),
    ("clip", "preprocessor_config.json", b"{", "not a valid JSON"),
]


@pytest.mark.parametrize(("kind", "file", "content", "words"), DIRECTORIES)
def test_damaged_directories_are_one_line(open_clip_dir, clip_dir, tmp_path, monkeypatch, kind, file, content, words):
    monkeypatch.chdir(tmp_path)  # a long path would be shortened
    directory = Path(shutil.copytree({"open_clip": open_clip_dir, "clip": clip_dir}[kind], "copy"))
    (directory / file).unlink()
    if content is None:
        os.mkfifo(directory / file)
    else:
        (directory / file).write_bytes(content)
    with pytest.raises(TeacherError, match=words) as error:
        load_teacher(str(directory))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_a_rehearsal_looks_for_no_file():
    assert load_teacher("timm:vit_tiny_patch16_224", "/weights/file.pth", random=True).teacher.embed_dim == 1000
    tagged = load_teacher("timm:vit_tiny_patch16_224", "augreg_in21k", random=True).teacher
    assert tagged.embed_dim == 21843


def test_timm_leaves_no_classifier_at_random(tmp_path):
    save_for_hf(timm.create_model("test_vit", num_classes=3), str(tmp_path), safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_classes": 99}))
    with pytest.raises(TeacherError, match="num_classes is 99, in model_args 3"):
        load_teacher(str(tmp_path))
