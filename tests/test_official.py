"""The published checkpoints: names and shapes of all seven, downloads over real HTTP, damaged and hostile files."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import pickle
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from encoder import PRESETS, SparseFormerConfig, SparseFormerVisionModel, official
from encoder.configuration import bootstrapped_units, v1_units
from encoder.errors import WeightsError
from encoder.official import load_official, load_published_weights, published_names
from encoder.weights import check_finite, download, read_weights
from tests import loopback

CHECKPOINTS = json.loads(
    gzip.decompress(Path(__file__).with_name("golden").joinpath("official_checkpoints.json.gz").read_bytes())
)["checkpoints"]
NAME = "sparseformer_v1_tiny"


def published_file(name: str = NAME) -> dict[str, torch.Tensor]:
    """Every weight of a published file; the i-th is i / 1000 throughout, one number of storage, so files are small."""
    shapes = CHECKPOINTS[name]["shapes"]
    return {key: torch.tensor(i / 1000).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


@pytest.fixture
def server(monkeypatch, tmp_path_factory):
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    with loopback.serving(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("published") / "file.pth"
    torch.save({"model": published_file()}, path)
    assert path.stat().st_size < 100_000
    return path.read_bytes()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_names_shapes_and_statistics(name):
    with torch.device("meta"):
        model = SparseFormerVisionModel(SparseFormerConfig(**PRESETS[name].config))
    published = CHECKPOINTS[name]
    ours = model.state_dict()
    names = published_names(model)
    assert {key: list(ours[name].shape) for key, name in names.items()} == published["shapes"]
    assert sorted(names.values()) == sorted(ours)
    assert sum(math.prod(weight.shape) for weight in ours.values()) == published["parameters"]
    assert [list(PRESETS[name].mean), list(PRESETS[name].std)] == published["normalization_factor"]


def small_model(family: str) -> SparseFormerVisionModel:
    common = {"num_latent_tokens": 5, "num_sampling_points": 4, "early_channels": 8, "projection_dim": 6}
    if family == "v1":
        fields = {key: value for key, value in PRESETS[NAME].config.items() if key not in common}
        fields |= {"units": v1_units(16, 32, 2), "num_attention_heads": 4, **common}
    else:
        fields = {"units": bootstrapped_units(16, 32, 2), "attention_head_dim": 8, "mixing_hidden_size": 8, **common}
    return SparseFormerVisionModel(SparseFormerConfig(**fields))


@pytest.mark.parametrize("family", ["v1", "btsp"])
def test_published_names_carry_a_model_exactly(family):
    torch.manual_seed(0)
    one, two = small_model(family).eval(), small_model(family).eval()
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    images = torch.randn(2, 3, 32, 24)
    before = one(images).image_embeds
    assert not torch.allclose(two(images).image_embeds, before)
    ours = one.state_dict()
    state = {published: ours[name] for published, name in published_names(one).items()}
    assert any(key.startswith("layers.0.roi_adjust_module.") for key in state)
    load_published_weights(two, state, "a test")
    assert torch.equal(two(images).image_embeds, before)
    next(iter(state.values())).zero_()
    assert torch.equal(two(images).image_embeds, before), "the weights are copied"
    assert all(weight.requires_grad for weight in two.parameters())


def test_load_from_a_state_dict_a_path_and_safetensors(tmp_path):
    state = published_file()
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "file.safetensors")
    for weights in (state, tmp_path / "plain.pth", str(tmp_path / "wrapped.pth"), tmp_path / "file.safetensors"):
        model = load_official(NAME, weights)
        assert not model.training
        assert model.config.num_tokens == 49
        ours = model.state_dict()
        for published, name in published_names(model).items():
            assert ours[name].dtype == torch.float32
            assert ours[name].is_contiguous()
            assert torch.equal(ours[name], state[published])


def test_config_overrides():
    assert load_official(NAME, published_file(), image_size=384, drop_path_rate=0.0).config.image_size == 384
    with pytest.raises(ValueError, match="no field num_tokenz"):
        load_official(NAME, published_file(), num_tokenz=3)
    with pytest.raises(WeightsError, match=r"wrong shape: .*initial_roi.weight \(49, 4\) instead of \(16, 4\)"):
        load_official(NAME, published_file(), num_latent_tokens=16)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(WeightsError, match="sparseformer_v2") as error:
        load_official("sparseformer_v2", {})
    assert all(name in str(error.value) for name in PRESETS)


def test_every_name_at_fault_is_listed():
    state = published_file()
    del state["norm.weight"], state["layers.0.norm1.bias"]
    state["layers.99.extra"] = torch.zeros(1)
    state["proj.bias"] = torch.zeros(10)
    with pytest.raises(WeightsError) as error:
        load_official(NAME, state)
    message = str(error.value)
    assert "missing: layers.0.norm1.bias, norm.weight;" in message
    assert "unexpected: layers.99.extra;" in message
    assert "wrong shape: proj.bias (10,) instead of (1000,)" in message
    assert "\n" not in message


class Hostile:
    def __reduce__(self):
        return os.system, ("touch HOSTILE",)


def test_large_numbers_are_no_infinity():
    check_finite(
        "x", {"half": torch.full((9,), 60000.0).half(), "none": torch.empty(0), "ids": torch.arange(3)}.items()
    )
    with pytest.raises(WeightsError, match="x: b holds NaN or infinite values; take another copy or an earlier one"):
        check_finite("x", {"a": torch.zeros(2), "b": torch.tensor([0, float("nan"), 1]).bfloat16()}.items())


def test_files_that_are_not_weights(tmp_path, monkeypatch, small_file):
    monkeypatch.chdir(tmp_path)
    contents = {
        "half.pth": small_file[: len(small_file) // 2],
        "hostile.pth": pickle.dumps({"norm.weight": Hostile()}, protocol=2),
        "half.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
        with pytest.raises(WeightsError, match=name) as error:
            load_official(NAME, name)
        assert "\n" not in str(error.value)
    assert not Path("HOSTILE").exists()
    torch.save({"norm.weight": 3}, "numbers.pth")
    for given, words in (
        ("numbers.pth", "not a state dict"),
        ("absent.pth", "no such file"),
        ({"a": 1}, "not a state dict"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_official(NAME, given)


def test_the_release_file_is_downloaded_once(server, tmp_path, monkeypatch, small_file):
    assert official.RELEASE.format(name=NAME).endswith("/v2.0.0-refactor/sparseformer_v1_tiny_converted.pth")
    monkeypatch.setattr(official, "RELEASE", server.url + "/{name}_converted.pth")
    (server.folder / f"{NAME}_converted.pth").write_bytes(small_file)
    for _ in range(2):
        model = load_official(NAME, cache_dir=tmp_path / "cache")
        assert model.norm.weight.min() == model.norm.weight.max()
    assert len(server.requests) == 1
    [cached] = (tmp_path / "cache").iterdir()
    assert cached.read_bytes() == small_file


def test_two_addresses_with_one_file_name(server, tmp_path):
    for place in "ab":
        (server.folder / place).mkdir()
        (server.folder / place / "file.pth").write_text(place)
    assert [download(f"{server.url}/{place}/file.pth", tmp_path).read_text() for place in "ab"] == ["a", "b"]


def test_the_cache_is_torchs_own_folder(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (server.folder / "file.pth").write_bytes(b"content")
    assert download(f"{server.url}/file.pth").parent == tmp_path / "hub" / "checkpoints"


def test_a_truncated_download_leaves_nothing(server, tmp_path, small_file):
    (server.folder / "file.pth").write_bytes(small_file[:1000])
    with pytest.raises(WeightsError, match=f"{server.url}/file.pth: cut short, or no weights"):
        load_official(NAME, f"{server.url}/file.pth", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (server.folder / "file.pth").write_bytes(small_file)
    load_official(NAME, f"{server.url}/file.pth", cache_dir=tmp_path)


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    (server.folder / "file.pth").write_bytes(b"content")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.hub.shutil.move", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download(f"{server.url}/file.pth", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hash_in_the_name_is_checked(server, tmp_path, small_file):
    digits = hashlib.sha256(small_file).hexdigest()[:8]
    for name in (f"right-{digits}.pth", "wrong-01234567.pth"):
        (server.folder / name).write_bytes(small_file)
    load_official(NAME, f"{server.url}/right-{digits}.pth", cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r'cannot be downloaded: invalid hash value \(expected "01234567"') as error:
        load_official(NAME, f"{server.url}/wrong-01234567.pth", cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_server_without_the_file_and_no_server(server, tmp_path):
    with pytest.raises(WeightsError, match="404") as error:
        load_official(NAME, f"{server.url}/absent.pth", cache_dir=tmp_path)
    assert f"{server.url}/absent.pth" in str(error.value)
    assert "pass weights=PATH" in str(error.value)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.pth"
        with pytest.raises(WeightsError, match="cannot be downloaded") as error:
            load_official(NAME, url, cache_dir=tmp_path)
    assert url in str(error.value)
    assert "pass weights=PATH" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("encoder.weights._TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts for it
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.pth"
        with pytest.raises(WeightsError, match=r"cannot be downloaded: .*timed out"):
            download(url, tmp_path)
    assert socket.getdefaulttimeout() is None
    assert list(tmp_path.iterdir()) == []


def test_read_weights_refuses_a_folder(tmp_path):
    with pytest.raises(WeightsError, match="is no regular file"):
        read_weights(tmp_path)
