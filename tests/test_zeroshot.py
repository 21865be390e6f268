"""`mllm zeroshot`: accuracy and cost by hand; open_clip's models and ours through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import open_clip
import pytest
import torch
from PIL import Image

from encoder import SparseFormerImageProcessor, SparseFormerVisionModel, load_clip, load_tower, save_clip
from encoder.evaluation.clip_models import load_clip_model
from encoder.evaluation.embedding import Runtime
from encoder.evaluation.zeroshot import read_classes, read_templates, zero_shot_ranks
from encoder.teachers import load_teacher
from mllm.cli import main
from tests import tiny

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Compass:
    """A CLIP that embeds an image by its channels, and a text by the colour that it names first."""

    def eval(self) -> None:
        self.evaluated = True

    def encode_image(self, images: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert normalize
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)

    def encode_text(self, texts: torch.Tensor, normalize: bool) -> torch.Tensor:
        return torch.eye(3)[texts]

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([next(i for i, colour in enumerate(COLOURS) if colour in text) for text in texts])

    @staticmethod
    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.tensor(list(image.tobytes()), dtype=torch.float32).view(4, 4, 3).permute(2, 0, 1) / 255


def test_ranks_by_hand():
    seen = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 20, 10), (0, 255, 10)]
    labels = [0, 1, 2, 1, 0]  # the last two are not what the model sees
    samples = [{"image": Image.new("RGB", (4, 4), c), "label": label} for c, label in zip(seen, labels, strict=True)]
    samples.insert(1, None)  # a bad image
    compass = Compass()
    model = (compass, compass.tokenize, compass.prepare)
    task = (list(COLOURS), ["a {}.", "one {} thing."], Runtime(batch_size=2))
    ranks, images = zero_shot_ranks(*model, samples, *task)
    assert ranks.tolist() == [0, 0, 0, 1, 2]
    assert images.values == labels
    assert compass.evaluated
    with pytest.raises(ValueError, match="no good image"):
        zero_shot_ranks(*model, [None], *task)


def test_imagenet_as_open_clip_has_it():
    assert read_classes("imagenet").columns == [list(open_clip.IMAGENET_CLASSNAMES)]
    templates = read_templates(None, "imagenet", ["one {}."])
    assert [t.format("cat") for t in templates] == [t("cat") for t in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert read_templates(None, None, ["one {}."]) == ["one {}."]


@pytest.fixture(scope="module")
def student_dir(open_clip_dir, tmp_path_factory) -> Path:
    """A SparseFormer with random weights in the place of the tiny CLIP's image tower."""
    text = load_teacher(str(open_clip_dir)).text
    torch.manual_seed(1)
    tower = SparseFormerVisionModel(tiny.sparseformer_config(projection_dim=16)).eval()
    side = tiny.IMAGE_SIZE
    processor = SparseFormerImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    directory = tmp_path_factory.mktemp("tiny") / "student"
    save_clip(directory, text.clip, tower, processor, text.model_config)
    return directory


def test_macs_by_hand(open_clip_dir, student_dir):
    """Of the tiny ViT all of it; of the SparseFormer one block of the cortex: attention's products are in both."""

    def block(tokens: int, width: int) -> int:
        linear = tokens * (3 * width**2 + width**2 + 2 * 4 * width**2)
        return linear + 2 * tokens**2 * width

    model = load_clip_model(str(open_clip_dir))
    patches, tokens, width = 16, 17, 32
    assert model.macs() == patches * 3 * 8 * 8 * width + 6 * block(tokens, width) + width * 16
    assert model.num_tokens == tokens
    student = load_clip_model(str(student_dir))
    whole = student.macs()
    assert student.num_tokens == tiny.TOKENS
    tower = student.clip.visual.model
    assert tower.config.num_hidden_layers == 2
    tower.layers[-1] = torch.nn.Identity()
    tower.layers[-1].repeats = 0
    assert whole - student.macs() == block(tiny.TOKENS, width)


@pytest.fixture
def images(tmp_path) -> Path:
    """Five images in three folders, one of them without any, and a broken one."""
    folder = tmp_path / "images"
    for number, name in enumerate(["red", "red", "blue", "blue", "blue"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        tiny.image(number).save(folder / name / f"{number}.png")
    (folder / "green").mkdir()
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def by_open_clip(directory: Path, folder: Path, names: list[str], templates: list[str]) -> float:
    """Top-1 accuracy with open_clip's own preprocessing and classifier."""
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    clip.eval()
    classifier = open_clip.build_zero_shot_classifier(
        clip, open_clip.get_tokenizer(f"local-dir:{directory}"), names, templates
    )
    hits = []
    for file in sorted(folder.glob("*/[0-9].png")):
        with Image.open(file) as image, torch.no_grad():
            logits = clip.encode_image(preprocess(image)[None], normalize=True) @ classifier
        hits.append(names[int(logits.argmax())] == file.parent.name)
    return sum(hits) / len(hits)


def test_a_classifier_beside_clips(images, tmp_path, capsys):
    """Its logits are read in the order of the classes; another number of these is refused, and so are captions."""
    for classes in (3, 5):
        tiny.sparseformer(tmp_path / str(classes), projection_dim=classes)
    command = ["zeroshot", str(images), "--workers", "0", "--json", str(tmp_path / "out.json"), "--model"]
    assert main([*command, str(tmp_path / "3")]) == 0
    files = sorted(images.glob("*/[0-9].png"))
    names = ["blue", "green", "red"]
    processor = SparseFormerImageProcessor.from_pretrained(tmp_path / "3")
    with torch.no_grad():
        pixels = processor(images=[Image.open(file) for file in files], return_tensors="pt")
        found = load_tower(tmp_path / "3")(**pixels).image_embeds.argmax(dim=1).tolist()
    hits = [names[index] == file.parent.name for index, file in zip(found, files, strict=True)]
    (row,) = json.loads((tmp_path / "out.json").read_text())["models"]
    assert (row["top_1"], row["top_5"], row["tokens"]) == (pytest.approx(sum(hits) / 5), 1, tiny.TOKENS)
    assert main([*command, str(tmp_path / "5")]) == 2
    assert "has no text tower and tells 5 classes apart, and there are 3; give a whole CLIP" in capsys.readouterr().err
    (images / "captions.txt").write_text("image,caption\nred/0.png,red\n")
    assert main(["retrieve", str(images / "captions.txt"), "--workers", "0", "--model", str(tmp_path / "3")]) == 2
    assert "a SparseFormer without a text tower retrieves no captions" in capsys.readouterr().err


def test_side_by_side_on_a_folder(open_clip_dir, student_dir, images, tmp_path, capsys, caplog):
    (tmp_path / "classes.txt").write_text("green\nred\n\nblue\n")
    (tmp_path / "templates.txt").write_text("a {} thing.\nthe colour {}.\n")
    arguments = ["zeroshot", str(images), "--model", str(open_clip_dir), "--model", str(student_dir)]
    arguments += ["--classes", str(tmp_path / "classes.txt"), "--templates", str(tmp_path / "templates.txt")]
    assert main([*arguments, "--workers", "2", "--batch-size", "2", "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "5 images" in out
    assert "3 classes" in out
    assert "1 bad sample was skipped" in caplog.text
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["images"], report["classes"], report["templates"]) == (5, 3, 2)
    assert list(report["skipped"]) == [str(images / "red" / "broken.png")]
    teacher, student = report["models"]
    assert (teacher["tokens"], student["tokens"]) == (17, tiny.TOKENS)
    assert teacher["images_per_second"] > 0
    assert student["gmacs"] != teacher["gmacs"]
    assert teacher["top_5"] == student["top_5"] == 1.0  # of three classes
    expected = by_open_clip(open_clip_dir, images, ["red", "green", "blue"], ["a {} thing.", "the colour {}."])
    assert teacher["top_1"] == pytest.approx(expected)
    assert f" {100 * expected:.1f} " in out
    clip, _, _ = load_clip(student_dir)
    assert isinstance(clip.visual.model, SparseFormerVisionModel)


def test_another_number_of_tokens(open_clip_dir, student_dir, images, tmp_path, capsys):
    """Each is a row: as the model itself does with so many, at its own cost."""
    report = tmp_path / "out.json"
    arguments = ["zeroshot", str(images), "--workers", "0", "--model", str(student_dir)]
    more = ["--tokens", "3", "--tokens", str(tiny.TOKENS), "--model", str(student_dir), "--model", str(open_clip_dir)]
    assert main([*arguments, *more, "--json", str(report)]) == 0
    rows = json.loads(report.read_text())["models"]
    assert [row["tokens"] for row in rows] == [3, tiny.TOKENS, tiny.TOKENS, 17]
    assert rows[0]["gmacs"] < rows[1]["gmacs"] == rows[2]["gmacs"]
    assert rows[1]["top_1"] == rows[2]["top_1"]
    model = load_clip_model(str(student_dir))
    seen = model.prepare(tiny.image())[None]
    few = model.with_tokens(3).clip.encode_image(seen)
    torch.testing.assert_close(few, model.clip.visual.model(seen, num_tokens=3).image_embeds)
    assert not few.allclose(model.with_tokens(tiny.TOKENS).clip.encode_image(seen))
    capsys.readouterr()
    for words, message in (
        (["--tokens", "1"], f"--tokens 1: {student_dir} uses at least 2"),
        (["--model", str(open_clip_dir), "--tokens", "9"], f"--tokens 9: {open_clip_dir} is no SparseFormer"),
    ):
        refused(capsys, [*arguments, *words], message)
    refused(capsys, ["zeroshot", str(images), "--tokens", "3"], "3: follows the --model")


def test_name_with_a_file_of_weights(open_clip_dir, tmp_path, monkeypatch, capsys):
    """`--pretrained` goes with the --model before it; words and numbers are a source of their own."""
    config = json.loads((open_clip_dir / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-test", config)
    weights = tmp_path / "weights.safetensors"
    shutil.copy(open_clip_dir / "open_clip_model.safetensors", weights)
    arguments = [
        "zeroshot",
        "synthetic:test:42:size=32:classes=texts",
        "--model",
        "tiny-test",
        "--pretrained",
        str(weights),
    ]
    report = tmp_path / "out.json"
    arguments += ["--model", str(open_clip_dir), "--workers", "0", "--json", str(report)]
    assert main(arguments) == 0
    assert "21 classes, chance 4.8%" in capsys.readouterr().out
    named, local = json.loads(report.read_text())["models"]
    assert (named["model"], named["pretrained"], local["pretrained"]) == ("tiny-test", str(weights), None)
    assert named["top_5"] == local["top_5"]


def table(labels: list, feature) -> datasets.Dataset:
    rows = [{"image": tiny.image(number), "kind": label} for number, label in enumerate(labels)]
    return datasets.Dataset.from_list(rows, datasets.Features(image=datasets.Image(), kind=feature))


def test_datasets_sources(open_clip_dir, tmp_path):
    """The same labels as class labels, as numbers and as words give the same figures."""
    names = ["red", "green", "blue"]
    labels = [0, 1, 2, 1]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    table(labels, datasets.ClassLabel(names=names)).to_parquet(tmp_path / "classes.parquet")
    table(labels, datasets.Value("int64")).to_parquet(tmp_path / "numbers.parquet")
    table([names[label] for label in labels], datasets.Value("string")).to_parquet(tmp_path / "words.parquet")
    found = []
    classes = ["--classes", str(tmp_path / "classes.txt")]
    for source, options in (
        ("classes.parquet", []),
        ("numbers.parquet:train:image:kind", classes),
        ("words.parquet:train::kind", classes),
    ):
        arguments = ["zeroshot", f"datasets:{tmp_path}/{source}", "--model", str(open_clip_dir), *options]
        assert main([*arguments, "--workers", "0", "--json", str(tmp_path / "out.json")]) == 0
        report = json.loads((tmp_path / "out.json").read_text())
        found.append((report["images"], report["models"][0]["top_1"]))
    assert found == [found[0]] * 3
    assert found[0][0] == 4


def refused(capsys, arguments: list[str], words: str) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_labels_that_mean_no_class(open_clip_dir, tmp_path, capsys):
    table([0, 5], datasets.Value("int64")).to_parquet(tmp_path / "numbers.parquet")
    (tmp_path / "two.txt").write_text("a\nb\n")
    numbers, model = f"datasets:{tmp_path}/numbers.parquet", ["--model", str(open_clip_dir)]
    kind, classes = f"{numbers}:train:image:kind", ["--classes", str(tmp_path / "two.txt")]
    capsys.readouterr()  # what the making of the file said
    for arguments, words in (
        ([numbers], "no column is known to hold class labels; name it"),
        ([f"{numbers}:train:image:sort"], "has no column 'sort'"),
        ([kind], "the images' labels have no names"),
        ([kind, *classes], "no number from 0 to 1"),
    ):
        refused(capsys, ["zeroshot", *arguments, *model, "--workers", "0"], words)
    content = (tmp_path / "numbers.parquet").read_bytes()
    (tmp_path / "numbers.parquet").write_bytes(content[: len(content) // 2])
    refused(capsys, ["zeroshot", kind, *classes, *model, "--workers", "1"], "numbers.parquet")
