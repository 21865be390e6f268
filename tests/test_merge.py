"""From an adapter to a plain model: equal logits, a directory that needs no peft, errors that name the fix."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from data import InputError
from mllm.cli import main
from mllm.finetuning.data import Collator
from mllm.finetuning.freezing import LoraRecipe, freeze
from mllm.finetuning.merge import merge
from mllm.finetuning.trainer import point_to_base
from mllm.loading import load_model, load_plain
from mllm.prompts import encode_conversation
from tests import tiny
from tests.tiny import assistant, image, user

TALK = {"id": "1", "images": [image(0)], "messages": [user("Is it red?", images=1), assistant("Yes.")]}


@pytest.fixture(scope="module", params=["untied", "tied"])
def pair(request, tmp_path_factory, encoder_dir, language_model_dir, bpe_language_model_dir):
    """(folder with base/ and adapter/, inputs, the adapted model's logits)."""
    folder = tmp_path_factory.mktemp("merge")
    lm = language_model_dir if request.param == "untied" else bpe_language_model_dir
    base = tiny.model(folder / "base", encoder_dir, lm, roi_embedding=True)
    return folder, *trained(folder / "adapter", base, LoraRecipe(rank=4, alpha=8, vision=True))


def trained(adapter, base, lora):
    """Writes an adapter with random updates, by our recipe or in peft's words; inputs and logits on the model."""
    model, processor = load_model(base)
    model = freeze(model, "lora", lora) if isinstance(lora, LoraRecipe) else get_peft_model(model, lora)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(adapter)
    processor.save_pretrained(adapter)
    point_to_base(adapter, base)
    inputs = Collator(processor.tokenizer.pad_token_id)([encode_conversation(processor, TALK)])
    return inputs, logits(model.eval(), inputs)


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def test_merged_model_has_the_adapters_logits(pair, tmp_path):
    folder, inputs, expected = pair
    out = merge(folder / "adapter", tmp_path / "model")
    assert not (out / "adapter_config.json").exists()
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert not isinstance(model, PeftModel)
    torch.testing.assert_close(logits(model.eval(), inputs), expected, atol=1e-4, rtol=1e-4)
    base = AutoModelForImageTextToText.from_pretrained(folder / "base")
    assert (logits(base.eval(), inputs) - expected).abs().max() > 0.01
    assert AutoProcessor.from_pretrained(out).image_token == "<image>"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_merged_model_answers_with_a_cache(pair, tmp_path):
    folder, _, _ = pair
    shutil.copytree(folder, tmp_path / "trained")
    file = tmp_path / "trained" / "base" / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["use_cache"] = False  # as a Trainer leaves a language model
    file.write_text(json.dumps(config))
    merged = json.loads((merge(tmp_path / "trained" / "adapter", tmp_path / "model") / "config.json").read_text())
    assert merged["text_config"]["use_cache"] is True


def test_directories_can_be_moved_together(pair, tmp_path):
    folder, inputs, expected = pair
    shutil.copytree(folder, tmp_path / "elsewhere")
    config = json.loads((tmp_path / "elsewhere" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../base"
    model, _ = load_model(tmp_path / "elsewhere" / "adapter")
    torch.testing.assert_close(logits(model, inputs), expected, atol=1e-4, rtol=1e-4)


def test_a_lost_base_is_named_and_can_be_given(pair, tmp_path):
    folder, inputs, expected = pair
    shutil.copytree(folder / "adapter", tmp_path / "adapter")
    with pytest.raises(InputError, match="--base DIR"):
        merge(tmp_path / "adapter", tmp_path / "model")
    assert main(["merge", str(tmp_path / "adapter"), "--out", str(tmp_path / "model"), "--base", f"{folder}/base"]) == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(logits(model, inputs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("file", ["base/model.safetensors", "adapter/adapter_model.safetensors"])
def test_weights_that_are_no_numbers(file, pair, tmp_path, capsys):
    shutil.copytree(pair[0], tmp_path / "trained")
    weights = load_file(tmp_path / "trained" / file)
    name = min(weights)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "trained" / file, metadata={"format": "pt"})
    assert main(["merge", str(tmp_path / "trained" / "adapter"), "--out", str(tmp_path / "model")]) == 2
    assert f"{name} holds NaN or infinite values" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------------- tied embeddings

QUERIES = r".*language_model.*q_proj"
TIED = {
    "all": LoraRecipe(rank=4, alpha=8, targets=".*"),
    "head": LoraConfig(r=4, target_modules=["lm_head"]),
    "embeddings": LoraConfig(r=4, target_modules=["embed_tokens"]),
    "tied by peft": LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True),
    "trained whole": LoraConfig(r=4, target_modules=QUERIES, modules_to_save=["embed_tokens"]),
    "trained whole, tied": LoraConfig(
        r=4, target_modules=QUERIES, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "tokens": LoraConfig(r=4, target_modules=QUERIES, trainable_token_indices=[3, 5]),
}


@pytest.fixture(scope="module")
def tied_dir(tmp_path_factory, encoder_dir, bpe_language_model_dir):
    return tiny.model(tmp_path_factory.mktemp("tied") / "base", encoder_dir, bpe_language_model_dir)


@pytest.mark.parametrize("lora", TIED.values(), ids=TIED)
def test_an_adapter_on_tied_embeddings_merges_to_its_logits(lora, tied_dir, tmp_path):
    inputs, expected = trained(tmp_path / "adapter", tied_dir, lora)
    assert (logits(load_plain(tied_dir).eval(), inputs) - expected).abs().max() > 0.1
    merged = AutoModelForImageTextToText.from_pretrained(merge(tmp_path / "adapter", tmp_path / "model")).eval()
    torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(load_model(tmp_path / "adapter")[0], inputs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision(dtype, model_dir, tmp_path):
    model, processor = load_model(model_dir, dtype=dtype)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    inputs, expected = trained(tmp_path / "adapter", tmp_path / "base", LoraRecipe(rank=4, alpha=8))
    merged = AutoModelForImageTextToText.from_pretrained(merge(tmp_path / "adapter", tmp_path / "model")).eval()
    assert {weight.dtype for weight in merged.parameters()} == {getattr(torch, dtype)}
    assert (logits(merged, inputs) - expected).norm() < 0.05 * expected.norm()


def test_a_merge_that_changes_the_answers_is_not_written(tied_dir, tmp_path, monkeypatch):
    trained(tmp_path / "adapter", tied_dir, TIED["head"])
    monkeypatch.setattr("mllm.finetuning.merge.merge_adapter", lambda model, _: model.merge_and_unload())  # still tied
    with pytest.raises(InputError, match="the merged model answers differently"):
        merge(tmp_path / "adapter", tmp_path / "model")
    assert not (tmp_path / "model").exists()
