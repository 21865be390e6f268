"""Scenes written out in every format and read back by the ordinary readers."""

from __future__ import annotations

import json
import tarfile

import datasets
import numpy as np
import pytest

from data import InputError, load_conversations, open_images, open_labeled
from data.synthetic.captions import CLASS_NAMES
from data.synthetic.datasets import SceneConversations, ZeroShotScenes
from data.synthetic.export import export_scenes
from data.synthetic.scene import SceneConfig, make_scene
from mllm.cli import main
from tests.shapes import EXAMPLES

CONFIG = SceneConfig(height=32, width=40, text_probability=0.5, seed=3)


def pixels(split: str, indices: range) -> list[bytes]:
    return [make_scene(split, index, CONFIG).image().tobytes() for index in indices]


@pytest.mark.parametrize("format", ["folder", "webdataset", "parquet"])
def test_images_come_back(tmp_path, format):
    out = tmp_path / "new" / "scenes"
    address = export_scenes(out, format, "validation", 7, CONFIG, start=2, samples_per_file=3)
    found = open_images(address)
    samples = [found[index] for index in range(len(found))] if format == "folder" else list(found)
    assert sorted(sample["image"].tobytes() for sample in samples) == sorted(pixels("validation", range(2, 9)))
    assert {sample["image"].size for sample in samples} == {(40, 32)}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scenes"]
    assert out.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


def test_a_folder_per_class(tmp_path):
    export_scenes(tmp_path / "out", "classes", "validation", 70, CONFIG)
    labeled = open_labeled(tmp_path / "out")
    images, names = labeled.dataset, labeled.class_names
    expected = ZeroShotScenes("validation", 70, CONFIG)
    assert sorted(names) == sorted(CLASS_NAMES)
    of_class = {name: [] for name in names}
    for sample in (expected[index] for index in range(70)):
        of_class[CLASS_NAMES[sample["label"]]].append(sample["image"].tobytes())
    for sample in (images[index] for index in range(len(images))):
        assert sample["image"].tobytes() in of_class[names[sample["label"]]]
    assert len(images) == 70


def check_facts(facts: dict, index: int) -> None:
    scene = make_scene("test", index, CONFIG)
    assert (facts["split"], facts["index"], facts["text"]) == ("test", index, scene.text)
    assert facts["caption"]
    assert [(o["shape"], o["color"], o["size"]) for o in facts["objects"]] == [
        (o.shape, o.color, o.size) for o in scene.objects
    ]
    np.testing.assert_allclose([o["box"] for o in facts["objects"]], [o.box for o in scene.objects], atol=1e-6)


def test_facts_of_a_folder(tmp_path):
    export_scenes(tmp_path / "out", "folder", "test", 5, CONFIG)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    for index, facts in enumerate(lines):
        check_facts(facts, index)
        assert (tmp_path / "out" / facts["file_name"]).exists()
    # the layout is what `datasets` calls an imagefolder
    rows = list(datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True))
    assert [row["caption"] for row in rows] == [facts["caption"] for facts in lines]


def test_facts_of_webdataset_shards(tmp_path):
    export_scenes(tmp_path / "out", "webdataset", "test", 5, CONFIG, samples_per_file=2)
    shards = sorted((tmp_path / "out").iterdir())
    assert [shard.name for shard in shards] == [f"scenes-{number:06d}.tar" for number in range(3)]
    names = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                names.append(name)
                if name.endswith(".json"):
                    check_facts(json.load(tar.extractfile(name)), int(name[:8]))
    assert names == [f"{number:08d}.{extension}" for number in range(5) for extension in ("png", "txt", "json")]


def test_facts_of_parquet(tmp_path):
    export_scenes(tmp_path / "out", "parquet", "test", 5, CONFIG, samples_per_file=2)
    assert len(list((tmp_path / "out" / "data").glob("test-*-of-00003.parquet"))) == 3
    rows = list(datasets.load_dataset(str(tmp_path / "out"), split="test", streaming=True))
    for index, row in enumerate(rows):
        check_facts(row, index)
        assert row["image"].tobytes() == pixels("test", range(index, index + 1))[0]
    assert len(rows) == 5


def test_conversations_come_back(tmp_path):
    path = export_scenes(tmp_path / "out", "llava", "train", 6, CONFIG, start=1)
    found = load_conversations(path)
    written = SceneConversations("train", 6, CONFIG, start=1)
    assert len(found) == 6
    for index in range(6):
        assert found[index]["id"] == written[index]["id"]
        assert found[index]["messages"] == written[index]["messages"]
        assert found[index]["images"][0].tobytes() == written[index]["images"][0].tobytes()
    assert json.loads((tmp_path / "out" / "conversations.json").read_text())[0]["image"] == "images/00000001.png"


def test_every_export_is_the_same(tmp_path):
    for name in ("first", "second"):
        export_scenes(tmp_path / name, "webdataset", "train", 2, CONFIG)
    first, second = ((tmp_path / name / "scenes-000000.tar").read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(InputError, match="out: the disk is full"):
        export_scenes(tmp_path / "out", "folder", "train", 1, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    export_scenes(tmp_path / "out", "folder", "train", 1, CONFIG)
    assert len(open_images(tmp_path / "out")) == 1


def test_command(tmp_path, capsys):
    out = tmp_path / "scenes"
    flags = ["--format", "llava", "--split", "test", "--count", "2", "--size", "32x40", "--seed", "3"]
    assert main(["synthetic", "--out", str(out), *flags]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}/conversations.json\n"
    image = load_conversations(printed.out.strip())[1]["images"][0]
    expected = make_scene("test", 1, SceneConfig(height=32, width=40, seed=3)).image()
    assert image.tobytes() == expected.tobytes()


def test_the_examples_in_the_repository(tmp_path):
    export_scenes(tmp_path / "out", "examples", "test", len(list(EXAMPLES.glob("*.png"))))
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (EXAMPLES / file.name).read_bytes()
