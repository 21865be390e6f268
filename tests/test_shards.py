"""Which files of shards and which rows of tables are images, and that a user is told which are not."""

from __future__ import annotations

import base64
import io
import logging
import os
import zipfile

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from data import BadSamples, InputError, open_images, open_labeled
from tests.test_image_sources import encoded, numbers, write_tar


def named(*names: str) -> dict[str, bytes]:
    """A file of each name, whose image has the number of its place."""
    return {name: encoded(number) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "choice", "taken"),
    [
        (("0.jpg", "0.mask.png", "0.seg.png", "1.JPG"), "", [0, 3]),
        (("0.jpg", "0.mask.png", "0.seg.png", "1.JPG"), "?image=mask.png", [1]),
        (("0.jpg", "0.mask.png", "0.seg.png", "1.JPG"), "?image=*.png", [1, 2]),
        (("0.jpg", "0.mask.png", "0.seg.png", "1.JPG"), "?image=jpg", [0, 3]),
        (("0.image.png", "0.depth.png", "1.image.png"), "?image=image.png", [0, 2]),
        (("photo.2024.000.jpg", "photo.2024.001.jpg", "v1.0/a.webp"), "", [0, 1, 2]),  # dots of names, not of fields
        (("0.jpg", "1.jpg", "0.txt", "1.txt", "dir/._0.jpg", "__my__/0.jpg", "2.heic"), "", [0, 1]),
        (("0", "1"), "?image=", [0, 1]),
    ],
)
def test_files_of_a_shard(tmp_path, names, choice, taken):
    write_tar(tmp_path / "a.tar", named(*names))
    stream = open_images(f"webdataset:{tmp_path}/*.tar{choice}")
    assert numbers(stream) == taken
    assert stream.bad.count == 0


def test_what_is_not_taken_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_tar(tmp_path / "a.tar", named("0.jpg", "0.mask.png", "1.jpg", "1.heic", ".2.jpg", "3", "0.txt", "1.txt"))
    open_images(f"webdataset:{tmp_path}/a.tar")
    told = "a.tar has 2 images (2 .jpg), and 6 other files (2 .txt, 1 .heic, 1 .mask.png, 1 hidden, 1 no extension)"
    assert f"{told}; ?image=FIELD chooses others" in caplog.text
    for name in ("0.jpg", "0.HEIC", "1.heic", ".2.jpg", "3"):
        (tmp_path / name).write_bytes(b"")
    open_images(tmp_path)
    told = f"{tmp_path}: 1 images, and 5 other files (2 .heic, 1 .tar, 1 hidden, 1 no extension), which are left out"
    assert told in caplog.text


def test_a_shard_without_images_is_refused_at_once(tmp_path):
    write_tar(tmp_path / "a.tar", named("0.heic", "0.txt"))
    with pytest.raises(InputError, match=r"a\.tar has no image, but 2 other files \(1 \.heic, 1 \.txt\); \?image="):
        open_images(f"webdataset:{tmp_path}/a.tar")


def test_labels_beside_images(tmp_path):
    """Numbers and words, before the image or behind it; what has none is a bad sample."""
    labels = {"0.cls": b"7\n", "2.cls": b"hen", "3.cls": b"5"}
    files = named("0.jpg", "1.jpg", "2.jpg", "2.mask.png", "3.jpg")
    order = ["0.jpg", "0.cls", "1.jpg", "1.txt", "2.cls", "2.mask.png", "2.jpg", "3.cls", "3.jpg"]
    write_tar(tmp_path / "a.tar", {name: {"1.txt": b"", **labels, **files}[name] for name in order})
    bad = BadSamples()
    labeled = open_labeled(f"webdataset:{tmp_path}/*.tar", bad)
    samples = list(labeled.dataset)
    assert (numbers(samples), [sample["label"] for sample in samples]) == ([0, 2, 4], [7, "hen", 5])
    assert labeled.class_names is None
    assert "1.jpg: has no label: there is no .cls beside it" in "".join(bad.report())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("x-{000000..999999999}.tar", "shards=1000000000: choose at least 1 and at most 1,000,000"),
        ("https://example.org/{1..99999999999999999999}.tar", "shards=99999999999999999999: choose"),
        (f"x-{{1..{'9' * 5000}}}.tar", "shards=999"),
        ("{a,b}" * 40, "shards=1099511627776: choose"),
        ("{a", "Unbalanced braces"),
        ("/dev/zero", "/dev/zero: is a pipe or a device"),
    ],
)
def test_impossible_shards_are_refused_at_once(pattern, message):
    with pytest.raises(InputError, match=message):
        open_images(f"webdataset:{pattern}")


def test_pipes_are_neither_shards_nor_tables(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for kind in ("webdataset", "datasets"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            open_images(f"{kind}:{tmp_path}/pipe")


def test_tables_of_paths_and_base64(tmp_path):
    """Paths begin where the table is, in a CSV, several of them, TSV and JSON lines; so does what is written out."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(encoded(number))
    for number in range(2):
        (tmp_path / f"part-{number}.csv").write_text(f"file,label\nimages/{number}.png,1\nimages/gone.png,0\n")
    (tmp_path / "one.tsv").write_text("file\tlabel\nimages/2.png\t1\n")
    (tmp_path / "one.jsonl").write_text('{"file": "images/1.png"}\n')
    text = base64.b64encode(encoded(7)).decode()
    datasets.Dataset.from_dict({"file": [text, f"data:image/png;base64,{text}", "AAAA"]}).to_parquet(tmp_path / "64.pq")
    for name, expected, bad in (("part-*.csv", [0, 1], 1), ("one.tsv", [2], 0), ("one.jsonl", [1], 0)):
        stream = open_images(f"datasets:{tmp_path}/{name}:train:file")
        assert numbers(stream) == expected
        assert stream.bad.count == bad
    assert numbers(open_images(f"datasets:{tmp_path}/64.pq:train:file")) == [7, 7]
    with pytest.raises(InputError, match="has no column 'image'; name one of file, label"):
        open_images(f"datasets:{tmp_path}/part-0.csv:train:image")
    with pytest.raises(InputError, match="are tables of several kinds, csv, parquet; name one"):
        open_images(f"datasets:{tmp_path}/*[vq]:train:file")


def test_addresses_are_not_fetched(tmp_path):
    """A column of them is one line; a stray one is a bad sample."""
    rows = [{"bytes": None, "path": f"http://127.0.0.1:9/{number}.png"} for number in range(3)]
    features = datasets.Features(image=datasets.Image())

    def write(name: str) -> None:  # to_parquet would fetch them
        pyarrow.parquet.write_table(datasets.Dataset.from_dict({"image": rows}, features).data.table, tmp_path / name)

    write("a.parquet")
    with pytest.raises(InputError, match=r"http://127.0.0.1:9/0.png: is an address, and nothing is fetched; download"):
        list(open_images(f"datasets:{tmp_path}/a.parquet"))
    rows.insert(0, {"bytes": encoded(5), "path": None})
    write("b.parquet")
    stream = open_images(f"datasets:{tmp_path}/b.parquet")
    assert (numbers(stream), stream.bad.count) == ([5], 3)


def test_files_in_an_archive_are_read(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (4, 3), (9, 0, 0)).save(content, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("9.png", content.getvalue())
    (tmp_path / "a.csv").write_text(f"file\nzip://9.png::{tmp_path}/a.zip\n")
    assert numbers(open_images(f"datasets:{tmp_path}/a.csv:train:file")) == [9]
