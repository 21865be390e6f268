"""A result of stage 1 that refers to its language model: small, loaded everywhere as the copy is, whole once saved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText

from data import InputError
from mllm.cli import main
from mllm.finetuning.freezing import LoraRecipe
from mllm.finetuning.merge import merge, probe
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.run import finetune
from mllm.loading import load_model, load_plain
from tests import recipes, tiny

CONFIG = "config.json"


@pytest.fixture(scope="module", params=["untied", "tied"])
def world(request, tmp_path_factory, encoder_dir) -> Path:
    """A folder with lm/, data and stage 1's results copied/ and referring/; <image> is a new row of the embeddings."""
    folder = tmp_path_factory.mktemp("reference")
    tied = request.param == "tied"
    tiny.language_model(folder / "lm", kind="bpe" if tied else "sentencepiece", tie=tied, dtype=torch.bfloat16)
    recipes.conversations(folder)
    for name in ("copied", "referring"):
        run(folder, name, encoder=str(encoder_dir), reference_language_model=name == "referring")
    return folder


def run(folder: Path, name: str, stage: str = "projector", **changes) -> None:
    trainer = {**recipes.TRAINER, **changes.pop("trainer", {})}
    if "encoder" in changes:
        changes.setdefault("language_model", str(folder / "lm"))
    data = [str(folder / "data.json")]
    finetune(FinetuneRecipe(stage=stage, output=str(folder / name), data=data, trainer=trainer, **changes))


@pytest.fixture
def moved(world, tmp_path) -> Path:
    """The same elsewhere, to be changed at will."""
    return Path(shutil.copytree(world, tmp_path / "moved"))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def answer(directory: Path) -> torch.Tensor:
    return probe(*load_model(directory, "cpu"))


def test_only_encoder_projector_and_new_rows_are_written(world):
    stored = load_file(world / "referring/model.safetensors")
    assert stored
    assert all(name.startswith(("model.vision_tower.", "model.multi_modal_projector.")) for name in stored)
    rows = load_file(world / "referring/language_model_rows.safetensors")
    assert {tuple(value.shape) for value in rows.values()} == {(1, 32)}
    copied = load_file(world / "copied/model.safetensors")
    for name, value in stored.items():
        assert torch.equal(value, copied[name])
        assert value.dtype == copied[name].dtype
    lm = sum(value.nbytes for value in load_file(world / "lm/model.safetensors").values())
    assert size(world / "copied") - size(world / "referring") > 0.9 * lm
    assert json.loads((world / "referring" / CONFIG).read_text())["language_model_reference"] == "../lm"
    assert "language_model_reference" not in (world / "copied" / CONFIG).read_text()
    assert not list(world.glob("*/assembled")) + list(world.glob("*/checkpoint-*"))


def test_all_loaders_make_the_same_model_of_it_as_of_a_copy(world, moved):
    shutil.rmtree(moved / "copied")
    expected = load_plain(world / "copied")
    for folder in (world, moved):
        directory = folder / "referring"
        assert torch.equal(answer(directory), answer(world / "copied"))
        for loaded in (load_plain(directory), AutoModelForImageTextToText.from_pretrained(directory)):
            weights = loaded.state_dict()
            assert loaded.generation_config == expected.generation_config
            for name, value in expected.state_dict().items():
                assert (weights[name].dtype, torch.equal(weights[name], value)) == (value.dtype, True), name
            assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == loaded.config.tie_word_embeddings
    assert load_plain(world / "referring", torch.float32).dtype == torch.float32
    inner = AutoModel.from_pretrained(moved / "referring")
    for name, value in expected.model.state_dict().items():
        assert torch.equal(inner.state_dict()[name], value), name


def test_what_is_saved_of_it_stands_alone(world, tmp_path):
    directory = shutil.copytree(world / "referring", tmp_path / "alone" / "deeper")
    config = json.loads((directory / CONFIG).read_text())
    config["language_model_reference"] = os.path.relpath(world / "lm", directory)
    (directory / CONFIG).write_text(json.dumps(config))
    model = load_plain(directory)
    model.save_pretrained(tmp_path / "saved")
    saved, copied = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", world / "copied"))
    assert saved.keys() == copied.keys()
    assert "language_model_reference" not in (tmp_path / "saved" / CONFIG).read_text()


def test_lora_on_it_merges_and_full_tuning_writes_a_whole_model(world, moved):
    expected = {}
    for start in ("copied", "referring"):
        lora = LoraRecipe(rank=2, alpha=4, dropout=0.0)
        run(moved, f"{start}-lora", "lora", model=str(moved / start), lora=lora)
        expected[start] = answer(moved / f"{start}-lora")
        merge(moved / f"{start}-lora", moved / f"{start}-merged")
        run(moved, f"{start}-full", "full", model=str(moved / start))
    assert torch.equal(expected["copied"], expected["referring"])
    merged = answer(moved / "referring-merged")
    shutil.rmtree(moved / "lm")
    assert torch.equal(answer(moved / "referring-merged"), merged)
    for kind in ("merged", "full"):
        one, other = (load_file(moved / f"{start}-{kind}/model.safetensors") for start in ("copied", "referring"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match=r"referring: its language model .*/lm is not there; move it back"):
        load_model(moved / "referring-lora")


@pytest.mark.parametrize("world", ["untied"], indirect=True)
def test_commands_take_it(world, capsys, tmp_path):
    printed = []
    for name in ("copied", "referring"):
        assert main(["info", str(world / name), "--json"]) == 0
        tiny.image(1).save(tmp_path / "a.png")
        chat = f"chat --device cpu --model {world / name} --image {tmp_path}/a.png --prompt Red? --max-new-tokens 4"
        assert main(chat.split()) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("world", ["untied"], indirect=True)
def test_another_language_model_is_one_line(world, moved, capsys):
    lm = moved / "lm/model.safetensors"
    weights, config = load_file(lm), json.loads((moved / "lm" / CONFIG).read_text())

    def fault(changed: dict, **changes) -> str:
        save_file(changed, lm, {"format": "pt"})
        (moved / "lm" / CONFIG).write_text(json.dumps({**config, **changes}))
        assert main(["chat", "--model", str(moved / "referring"), "--prompt", "Hi", "--text-only"]) == 2
        error = capsys.readouterr().err
        assert (error[:7], error.count("\n")) == ("error: ", 1)
        with pytest.raises(InputError):
            AutoModelForImageTextToText.from_pretrained(moved / "referring")
        return error

    first = "model.layers.0.mlp.up_proj.weight"
    assert f"missing: {first}\n" in fault({k: v for k, v in weights.items() if k != first})
    assert "unexpected: more\n" in fault({**weights, "more": torch.ones(2)})
    assert "NaN" in fault({**weights, first: weights[first] * float("nan")})
    fewer = {name: value for name, value in weights.items() if "layers.1." not in name}
    assert "put back the one" in fault(fewer, num_hidden_layers=1)
    across = {name: value[:16].clone() for name, value in weights.items() if "gate_proj" in name or "up_proj" in name}
    back = {name: value[:, :16].clone() for name, value in weights.items() if "down_proj" in name}
    halved = {**weights, **across, **back}
    assert "wrong shape: " in fault(halved, intermediate_size=16)
    shutil.rmtree(moved / "lm")
    assert main(["chat", "--model", str(moved / "referring"), "--prompt", "Hi", "--text-only"]) == 2
    error = capsys.readouterr().err
    assert f"its language model {moved / 'lm'} is not there; move it back, or correct" in error


@pytest.mark.parametrize("world", ["untied"], indirect=True)
def test_a_name_on_the_hub_is_taken_from_the_cache(world, moved, tmp_path, encoder_dir, monkeypatch):
    repository = tmp_path / "hub/models--tiny--lm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    (moved / "lm").rename(moved / "elsewhere")
    shutil.copytree(moved / "elsewhere", repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    parts = {"encoder": str(encoder_dir), "language_model": str(moved / "elsewhere")}
    run(moved, "named", **parts, reference_language_model="tiny/lm")
    assert json.loads((moved / "named" / CONFIG).read_text())["language_model_reference"] == "tiny/lm"
    shutil.rmtree(moved / "elsewhere")
    assert torch.equal(answer(moved / "named"), answer(world / "copied"))
    shutil.rmtree(repository)
    with pytest.raises(InputError, match=r"language_model_reference: .*; fetch it: hf download tiny/lm"):
        load_plain(moved / "named")


@pytest.mark.parametrize("world", ["untied"], indirect=True)
def test_an_interrupted_run_goes_on(world, moved, encoder_dir, monkeypatch):
    (moved / "again").mkdir()

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    parts = {"encoder": str(encoder_dir), "reference_language_model": True}
    with monkeypatch.context() as patch:
        patch.setattr("mllm.finetuning.trainer.FinetuneTrainer.write_result", stop)
        with pytest.raises(KeyboardInterrupt):
            run(moved, "again", **parts)
    checkpoint = moved / "again/checkpoint-2"
    assert torch.isfinite(answer(checkpoint)).all()  # checkpoints refer too
    shutil.rmtree(moved / "again/checkpoint-4")
    recipe = {"data": [str(moved / "data.json")], "language_model": str(moved / "lm"), "trainer": recipes.TRAINER}
    finetune(FinetuneRecipe(stage="projector", output=str(moved / "again"), **parts, **recipe), resume=True)
    assert torch.equal(answer(moved / "again"), answer(world / "copied"))


def test_it_belongs_to_stage_projector_from_parts():
    for fields in ({"stage": "lora", "model": "m"}, {"stage": "projector", "model": "m"}, {"stage": "full"}):
        parts = {} if "model" in fields else {"encoder": "e", "language_model": "l"}
        with pytest.raises(InputError, match="reference_language_model: belongs to stage projector"):
            FinetuneRecipe(output="o", data=["d"], reference_language_model=True, **fields, **parts)
    with pytest.raises(InputError, match="reference_language_model: is no path"):
        FinetuneRecipe("projector", "o", ["d"], encoder="e", language_model="l", reference_language_model="../l")


def test_a_material_is_referred_to_by_its_name(world, moved, encoder_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("MLLM_MATERIALS", str(tmp_path))
    parts = {"encoder": str(encoder_dir), "language_model": "material:smollm2", "reference_language_model": True}
    with pytest.raises(InputError, match="material:smollm2: is not here yet; run `mllm fetch smollm2` once"):
        run(moved, "by-name", **parts)
    shutil.copytree(world / "lm", tmp_path / "smollm2-0.1.2-model")
    run(moved, "by-name", **parts)
    assert json.loads((moved / "by-name" / CONFIG).read_text())["language_model_reference"] == "material:smollm2"
    run(moved, "lora", "lora", model=str(moved / "by-name"), lora=LoraRecipe(rank=2, alpha=4, dropout=0.0))
    assert torch.equal(answer(moved / "by-name"), answer(world / "copied"))
    answer(moved / "lora")
    shutil.rmtree(tmp_path / "smollm2-0.1.2-model")
    with pytest.raises(InputError, match="run `mllm fetch smollm2` once"):
        answer(moved / "lora")
