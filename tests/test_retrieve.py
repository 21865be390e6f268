"""`mllm retrieve`: several captions an image by hand; every form of captions through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.bad_samples import BadSamples
from data.sources import open_captioned
from encoder.evaluation.embedding import Runtime
from encoder.evaluation.retrieval import retrieval_ranks
from mllm.cli import main
from tests import tiny
from tests.test_zeroshot import Compass

CAPTIONS = {
    "0.png": ["a red circle", "one circle"],
    "1.png": ["two squares"],
    "2.png": ["a star", "a cross", "a heart"],
}


def test_ranks_by_hand():
    """The model takes the third image for green, and cannot tell images of one colour apart."""
    seen = [
        ((255, 0, 0), ["red", "blue"]),
        ((0, 255, 0), ["green"]),
        ((0, 255, 0), ["blue"]),
    ]

    def samples(keys: list[str]) -> list:
        pairs = zip(seen, keys, strict=True)
        return [{"image": Image.new("RGB", (4, 4), c), "captions": words, "key": key} for (c, words), key in pairs]

    compass = Compass()
    model = (compass, compass.tokenize, compass.prepare)
    texts, images, embedded = retrieval_ranks(*model, [*samples(["a", "b", "c"]), None], Runtime(batch_size=2))
    assert len(embedded.values) == 3
    # captions in order: red, blue, green, blue; the third image's own comes last of all
    assert texts.tolist() == [0, 0, 3]
    assert images.tolist() == [0, 0, 0, 2]  # all images are equally far from blue: the first one comes first
    # of equal keys, the second image's "green" is right for the third one
    texts, images, _ = retrieval_ranks(*model, samples(["a", "b", "b"]), Runtime())
    assert texts.tolist() == [0, 0, 0]
    assert images.tolist() == [0, 0, 0, 1]


PAIRS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


def forms() -> dict[str, object]:
    """The same captions in every form."""
    ids = {name: number for number, name in enumerate(CAPTIONS, 10)}
    turns = [
        {"id": str(number), "image": name, "conversations": [
            {"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": caption}]}
        for number, (name, caption) in enumerate(PAIRS)
    ]  # fmt: skip
    karpathy = [
        {"filename": name, "split": "test", "sentences": [{"raw": caption, "tokens": []} for caption in captions]}
        for name, captions in CAPTIONS.items()
    ]
    one_a_line = "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in PAIRS)
    return {
        "plain.json": [{"image": name, "captions": captions} for name, captions in CAPTIONS.items()],
        "llava.json": turns,
        "coco.json": {
            "images": [{"id": number, "file_name": name} for name, number in ids.items()],
            "annotations": [{"id": 1, "image_id": ids[name], "caption": caption} for name, caption in PAIRS],
        },
        "coco-text-ids.json": {
            "images": [{"id": str(number), "file_name": name} for name, number in ids.items()],
            "annotations": [{"image_id": float(ids[name]), "caption": caption} for name, caption in PAIRS],
        },
        "karpathy.json": {"images": [*karpathy, {**karpathy[0], "split": "train"}], "dataset": "flickr30k"},
        "karpathy-coco.json": {"images": [{**image, "filepath": "images"} for image in karpathy]},
        "karpathy-in.json": {"images": [{**image, "filepath": "val2014"} for image in karpathy]},
        "names.json": CAPTIONS,
        "lavis.json": [{"image": name, "caption": captions, "instance_id": "0"} for name, captions in CAPTIONS.items()],
        "lavis-train.json": [{"image": name, "caption": caption, "image_id": "1"} for name, caption in PAIRS],
        "metadata.jsonl": one_a_line,
        "lines.json": one_a_line,
        "open_clip.csv": "filepath\ttitle\n" + rows("\t"),
        "comma.csv": 'filepath,title\n' + "".join(f'{name},"{caption}"\n' for name, caption in PAIRS),
        "flickr8k.txt": "image,caption\n" + rows(","),
        "results.csv": "image_name| comment_number| comment\n" + rows("| 0| "),
        "token.txt": rows("#0\t"),
    }  # fmt: skip


def rows(between: str) -> str:
    return "".join(f"{name}{between}{caption}\n" for name, caption in PAIRS)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for number, name in enumerate(CAPTIONS):
        tiny.image(number).save(tmp_path / "images" / name)
    return tmp_path


def read(file: Path, images: Path | None = None, **options) -> list[list[str]]:
    dataset = open_captioned(file, images, **options)
    return [dataset[index]["captions"] for index in range(len(dataset))]


@pytest.mark.parametrize("name", forms())
def test_every_form(folder, name):
    content = forms()[name]
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    images = folder if name == "karpathy-coco.json" else folder / "images"
    assert read(folder / name, images) == list(CAPTIONS.values())


def test_folders_of_captions(folder):
    """As img2dataset writes them, and with the metadata.jsonl of `datasets`."""
    images, first = folder / "images", {name: captions[:1] for name, captions in CAPTIONS.items()}
    for number, (name, (caption,)) in enumerate(first.items()):
        if number:
            (images / name).with_suffix(".txt").write_text(caption + "\n")
        else:
            (images / name).with_suffix(".json").write_text(json.dumps({"key": "0", "caption": caption}))
    assert read(images) == list(first.values())
    (images / "metadata.jsonl").write_text(str(forms()["metadata.jsonl"]))
    assert read(images) == list(CAPTIONS.values())


def test_splits_of_karpathy(folder):
    images = [
        {"filename": f"{number}.png", "split": split, "sentences": [{"raw": split}]}
        for number, split in enumerate(("train", "val", "test"))
    ]
    (folder / "k.json").write_text(json.dumps({"images": images}))
    assert read(folder / "k.json", folder / "images") == [["test"]]
    assert read(folder / "k.json", folder / "images", split="val") == [["val"]]
    images[0]["split"] = ["train"]
    (folder / "k.json").write_text(json.dumps({"images": images}))
    assert read(folder / "k.json", folder / "images") == [["test"]]


def test_blank_captions_are_skipped_and_counted(folder):
    bad = BadSamples()
    pairs = [*PAIRS, ("0.png", " "), ("1.png", "")]
    (folder / "a.txt").write_text("image,caption\n" + "".join(f"{name},{caption}\n" for name, caption in pairs))
    assert read(folder / "a.txt", folder / "images", bad=bad) == list(CAPTIONS.values())
    assert bad.samples == {f"{folder}/a.txt: line {line}": "has no caption" for line in (8, 9)}
    (folder / "b.txt").write_text('image| number| comment\n0.png| 0| "a" | b, c\n1.png| 4   two\n')
    assert read(folder / "b.txt", folder / "images", bad=bad) == [['"a" | b, c']]
    assert bad.count == 3


def test_figures_and_a_missing_image(open_clip_dir, folder, capsys, caplog):
    (folder / "plain.json").write_text(json.dumps(forms()["plain.json"]))
    arguments = ["retrieve", str(folder / "plain.json"), "--images", str(folder / "images")]
    arguments += ["--model", str(open_clip_dir), "--json", str(folder / "out.json")]
    assert main([*arguments, "--workers", "0"]) == 0
    report = json.loads((folder / "out.json").read_text())
    assert report["images"] == 3
    row = report["models"][0]
    assert len([key for key in row if key.endswith(("_r1", "_r5", "_r10"))]) == 6
    assert row["tokens"] == 17
    assert row["text_to_image_r5"] == row["image_to_text_r10"] == 1.0
    capsys.readouterr()
    (folder / "images" / "1.png").unlink()
    assert main([*arguments, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 images" in out
    assert "image to text" in out
    assert "…" not in out
    assert list(json.loads((folder / "out.json").read_text())["skipped"]) == [str(folder / "images" / "1.png")]
    assert "1 bad sample was skipped" in caplog.text


def test_scenes(open_clip_dir, tmp_path):
    """Scenes of equal captions have equal keys."""
    scenes = open_captioned("synthetic:test:30:size=32:objects=1")
    keys = [scenes[index]["key"] for index in range(30)]
    assert keys == [scenes[index]["captions"][0] for index in range(30)]
    arguments = ["retrieve", "synthetic:test:6:size=32", "--model", str(open_clip_dir), "--workers", "0"]
    arguments += ["--autocast", "bfloat16"]
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    row = json.loads((tmp_path / "out.json").read_text())["models"][0]
    assert row["image_to_text_r10"] == row["text_to_image_r10"] == 1.0
    assert 0 <= row["text_to_image_r1"] <= row["text_to_image_r5"] <= 1


def test_half_precision_keeps_the_vectors(open_clip_dir):
    """Under autocast vectors come back as float32 of unit length, near those without."""
    from encoder.evaluation.clip_models import load_clip_model
    from encoder.evaluation.embedding import embed_texts

    model = load_clip_model(str(open_clip_dir))
    words = ["a red circle", "two squares", "a star"]
    exact, half = (
        embed_texts(model.clip, model.tokenizer, words, Runtime(batch_size=2, autocast=autocast))
        for autocast in (None, torch.bfloat16)
    )
    assert exact.dtype == half.dtype == torch.float32
    assert 0 < (exact - half).abs().max() < 0.05
    torch.testing.assert_close(half.norm(dim=1), torch.ones(3), rtol=0, atol=0.02)
