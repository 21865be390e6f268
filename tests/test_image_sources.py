"""Images without labels from folders, shards, datasets and scenes; divided over ranks and workers without loss."""

from __future__ import annotations

import io
import itertools
import json
import sys
import tarfile
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from data import ImageFolder, ImageStream, InputError, open_images
from data.synthetic.datasets import SceneImages
from data.synthetic.scene import SceneConfig, make_scene, parse_size


def image(number: int) -> Image.Image:
    """An image that says which one it is: its red channel is ``number``."""
    return Image.new("RGB", (4, 3), (number, 0, 0))


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    image(number).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(sample: dict) -> int:
    assert sample["image"].mode == "RGB"
    return sample["image"].getpixel((0, 0))[0]


def numbers(samples) -> list[int]:
    return [number_of(sample) for sample in samples]


def collate(samples: list[dict]) -> torch.Tensor:
    return torch.tensor(numbers(samples))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path) -> str:
    """Four shards of four images, 0...15; image 6 is broken."""
    for shard in range(4):
        members: dict[str, bytes] = {}
        for number in range(4 * shard, 4 * shard + 4):
            members[f"{number:03d}.png"] = encoded(number) if number != 6 else b"broken"
            members[f"{number:03d}.json"] = json.dumps({"caption": str(number)}).encode()
        write_tar(tmp_path / f"shard-{shard}.tar", members)
    return f"webdataset:{tmp_path}/shard-{{0..3}}.tar"


GOOD = [number for number in range(16) if number != 6]


def test_folder(tmp_path):
    for number, name in enumerate(["a.png", "b.PNG", "c/d.png", "c/e/f.jpg", ".hidden/g.png", "c/._h.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(number))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "c" / "back").symlink_to(tmp_path)
    (tmp_path / "b.PNG").write_bytes(b"broken")
    for source in (str(tmp_path), tmp_path, f"folder:{tmp_path}"):
        images = open_images(source)
        assert isinstance(images, ImageFolder)
        assert numbers(images[index] for index in range(len(images))) == [0, 2, 2, 3]
        assert images.bad.count == 1
        assert f"{tmp_path}/b.PNG: is no image" in images.bad.report()[1]


def test_folder_counts_what_workers_meet(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(number) if number % 4 else b"broken")
    images = open_images(tmp_path)
    loader = DataLoader(images, batch_size=2, num_workers=2, collate_fn=collate)
    for _ in range(2):
        assert torch.cat(list(loader)).tolist() == [1, 1, 2, 3, 5, 5, 6, 7]
    assert images.bad.report()[0] == "2 bad samples were skipped:"


def test_folder_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no image"):
        open_images(tmp_path / "empty")
    with pytest.raises(InputError, match="gone: there is no such folder"):
        open_images(f"folder:{tmp_path}/gone")
    (tmp_path / "empty" / "broken.png").write_bytes(b"broken")
    with pytest.raises(
        InputError, match=r"none of the 1 samples is good; the first bad one: .*broken.png: is no image"
    ):
        open_images(tmp_path / "empty")[0]


@pytest.mark.parametrize("source", ["images:x", "", "synthetic:train", "synthetic:train:x", "scenes:a"])
def test_no_source(source):
    with pytest.raises(InputError, match=r"is no source of images; give a path, or|are written synthetic:SPLIT:COUNT"):
        open_images(source)


def test_scenes():
    images = open_images("synthetic:validation:3:size=40x48")
    assert len(images) == 3
    assert images[2]["image"].size == (48, 40)
    assert open_images("synthetic:train:2")[0]["image"].size == (64, 64)
    small = make_scene("train", 1, SceneConfig(96, 96, min_scale=0.3, max_scale=0.5)).image()
    assert open_images("synthetic:train:2:size=96:scale=0.3-0.5")[1]["image"].tobytes() == small.tobytes()
    with pytest.raises(InputError, match="scale=tiny: give one number"):
        open_images("synthetic:train:2:scale=tiny")
    singles = open_images("synthetic:train:20:size=64:objects=1")
    assert isinstance(singles, SceneImages)
    assert all(len(singles.scene(index).objects) == 1 for index in range(20))
    with pytest.raises(InputError, match="split='dev'"):
        open_images("synthetic:dev:3")
    assert parse_size("32") == (32, 32)
    with pytest.raises(InputError, match="--size=3 x 4: give pixels"):
        parse_size("3 x 4", "--size")


def test_webdataset(shards):
    stream = open_images(shards)
    assert isinstance(stream, ImageStream)
    assert isinstance(stream, IterableDataset)
    assert numbers(stream) == GOOD
    assert numbers(stream) == GOOD
    assert stream.bad.count == 1
    assert "shard-1.tar/006.png: is no image" in stream.bad.report()[1]


def test_webdataset_glob_truncated_shard_and_caption_without_image(tmp_path, shards):
    whole = (tmp_path / "shard-3.tar").read_bytes()
    assert len(whole) > 4096  # 512 bytes for each header, image and caption
    (tmp_path / "shard-3.tar").write_bytes(whole[:2570])  # within the second image
    write_tar(tmp_path / "shard-4.tar", {"a.json": b"{}", "b.png": encoded(99)})
    (tmp_path / "shard-5.tar").write_bytes(b"no tar at all")
    stream = open_images(f"webdataset:{tmp_path}/shard-*.tar")
    assert numbers(stream) == [*GOOD[:12], 99]
    report = "\n".join(stream.bad.report())
    assert "shard-3.tar: is no whole tar shard: unexpected end of data; images of it that were read: 1" in report
    assert "shard-4.tar" not in report  # a caption alone is no bad sample
    assert "shard-5.tar: is no whole tar shard" in report


def test_webdataset_errors(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no file matches .*gone-\*.tar"):
        open_images(f"webdataset:{tmp_path}/gone-*.tar")
    with pytest.raises(InputError, match="give files or http"):
        open_images("webdataset:pipe://x.tar")
    write_tar(tmp_path / "bad.tar", {"a.png": b"broken"})
    with pytest.raises(InputError, match=r"bad.tar: holds no good image \(.*a.png: is no image"):
        list(open_images(f"webdataset:{tmp_path}/bad.tar"))
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(InputError, match=r"pip install 'sparseformer-mllm\[webdataset\]'"):
        open_images(f"webdataset:{tmp_path}/bad.tar")


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_divide_the_stream(shards, workers):
    stream = open_images(shards)
    loader = DataLoader(stream, batch_size=2, num_workers=workers, collate_fn=collate)
    assert sorted(torch.cat(list(loader)).tolist()) == GOOD
    assert stream.bad.count == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 3])  # four shards: whole shards for two ranks, single images for three
def test_ranks_of_a_plain_loop_divide_the_stream(shards, world_size, workers):
    stream = open_images(shards)
    seen = []
    for rank in range(world_size):
        part = DataLoader(stream.split(rank, world_size), batch_size=2, num_workers=workers, collate_fn=collate)
        seen.append(torch.cat(list(part)).tolist())
    assert sorted(itertools.chain(*seen)) == GOOD
    assert all(len(part) >= 3 for part in seen)
    assert stream.bad.count == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_divides_the_stream(shards, workers):
    """What the Trainer does on two ranks with dispatch_batches=False: each reads all and keeps its batches."""
    seen = []
    for rank in range(2):
        shard = IterableDatasetShard(
            open_images(shards), batch_size=2, drop_last=True, num_processes=2, process_index=rank
        )
        seen.append(torch.cat(list(DataLoader(shard, batch_size=2, num_workers=workers, collate_fn=collate))).tolist())
    assert not set(seen[0]) & set(seen[1])
    assert len(seen[0]) == len(seen[1])
    together = sorted(seen[0] + seen[1])
    assert together == sorted(set(together))
    # drop_last leaves out the last incomplete round of four, of each worker: 15 images, or 8 and 7
    assert len(together) == 12


def test_shuffled_stream_has_an_order_for_each_epoch(shards):
    first, again = open_images(shards, shuffle_buffer=8, seed=1), open_images(shards, shuffle_buffer=8, seed=1)
    orders = []
    for epoch in range(2):
        first.set_epoch(epoch)
        again.set_epoch(epoch)
        orders.append(numbers(first))
        assert orders[-1] == numbers(again)
        assert sorted(orders[-1]) == GOOD
    assert orders[0] != GOOD
    assert orders[0] != orders[1]


@pytest.fixture
def table() -> datasets.Dataset:
    """Twelve rows with images 0...11: 3 is broken, 5 is empty, 7 is a 16-bit grey of value 7."""
    rows = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(12)]
    rows[3]["bytes"] = b"broken"
    rows[5] = None
    deep = io.BytesIO()
    Image.new("I;16", (4, 3), 7 * 257).save(deep, "PNG")
    rows[7] = {"bytes": deep.getvalue(), "path": None}
    rows[8]["path"] = None
    columns = {"label": list(range(12)), "view": rows}
    return datasets.Dataset.from_dict(columns, datasets.Features(label=datasets.Value("int64"), view=datasets.Image()))


TABLE = [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]


def test_datasets_parquet_saved_and_folder(tmp_path, table):
    (tmp_path / "parquet").mkdir()
    for part in range(3):
        table.shard(3, part).to_parquet(tmp_path / "parquet" / f"test-{part}.parquet")
    table.to_parquet(tmp_path / "one.parquet")
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(left=table.select(range(2)), right=table).save_to_disk(tmp_path / "both")
    for address in ("parquet", "parquet:test:view", "parquet::view", "one.parquet", "saved", "both:right"):
        stream = open_images(f"datasets:{tmp_path}/{address}")
        assert sorted(numbers(stream)) == TABLE
        report = "\n".join(stream.bad.report())
        assert stream.bad.count == 2
        assert "3.png with SHA-1 0b8a1caec23d75d1: is no image" in report
        assert "of reader 0: holds no image" in report
    halves = [open_images(f"datasets:{tmp_path}/parquet").split(rank, 2) for rank in range(2)]
    assert sorted(numbers(halves[0]) + numbers(halves[1])) == TABLE
    loader = DataLoader(open_images(f"datasets:{tmp_path}/parquet"), 4, num_workers=2, collate_fn=collate)
    assert sorted(torch.cat(list(loader)).tolist()) == TABLE


def test_datasets_of_files_and_lists(tmp_path):
    (tmp_path / "files" / "train").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "files" / "train" / f"{number}.png").write_bytes(encoded(number) if number != 1 else b"broken")
    stream = open_images(f"datasets:{tmp_path}/files")
    assert numbers(stream) == [0, 2]
    assert list(stream.bad.samples) == [f"{tmp_path}/files/train/1.png"]
    pairs = [
        [{"bytes": encoded(2 * row), "path": None}, {"bytes": encoded(2 * row + 1), "path": None}] for row in (0, 1)
    ]
    features = datasets.Features(images=datasets.List(datasets.Image()))
    datasets.Dataset.from_dict({"images": pairs}, features).to_parquet(tmp_path / "pairs.parquet")
    assert numbers(open_images(f"datasets:{tmp_path}/pairs.parquet")) == [0, 1, 2, 3]


def test_datasets_errors(tmp_path, table, monkeypatch):
    table.to_parquet(tmp_path / "one.parquet")
    table.remove_columns("view").to_parquet(tmp_path / "labels.parquet")
    for address, message in {
        f"{tmp_path}/gone": "gone: there is no such file or folder",
        f"{tmp_path}/one.parquet:dev": "has no split 'dev'; name one of train",
        f"{tmp_path}/one.parquet:train:image": "has no column 'image'; name one of label, view",
        f"{tmp_path}/labels.parquet": "no column is known to hold images; name it",
        "": "give datasets:NAME_OR_PATH",
        "a:b:c:d": "give datasets:NAME_OR_PATH",
    }.items():
        with pytest.raises(InputError, match=message):
            open_images(f"datasets:{address}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="datasets:nobody/nothing: cannot be read") as caught:
        open_images("datasets:nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"one.parquet:train:label: holds no good image"):
        list(open_images(f"datasets:{tmp_path}/one.parquet:train:label"))
    content = (tmp_path / "one.parquet").read_bytes()
    (tmp_path / "one.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"one.parquet"):
        list(open_images(f"datasets:{tmp_path}/one.parquet"))
