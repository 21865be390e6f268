"""A projector that starts with images near to the words for what they show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from data import InputError
from data.bad_samples import BadSamples
from data.sources import MixedConversations
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.run import assemble_parts
from mllm.finetuning.start import RidgeRecipe, named_images
from mllm.loading import load_model
from mllm.modeling import new_projector
from mllm.projector_start import fit_ridge, name_embedding
from projector import LinearProjector, complete_options, register_projector
from tests.shapes import MODEL


def named(source: str, count: int) -> list:
    return list(named_images(RidgeRecipe(labeled=source, images=count), (64, 64), BadSamples()))


@pytest.fixture(scope="module")
def scenes() -> tuple[list, list]:
    """Generated images of one object each and its name: to start on, and others."""
    return named("synthetic:train:1200:size=64", 300), named("synthetic:validation:300:size=64", 100)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_the_nearest_words_are_those_for_what_is_seen(kind, scenes):
    model, processor = load_model(MODEL, "cpu", "float32")
    model.config.projector, model.config.projector_options = kind, complete_options(kind)
    model.model.multi_modal_projector = new_projector(model.config)
    start_on, held_out = scenes
    names = sorted({name for _, name in start_on})
    words = torch.stack([name_embedding(model, processor.tokenizer, name) for name in names])
    pixels = processor.image_processor([image for image, _ in held_out], return_tensors="pt")["pixel_values"]

    def right() -> float:
        with torch.no_grad():
            seen = torch.stack(list(model.get_image_features(pixels).pooler_output)).mean(1)
        alike = F.normalize(seen - words.mean(0), dim=-1) @ F.normalize(words - words.mean(0), dim=-1).T
        return sum(names[row] == name for row, (_, name) in zip(alike.argmax(1), held_out, strict=True)) / len(held_out)

    assert len(names) > 50
    assert right() < 0.1
    fit_ridge(model, processor.image_processor, processor.tokenizer, start_on)
    assert right() > 0.75


def recipe(folder, encoder_dir, language_model_dir, **values) -> FinetuneRecipe:
    """Of stage projector, with images of three colors in a folder each to start on."""
    for name in ("red", "yellow", "blue"):
        (folder / "colors" / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            Image.new("RGB", (32, 32 + number), name).save(folder / "colors" / name / f"{number}.png")
    (folder / "colors" / "red" / "broken.png").write_bytes(b"nothing")
    parts = {"encoder": str(encoder_dir), "language_model": str(language_model_dir)}
    ridge = RidgeRecipe(labeled=str(folder / "colors"))
    return FinetuneRecipe(**{"stage": "projector", "output": "out", "data": ["-"], "ridge": ridge, **parts, **values})


def projector(folder, given: FinetuneRecipe) -> dict[str, torch.Tensor]:
    data = MixedConversations([])
    assemble_parts(given, folder, data, (32, 32))
    return load_file(folder / "model.safetensors"), data.bad.count


def test_a_recipe_starts_the_last_layer_alone_and_always_alike(tmp_path, encoder_dir, language_model_dir):
    given = recipe(tmp_path, encoder_dir, language_model_dir)
    (once, bad), (again, _) = (projector(tmp_path / name, given) for name in ("once", "again"))
    without, _ = projector(tmp_path / "without", replace(given, ridge=RidgeRecipe()))
    assert bad == 1
    assert all(torch.equal(once[name], again[name]) for name in once)
    changed = {name for name in once if not torch.equal(once[name], without[name])}
    assert changed == {f"model.multi_modal_projector.linear_2.{name}" for name in ("weight", "bias")}


@register_projector("clamped")
class Clamped(LinearProjector):
    """Ends in no Linear."""

    def project(self, features, rois):
        return super().project(features, rois).clamp(-1, 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"projector": "clamped"}, "ridge: a Clamped does not end in a Linear"),
        ({"ridge": RidgeRecipe(labeled="nowhere")}, "nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_started_on(tmp_path, encoder_dir, language_model_dir, values, words):
    with pytest.raises(InputError, match=words):
        projector(tmp_path / "out", recipe(tmp_path, encoder_dir, language_model_dir, **values))
    assert not (tmp_path / "out").exists()


def test_contradictions():
    with pytest.raises(InputError, match="ridge: give one of labeled and captioned"):
        RidgeRecipe(labeled="a", captioned="b")
    with pytest.raises(InputError, match="ridge: give labeled or captioned"):
        RidgeRecipe(images=10)
    with pytest.raises(InputError, match="ridge: the model has its projector already"):
        FinetuneRecipe(stage="lora", output="out", data=["-"], model="m", ridge=RidgeRecipe(labeled="a"))
