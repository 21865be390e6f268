"""SparseFormers under a task: through transformers' Auto classes and pipelines, and through timm."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
import transformers
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy

import encoder.timm_models
from encoder import (
    PRESETS,
    SparseFormerBackbone,
    SparseFormerForImageClassification,
    SparseFormerImageProcessor,
    SparseFormerVisionModel,
)
from encoder.heads.grid import affinity, cells, splat
from encoder.official import load_official
from tests import tiny
from tests.test_official import published_file

NAMES = {0: "red", 1: "green", 2: "blue"}
TASKS = {
    "image-classification": transformers.AutoModelForImageClassification,
    "image-segmentation": transformers.AutoModelForSemanticSegmentation,
    "object-detection": transformers.AutoModelForObjectDetection,
}


@pytest.fixture(scope="module")
def classifier_dir(tmp_path_factory):
    return tiny.sparseformer(
        tmp_path_factory.mktemp("heads") / "classifier", projection_dim=3, projection_bias=True, id2label=NAMES
    )


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 32, 48)


def test_a_classifier_is_a_vision_model_and_the_other_way_round(classifier_dir, pixels, tmp_path):
    tower = SparseFormerVisionModel.from_pretrained(classifier_dir)
    model, report = SparseFormerForImageClassification.from_pretrained(classifier_dir, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(model(pixels).logits, tower(pixels).image_embeds)
    model.save_pretrained(tmp_path)
    tower, report = SparseFormerVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(model(pixels, num_tokens=3).logits, tower(pixels, num_tokens=3).image_embeds)
    labels = torch.tensor([2, 0])
    expected = torch.nn.functional.cross_entropy(model(pixels).logits, labels)
    torch.testing.assert_close(model(pixels, labels=labels).loss, expected)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SparseFormerForImageClassification.from_pretrained(classifier_dir, num_labels=5)
    model = SparseFormerForImageClassification.from_pretrained(
        classifier_dir, num_labels=5, ignore_mismatched_sizes=True
    )
    assert model(pixels).logits.shape == (2, 5)


@pytest.mark.parametrize("task", TASKS)
def test_pipelines(task, classifier_dir, tmp_path):
    model = TASKS[task].from_pretrained(classifier_dir, decoder_width=64)
    if task == "object-detection":  # so that something is found
        with torch.no_grad():
            model.class_labels_classifier.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    model.save_pretrained(tmp_path)
    SparseFormerImageProcessor.from_pretrained(classifier_dir).save_pretrained(tmp_path)
    found = transformers.pipeline(task, model=str(tmp_path))(tiny.image(0, 50, 40))
    assert {each["label"] for each in found} <= set(NAMES.values())
    if task == "image-classification":
        assert sum(each["score"] for each in found) == pytest.approx(1)
    elif task == "image-segmentation":
        masks = [torch.tensor(list(each["mask"].tobytes())).bool() for each in found]
        assert all(each["mask"].size == (50, 40) for each in found)
        assert sum(mask.sum() for mask in masks) == 50 * 40
    else:
        assert len(found) == 4  # latent tokens
        assert {each["label"] for each in found} == {"green"}
        assert all(0 <= each["box"]["xmin"] <= each["box"]["xmax"] <= 50 for each in found)


def test_dense_heads_train_every_weight(classifier_dir, pixels):
    masks = torch.randint(0, 3, (2, 32, 48))
    masks[0, :5] = 255
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    objects = [
        {"class_labels": torch.tensor([2]), "boxes": boxes},
        {"class_labels": masks[0, 9, :0], "boxes": boxes[:0]},
    ]
    for task, labels in (("image-segmentation", masks), ("object-detection", objects)):
        model = TASKS[task].from_pretrained(classifier_dir, decoder_width=64)
        model(pixels, labels=labels).loss.backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    model = TASKS["image-segmentation"].from_pretrained(classifier_dir, decoder_width=64, decoder="splat")
    outputs = model(pixels, labels=masks)
    assert outputs.logits.shape == (2, 3, 8, 12)
    whole = torch.nn.functional.interpolate(outputs.logits, (32, 48), mode="bilinear")
    counted = masks != 255
    expected = -whole.log_softmax(1).gather(1, masks.clamp(max=2)[:, None])[:, 0][counted].mean()
    torch.testing.assert_close(outputs.loss, expected)


def test_a_pixel_takes_the_token_whose_roi_it_lies_in():
    rois = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0]]])
    tokens = torch.eye(3)[None]
    grid = splat(tokens, rois, 4, 4)[0]
    assert grid.sum(0).allclose(torch.ones(4, 4))
    assert grid.argmax(0).tolist()[0] == [0, 0, 1, 1]
    assert grid.argmax(0).tolist()[3] == [2, 2, 2, 2]
    assert cells(2, 4, rois)[5].tolist() == [0.25, 0.5, 0.5, 1.0]
    assert affinity(rois, cells(4, 4, rois)).shape == (1, 16, 3)


def test_backbone_of_other_heads(classifier_dir, pixels):
    model = SparseFormerBackbone.from_pretrained(classifier_dir, out_features=["stem", "stage2"])
    tower = SparseFormerVisionModel.from_pretrained(classifier_dir)
    stem, last = model(pixels).feature_maps
    assert (stem.shape, last.shape, model.channels) == ((2, 8, 8, 12), (2, 32, 2, 3), [8, 32])
    outputs = tower(pixels)
    torch.testing.assert_close(last, splat(outputs.last_hidden_state[:, 1:], outputs.rois, 2, 3))
    config = transformers.UperNetConfig(backbone_config=model.config, hidden_size=16, use_auxiliary_head=False)
    upernet = transformers.UperNetForSemanticSegmentation(config)
    assert isinstance(upernet.backbone, SparseFormerBackbone)
    assert upernet(pixels).logits.shape == (2, 2, 32, 48)


def test_a_published_classifier_names_imagenet():
    model = load_official("sparseformer_v1_tiny", published_file())
    assert (model.config.num_labels, model.config.id2label[1]) == (1000, "goldfish, Carassius auratus")
    name = "sparseformer_btsp_openai_clip_base"
    assert load_official(name, published_file(name)).config.num_labels == 2


SMALL = {"units": tiny.sparseformer_config().units, "attention_head_dim": 8, "early_channels": 8}


def test_timm(tmp_path):
    assert set(timm.list_models("sparseformer*")) == set(PRESETS)
    with torch.device("meta"):
        published = {name: timm.create_model(name) for name in PRESETS}
    data = resolve_data_config({}, model=published["sparseformer_v1_tiny"])
    assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 224, 224), 0.875, "bicubic")

    name = "sparseformer_btsp_augreg_base"
    model = timm.create_model(name, num_classes=3, drop_path_rate=0.1, **SMALL)
    # as timm's train.py does an epoch, and its validate.py
    for number, color in enumerate(("red", "green", "blue")):
        for index in range(4):
            (tmp_path / color).mkdir(exist_ok=True)
            tiny.image(number * 4 + index).save(tmp_path / color / f"{index}.png")
    data = resolve_data_config({"input_size": (3, 32, 32)}, model=model)
    loaders = [
        create_loader(
            create_dataset("", root=str(tmp_path)),
            data["input_size"],
            batch_size=4,
            is_training=training,
            num_workers=0,
            use_prefetcher=False,
            mean=data["mean"],
            std=data["std"],
        )
        for training in (True, False)
    ]
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    rates = {group["lr_scale"] for group in optimizer.param_groups}
    assert rates == {1, 0.5, 0.25, 0.125, 0.0625, 0.03125}
    scale = {id(weight): group["lr_scale"] for group in optimizer.param_groups for weight in group["params"]}
    assert scale[id(model.projection.weight)] == scale[id(model.norm.weight)] == 1
    assert scale[id(model.latent.embedding)] == 0.03125
    for images, labels in loaders[0]:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    top = AverageMeter()
    model.eval()
    for images, labels in loaders[1]:
        top.update(accuracy(model(images), labels)[0], len(images))
    assert (top.count, 0 <= top.avg <= 100) == (12, True)

    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), SparseFormerVisionModel.forward(model, images).image_embeds)
    model.save_pretrained(tmp_path / "saved")
    again = timm.create_model(
        name, num_classes=3, checkpoint_path=str(tmp_path / "saved" / "model.safetensors"), **SMALL
    ).eval()
    torch.testing.assert_close(again(images), model(images))
    torch.testing.assert_close(
        again.forward_head(again.forward_features(images), True), again.pool(again.forward_features(images))[1]
    )
    again.reset_classifier(0)
    assert again(images).shape == (2, 32)


def test_timm_loads_a_published_file(tmp_path):
    name = "sparseformer_v1_tiny"
    torch.save({"model": {key: weight.clone() for key, weight in published_file().items()}}, tmp_path / "file.pth")
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "file.pth")})
    official = load_official(name, published_file())
    for key, weight in official.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], weight)


def test_a_script_of_timm_s_knows_the_names(tmp_path, monkeypatch, capsys):
    (tmp_path / "validate.py").write_text("import sys, timm\nprint(*sys.argv[1:], *timm.list_models('*_v1_*mall'))\n")
    monkeypatch.setattr(sys, "argv", ["timm_models.py", str(tmp_path / "validate.py"), "--model", "x"])
    encoder.timm_models.main()
    assert "--model x sparseformer_v1_small" in capsys.readouterr().out
