"""`mllm train-task`: through the real main, interrupted and resumed; figures by hand; folders of others' data."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from data.errors import InputError
from data.sources import open_boxed, open_segmented
from encoder.tasks.build import build_model, freeze, load_encoder
from encoder.tasks.data import TaskCollator, TaskImages
from encoder.tasks.evaluation import _in_windows, measure
from encoder.tasks.recipe import TaskRecipe
from encoder.tasks.run import count_parameters, load_task_model
from encoder.tasks.trainer import TaskTrainer
from mllm.cli import main
from tests import recipes, tiny

SYNTHETIC = {"train": "synthetic:train:16:size=48", "validation": "synthetic:validation:6:size=48"}
BASE = {"output": "out", "decoder_width": 64, **SYNTHETIC, "trainer": {**recipes.TRAINER, "learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    """Nested tokens, so that others can be asked for."""
    return tiny.sparseformer(tmp_path_factory.mktemp("tasks") / "encoder", nested_tokens=True)


@pytest.fixture
def write(tmp_path, monkeypatch, encoder_dir):
    monkeypatch.chdir(tmp_path)

    def write(task, **values) -> str:
        return str(recipes.write(tmp_path, BASE, task, task=task, encoder=str(encoder_dir), **values))

    return write


def result(output: str = "out") -> dict:
    return json.loads((Path(output) / "metrics.json").read_text())["result"]


def test_segmentation_interrupted_and_resumed_is_the_same(write, monkeypatch, capsys):
    recipe = write(
        "segmentation", crop_scale=0.5, flip=True, jitter=0.2, pictures=2, report_tokens=[3], layer_decay=0.5
    )
    assert main(["train-task", recipe, "output=straight"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("straight, 5 tokens, on 6 images of synthetic:validation:6:size=48: miou ")
    assert second.startswith("straight, 3 tokens, ")
    assert 0 <= result("straight")["own"]["miou"] <= result("straight")["own"]["pixel_accuracy"] <= 1
    assert set(result("straight")["own"]["iou"]) <= {"background", "text", "circle", "square", "triangle", "star"} | {
        "cross",
        "diamond",
        "ring",
        "heart",
    }
    assert Image.open("straight/predictions/1.png").width > 3 * 48

    loss, calls = TaskTrainer.compute_loss, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(*args, **kwargs)

    monkeypatch.setattr(TaskTrainer, "compute_loss", interrupted)
    assert main(["train-task", recipe]) == 130
    monkeypatch.setattr(TaskTrainer, "compute_loss", loss)
    assert [path.name for path in Path("out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert main(["train-task", recipe, "--resume"]) == 0
    straight, resumed = (load_file(f"{name}/model.safetensors") for name in ("straight", "out"))
    for name, weight in straight.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)
    assert transformers.pipeline("image-segmentation", model="out")(tiny.image())

    capsys.readouterr()
    assert main(["train-task", recipe, "--evaluate", "straight", "stride=16", "pictures=0"]) == 0
    assert "straight, 5 tokens, on 6 images" in capsys.readouterr().out
    assert main(["train-task", recipe, "--evaluate", "straight", "task=detection", "pictures=0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_classification_mixed_averaged_and_by_low_rank(write, encoder_dir, tmp_path):
    folders = {}
    for split in ("train", "validation"):
        for number, name in enumerate(("dark", "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                tiny.image(index).point(lambda value, n=number: value // 4 + 190 * n).save(
                    tmp_path / split / name / f"{index}.png"
                )
        folders[split] = split
    (tmp_path / "train" / "dark" / "broken.png").write_bytes(b"nothing")
    recipe = write("classification", **folders)
    mixed = [
        "mixup=0.2",
        "cutmix=1.0",
        "label_smoothing=0.1",
        "ema=0.9",
        "drop_path=0.1",
        "output=mixed",
        "num_tokens=4",
    ]
    assert main(["train-task", recipe, *mixed, "output=mixed"]) == 0
    assert result("mixed")["own"]["images"] == 8
    found = transformers.pipeline("image-classification", model="mixed")(tiny.image())
    assert {each["label"] for each in found} == {"dark", "light"}
    assert transformers.AutoConfig.from_pretrained("mixed").num_latent_tokens == 3

    assert main(["train-task", recipe, "lora_rank=2", "output=adapted"]) == 0
    counted = json.loads(Path("adapted/metrics.json").read_text())["parameters"]
    assert 0 < counted["encoder"]["trained"] < counted["encoder"]["all"]
    assert counted["head"] == {"all": 66, "trained": 66}
    adapted, before = load_file("adapted/model.safetensors"), load_file(encoder_dir / "model.safetensors")
    assert adapted.keys() == load_file("mixed/model.safetensors").keys()
    changed = {name for name, weight in before.items() if not weight.equal(adapted[f"sparseformer.{name}"])}
    assert changed  # merged, and nothing else
    assert all(
        name.startswith("layers.") and name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        for name in changed
    )
    assert json.loads(Path("adapted/metrics.json").read_text())["bad_samples"] == 1


def test_detection(write, capsys):
    assert main(["train-task", write("detection", flip=True, crop_scale=0.5, train_encoder=False)]) == 0
    assert set(result()["own"]) == {"map", "map_50", "map_75", "milliseconds", "images"}
    counted = json.loads(Path("out/metrics.json").read_text())["parameters"]
    assert counted["encoder"]["trained"] == 0
    model, _ = load_task_model("detection", "out")
    assert model.config.id2label[7] == "heart"


def test_a_dense_tower_to_compare_with(write, open_clip_dir, capsys):
    recipe = write("segmentation")
    assert main(["train-task", recipe, f"encoder={open_clip_dir}"]) == 0
    first = result()["own"]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "config.json",
        "head.safetensors",
        "metrics.json",
        "preprocessor_config.json",
    ]
    counted = json.loads(Path("out/metrics.json").read_text())["parameters"]
    assert (counted["encoder"]["trained"], counted["head"]["all"]) == (0, 33 * 10)
    assert main(["train-task", recipe, "--evaluate", "out"]) == 0
    assert (
        f"out, 17 tokens, on 6 images of synthetic:validation:6:size=48: miou {first['miou']:.1%}"
        in capsys.readouterr().out
    )


def test_dry_run(write, capsys):
    given = ["train-task", write("segmentation", num_classes=150), "image_size=64", "num_tokens=17", "--dry-run", "2"]
    assert main(given) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "for segmentation, 17 tokens, 64 pixels: " in first
    assert "images/s, peak memory " in second
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task=depth"], "task=depth: one of classification"),
        (["mixup=0.5"], "mixup: belongs to the task classification"),
        (["task=classification", "label_smoothing=0.1", "trainer.per_device_train_batch_size=3"], "must be even"),
        (["validation=synthetic:nowhere:4"], "nowhere"),
        (["train=ade20k:there:validate"], "write ade20k:FOLDER:SPLIT with a split of train, validation"),
        (["decoder_width=70"], "decoder_width=70 is no multiple of 64"),
        (["encoder=nothing"], "nothing"),
        (["lora_rank=2", "ema=0.9"], "lora_rank: goes with neither"),
        (["--evaluate", "nothing"], "nothing: is no directory of a model"),
        (["--dry-run", "1"], "num_classes: a dry run opens no images"),
    ],
)
def test_mistakes_are_one_line(write, changes, message, capsys):
    assert main(["train-task", write("segmentation"), *changes]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def recipe_of(encoder_dir, **values) -> TaskRecipe:
    return TaskRecipe(output="out", encoder=str(encoder_dir), **{"task": "segmentation", **SYNTHETIC, **values})


class Known:
    """A model whose logits are known: the brightness of a pixel is its class."""

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, pixels, num_tokens=None):
        level = (pixels.mean(dim=1, keepdim=True) * 3).round()
        return transformers.modeling_outputs.SemanticSegmenterOutput(
            logits=-(level - torch.arange(4.0)[:, None, None]).abs()
        )


def test_miou_is_over_all_pixels_and_ignores_what_does_not_count(encoder_dir):
    class Images:
        source, names, class_of = "these", ["a", "b", "c", "d"], int
        dataset = [  # noqa: RUF012
            {
                "image": Image.new("RGB", (len(row), 4), (level,) * 3),
                "mask": Image.fromarray(np.array([row] * 4, np.uint8)),
            }
            for level, row in ((85, [1, 1]), (170, [2, 2, 0, 255]))
        ]

    _, processor = load_encoder(recipe_of(encoder_dir, image_size=32))
    processor.image_mean, processor.image_std = [0.0] * 3, [1.0] * 3
    found = measure(Known(), processor, recipe_of(encoder_dir), Images, torch.device("cpu"))
    # 8 pixels of 1 are right, of 12 that count 8 are 2 and 4, which are 0, are taken for 2; 3 is nowhere
    assert found["iou"] == pytest.approx({"a": 0.0, "b": 1.0, "c": 8 / 12})
    assert found["miou"] == pytest.approx((0 + 1 + 8 / 12) / 3)
    assert found["pixel_accuracy"] == pytest.approx(16 / 20)


def test_windows_cover_the_image_and_agree_with_it_whole(encoder_dir):
    _, processor = load_encoder(recipe_of(encoder_dir, image_size=32))
    processor.image_mean, processor.image_std = [0.0] * 3, [1.0] * 3
    image = Image.fromarray(np.repeat(np.arange(100, dtype=np.uint8)[None, :, None] * 2, 40, 0).repeat(3, 2))
    logits = _in_windows(Known(), processor, image, 20, torch.device("cpu"), None)
    assert logits.shape == (4, 40, 100)
    levels = logits.argmax(dim=0)[20]
    assert (levels.diff() >= 0).all()
    assert levels.unique().tolist() == [0, 1, 2]


def test_views_turn_image_and_labels_alike(encoder_dir):
    recipe = recipe_of(encoder_dir, crop_scale=0.3, flip=True)
    _, processor = load_encoder(recipe)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:40] = 255
    sample = {"image": Image.fromarray(pixels), "mask": Image.fromarray(pixels[..., 0] // 255), "index": 3}
    batch = TaskCollator("segmentation", processor, int, recipe, seed=1)([sample])
    again = TaskCollator("segmentation", processor, int, recipe, seed=1)([sample])
    torch.testing.assert_close(batch["pixel_values"], again["pixel_values"])
    bright = batch["pixel_values"][0].mean(dim=0) > 0
    assert (bright == batch["labels"][0].bool()).float().mean() > 0.9
    recipe = recipe_of(encoder_dir, task="detection", crop_scale=0.3, flip=True)
    sample |= {"boxes": [[1 / 3, 0.25, 2 / 3, 0.75]], "labels": [5]}
    for index in range(4):
        batch = TaskCollator("detection", processor, int, recipe)([{**sample, "index": index}])
        (x, y, w, h), side = batch["labels"][0]["boxes"][0].tolist(), 32
        bright = batch["pixel_values"][0].mean(dim=0) > 0
        rows, columns = (bright.any(dim=axis).nonzero().flatten() for axis in (1, 0))
        assert abs((x - w / 2) * side - columns.min()) <= 1.5
        assert abs((y + h / 2) * side - rows.max() - 1) <= 1.5


def test_a_head_that_is_there_is_kept_and_tokens_go_on_nested(tmp_path, encoder_dir):
    folder = tiny.sparseformer(tmp_path, projection_dim=3, projection_bias=True, num_labels=3, nested_tokens=True)
    recipe = recipe_of(folder, task="classification", num_tokens=8)
    tower, _ = load_encoder(recipe)
    model = build_model(recipe, tower, ["a", "b", "c"], 32)
    torch.testing.assert_close(model.sparseformer.projection.weight, tower.projection.weight)
    torch.testing.assert_close(model.sparseformer.latent.rois[:4], tower.latent.rois)
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 3)
    other = build_model(recipe, tower, ["a", "b"], 32)
    assert other.sparseformer.projection.out_features == 2
    assert freeze(recipe_of(folder, task="classification", train_encoder=False), other) is None
    assert count_parameters(other, "classification")["encoder"]["trained"] == 0


def save(array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def test_folders_of_ade20k_and_cityscapes(tmp_path):
    for name in ("a", "b"):
        save(np.zeros((4, 6, 3)), tmp_path / "images" / "validation" / f"{name}.jpg")
        save([[0, 1, 2, 150, 3, 9]] * 4, tmp_path / "annotations" / "validation" / f"{name}.png")
    rows = ["Idx\tRatio\tTrain\tVal\tName", *(f"{n}\t0\t1\t1\tname {n}, more" for n in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    opened = open_segmented(f"ade20k:{tmp_path}:validation")
    assert (len(opened.class_names), opened.class_names[0], len(opened.dataset)) == (150, "name 1", 2)
    assert np.asarray(opened.dataset[1]["mask"])[0].tolist() == [255, 0, 1, 149, 2, 8]
    (tmp_path / "annotations" / "validation" / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png: there is no such mask"):
        open_segmented(f"ade20k:{tmp_path}:validation")
    with pytest.raises(InputError, match="holds no images"):
        open_segmented(f"ade20k:{tmp_path}:train")

    save(np.zeros((2, 3, 3)), tmp_path / "leftImg8bit/val/ulm/ulm_0_0_leftImg8bit.png")
    save([[7, 33, 0], [26, 34, 24]], tmp_path / "gtFine/val/ulm/ulm_0_0_gtFine_labelIds.png")
    opened = open_segmented(f"cityscapes:{tmp_path}:validation")
    assert np.asarray(opened.dataset[0]["mask"]).tolist() == [[0, 18, 255], [13, 255, 11]]
    assert (opened.class_names[13], opened.class_names[11], len(opened.class_names)) == ("car", "person", 19)


def test_boxes_of_coco_and_scenes(tmp_path):
    tiny.image(0, 50, 40).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 50, "height": 40}, {"id": 8, "file_name": "none.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [10, 10, 20, 20], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    opened = open_boxed(f"coco:{tmp_path / 'boxes.json'}:{tmp_path}")
    assert (opened.class_names, len(opened.dataset)) == (["car", "dog"], 1)
    assert opened.dataset[0]["boxes"] == [[0.2, 0.25, 0.6, 0.75]]
    assert opened.dataset[0]["labels"] == [1]
    scenes, masks = open_boxed("synthetic:train:4:size=64"), open_segmented("synthetic:train:4:size=64")
    for boxed, segmented in zip(scenes.dataset, masks.dataset, strict=True):
        names = {scenes.class_names[label] for label in boxed["labels"]}
        present = {masks.class_names[value] for value in np.unique(np.asarray(segmented["mask"]))}
        assert present - {"background", "text"} <= names
        x1, y1, x2, y2 = (round(64 * each) for each in boxed["boxes"][-1])
        inside = np.asarray(segmented["mask"])[y1:y2, x1:x2]
        assert masks.class_names.index(scenes.class_names[boxed["labels"][-1]]) in inside
    with pytest.raises(InputError, match=r"write coco:FILE\.json:FOLDER"):
        open_boxed("coco:boxes.json:nowhere")


def test_classes_without_names(tmp_path, encoder_dir):
    with pytest.raises(InputError, match="num_classes"):
        TaskImages(recipe_of(encoder_dir, task="classification"), _numbers(tmp_path), None, (32, 32))
    images = TaskImages(
        recipe_of(encoder_dir, task="classification", num_classes=4), _numbers(tmp_path), None, (32, 32)
    )
    assert images.names == ["class 0", "class 1", "class 2", "class 3"]
    samples = images.to_train(seed=0)
    assert sorted(sample["label"] for sample, _ in zip(samples, range(3), strict=False)) == [0, 1, 3]


def _numbers(folder: Path) -> str:
    for index, label in enumerate((3, 0, 1)):
        tiny.image(index).save(folder / f"{index}.png")
        (folder / f"{index}.cls").write_text(str(label))
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for file in sorted(folder.glob("[0-9].*")):
            tar.add(file, file.name)
    return f"webdataset:{folder}/shard.tar"
