"""`mllm probe`: figures by hand, the cache, any encoder, and real-looking sources through the command line."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data import open_labeled
from data.errors import InputError
from data.materials import CACHE, MATERIALS
from encoder.evaluation import probing
from encoder.evaluation.probing import Features, few_shot_accuracy, knn_accuracy, linear_probe
from mllm.cli import main
from tests import tiny


def features(count: int, classes: int = 3, noise: float = 0.3, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    vectors = torch.eye(8)[labels] + noise * torch.randn(count, 8, generator=generator)
    return Features(F.normalize(vectors, dim=1), labels, [f"class {n}" for n in range(classes)])


def test_classes_that_lie_apart_are_told_apart():
    train, test = features(200), features(50, seed=1)
    assert knn_accuracy(train, test, [1, 5, 500])[5] > 0.9
    mean, deviation = few_shot_accuracy(train, test, 5)
    assert mean > 0.9
    assert 0 < deviation < 0.1
    lines = []
    probe = linear_probe(train, test, epochs=10, tell=lines.append)
    assert (len(lines), len(probe.sweep), probe.top_1 > 0.9) == (10, 13, True)
    assert probe.sweep[probe.rate] == max(probe.sweep.values())
    assert linear_probe(train, test, epochs=10) == probe
    with pytest.raises(InputError, match="at least 10"):
        linear_probe(features(9), test)


def test_neighbors_vote_by_similarity():
    train = Features(
        F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.3], [1.0, 0.35]]), dim=1), torch.tensor([0, 1, 1]), ["a", "b"]
    )
    test = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), ["a", "b"])
    similarity = (train.vectors @ test.vectors[0] / 0.07).exp()
    assert similarity[0] < similarity[1:].sum()
    assert knn_accuracy(train, test, [1, 3]) == {1: 1.0, 3: 0.0}


def test_labels_are_matched_by_name():
    test = Features(torch.eye(2), torch.tensor([0, 1]), ["b", "a"])
    assert test.renumbered(["a", "b", "c"], "there").labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"^there: 'b' is no class"):
        test.renumbered(["a"], "there")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 8), ("test", 3)):
        for number, name in enumerate(("dark", "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                image = np.random.default_rng((number, index, count)).integers(0, 60, (32, 40, 3)) + 190 * number
                tiny.Image.fromarray(image.astype(np.uint8)).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def test_any_encoder_through_the_command_line(folders, encoder_dir, open_clip_dir, monkeypatch, capsys):
    given = ["probe", "train", "test", "--model", str(encoder_dir), "--tokens", "3", "--tokens", "5", "--workers", "0"]
    given += ["--neighbors", "1,3", "--shots", "2", "--epochs", "5", "--cache", "kept", "--json", "out.json"]
    assert main([*given, "--model", str(open_clip_dir)]) == 0
    few, all_of_them, other = json.loads((folders / "out.json").read_text())["models"]
    assert (few["tokens"], all_of_them["tokens"], other["tokens"]) == (3, 5, 17)
    assert (few["features"], other["features"], other["classes"]) == (32, 16, 2)
    assert other["knn_3"] == other["linear"] == other["shots_2"] == 1.0
    assert len(other["sweep"]) == 13
    assert "6 images of test, learned from train" in capsys.readouterr().out

    monkeypatch.setattr(probing, "embed_images", None)  # everything is kept
    assert main([*given, "--model", str(open_clip_dir)]) == 0
    again = json.loads((folders / "out.json").read_text())["models"]
    for before, after in zip((few, all_of_them, other), again, strict=True):
        assert after == {**before, "images_per_second": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "nowhere"}, "nowhere: there is no such folder"),
        ({4: "nothing"}, "--model: nothing"),
        ({5: "--shots", 6: "0"}, "argument --shots: must be at least 1"),
    ],
)
def test_mistakes_are_one_line(folders, encoder_dir, change, message, capsys):
    given = ["probe", "train", "test", "--model", str(encoder_dir), "--neighbors", "1"]
    try:
        code = main([change.get(place, word) for place, word in enumerate(given)])
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert message in error


def test_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    folder = tmp_path / f"fashion-mnist-{MATERIALS['fashion-mnist'].version}" / "usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    pixels = np.arange(3 * 784).astype(np.uint8)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes([9, 0, 2])))
    labeled = open_labeled("fashion-mnist:test:2")
    assert [labeled.class_names[sample["label"]] for sample in labeled.dataset] == ["ankle boot", "T-shirt"]
    assert labeled.dataset[1]["image"].getpixel((0, 0)) == (784 % 256,) * 3
    assert len(open_labeled("fashion-mnist:test").dataset) == 3
    with pytest.raises(InputError, match="write fashion-mnist:train"):
        open_labeled("fashion-mnist:all")
