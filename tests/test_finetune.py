"""Tuning in this process: what trains, what is written, and that a run goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import shutil
from datetime import date

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from data import InputError
from data.sources import open_conversations
from encoder.training.arguments import arguments
from mllm import processing
from mllm.finetuning.data import Collator, Curriculum, CurriculumStage, EncodedConversations
from mllm.finetuning.freezing import LoraRecipe, count, freeze, model_parts
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.run import finetune
from mllm.finetuning.trainer import FinetuneTrainer
from mllm.loading import load_model, load_plain
from mllm.prompts import IGNORE
from tests import recipes, tiny


def batch(processor, data: str) -> dict[str, torch.Tensor]:
    samples = EncodedConversations(open_conversations([data]), processor)
    return Collator(processor.tokenizer.pad_token_id)([samples[index] for index in range(3)])


def recipe(**changes) -> FinetuneRecipe:
    return FinetuneRecipe(**{"stage": "projector", "trainer": dict(recipes.TRAINER), **changes})


def logs(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


# ------------------------------------------------------------------------------------------------------ what trains


@pytest.mark.parametrize("stage", ["projector", "lora", "lora+vision", "full", "full+vision"])
def test_gradients_reach_what_trains_and_nothing_else(stage, model_dir, data, caplog):
    caplog.set_level(logging.INFO, logger="mllm")
    model, processor = load_model(model_dir)
    lora = LoraRecipe(rank=2, alpha=4, dropout=0.0, vision=stage == "lora+vision")
    model = freeze(model, stage.split("+")[0], lora, train_encoder=stage == "full+vision").train()
    model(**batch(processor, data)).loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    parts = {name: count(part.parameters(), trained_only=True) for name, part in model_parts(model).items()}
    trained_projector = load_plain(model_dir).model.multi_modal_projector
    assert parts["projector"] == count(trained_projector.parameters())
    assert (parts["language model"] > 0) == (stage != "projector")
    assert (parts["encoder"] > 0) == stage.endswith("vision")
    assert (parts["output head"] > 0) == stage.startswith("full")
    assert f"{parts['projector']:,}" in logs(caplog)
    if stage == "lora+vision":
        adapted = {name for name, p in model_parts(model)["encoder"].named_parameters() if p.requires_grad}
        assert {int(name.split(".")[1]) for name in adapted} == {3}  # what is left of the cortex


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_lora_reaches_a_vit_only_where_it_is_asked_to(tower, request, language_model_dir, tmp_path):
    encoder = request.getfixturevalue(f"{tower}_dir")
    model, _ = load_model(tiny.model(tmp_path / "model", encoder, language_model_dir))
    parts = model_parts(freeze(model, "lora", LoraRecipe(rank=2)))
    assert count(parts["encoder"].parameters(), trained_only=True) == 0
    assert count(parts["language model"].parameters(), trained_only=True) > 0
    seen = freeze(load_plain(tmp_path / "model"), "lora", LoraRecipe(rank=2, vision=True))
    adapted = {name for name, p in model_parts(seen)["encoder"].named_parameters() if p.requires_grad}
    assert len(adapted) == 2 * 6  # query, key, value, output and two of the MLP
    assert all("layers.0." in name for name in adapted)


def test_what_trains_is_float32_in_a_bfloat16_model(model_dir):
    model = freeze(load_plain(model_dir, "bfloat16"), "lora", LoraRecipe(rank=2))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model_parts(model)["language model"].parameters() if not p.requires_grad} == {
        torch.bfloat16
    }


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 400}
# Linear layers of a block, and parameters of a block's stacked experts
LANGUAGE_MODELS = {
    "phi3": (transformers.Phi3Config(**SIZES, intermediate_size=64, pad_token_id=0), 4, 0),
    "gpt2": (transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=400), 4, 0),
    "falcon": (transformers.FalconConfig(**SIZES), 4, 0),
    "opt": (transformers.OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32), 6, 0),
    "mixtral": (
        transformers.MixtralConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, num_local_experts=4),
        4,
        24576,
    ),
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_lora_reaches_every_linear_layer_of_the_language_model(name, encoder_dir, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="mllm")
    config, linear, experts = LANGUAGE_MODELS[name]
    tiny.bpe_tokenizer(tmp_path / "lm")
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "lm")
    base = tiny.model(tmp_path / "base", encoder_dir, tmp_path / "lm")
    model = freeze(load_plain(base), "lora", LoraRecipe(rank=2))
    assert f"LoRA on {2 * linear} of {2 * linear} linear layers" in logs(caplog)
    assert (f"does not reach the {2 * experts:,} parameters of experts" in logs(caplog)) == (experts > 0)
    assert not any(
        "lora" in key for part in ("encoder", "output head") for key, _ in model_parts(model)[part].named_parameters()
    )
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        transformers.AutoModelForImageTextToText.from_pretrained(base), tmp_path / "adapter"
    )
    assert get_peft_model_state_dict(again).keys() == get_peft_model_state_dict(model).keys()


def test_of_what_targets_match_the_linear_layers_get_lora(model_dir):
    model = freeze(load_plain(model_dir), "lora", LoraRecipe(rank=2, targets=".*"))
    parts = model_parts(model)
    assert all(
        any("lora" in key for key, _ in parts[part].named_parameters())
        for part in ("encoder", "language model", "output head")
    )
    assert not any("lora" in key for key, _ in parts["projector"].named_parameters())


@pytest.mark.parametrize("targets", ["nothing_like_this", "("])
def test_targets_that_match_nothing_are_refused(targets, model_dir):
    with pytest.raises(InputError, match=r"lora\.targets"):
        freeze(load_plain(model_dir), "lora", LoraRecipe(targets=targets))


def test_the_loss_needs_no_logits_in_front_of_the_first_answer(model_dir, data, tmp_path):
    model, processor = load_model(model_dir, "cpu")
    trainer = FinetuneTrainer(model=model, args=arguments({}, tmp_path), base=model_dir)
    given = batch(processor, data)
    places = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: places.append(output.shape[1]))
    torch.testing.assert_close(trainer.compute_loss(model, given), model(**given).loss)
    answered = (given["labels"] != IGNORE).any(dim=0).nonzero()[0].item()
    assert places == [given["labels"].shape[1] - (answered - 1), given["labels"].shape[1]]


def test_parts_have_learning_rates_of_their_own(model_dir, tmp_path):
    model = freeze(load_plain(model_dir), "full", train_encoder=True)
    args = arguments({"learning_rate": 1e-3, "weight_decay": 0.1}, tmp_path)
    rates = {"projector": 5e-4, "encoder": 2e-6}
    optimizer = FinetuneTrainer(model=model, args=args, base=model_dir, learning_rates=rates).create_optimizer()
    expected = {
        id(p): rates.get(part, 1e-3) for part, module in model_parts(model).items() for p in module.parameters()
    }
    seen = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == expected[id(parameter)]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            seen += parameter.numel()
    assert seen == count(model.parameters(), trained_only=True)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3, *rates.values()}


# -------------------------------------------------------------------------------------------------------- whole runs


def test_projector_stage_from_parts(encoder_dir, language_model_dir, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="mllm")
    source = recipes.conversations(tmp_path, "pbtp")
    out = tmp_path / "out"
    parts = {"encoder": str(encoder_dir), "language_model": str(language_model_dir)}
    resampler = {"projector": "resampler", "projector_options": {"queries": 3}}
    finetune(recipe(output=str(out), data=[source], **parts, **resampler))
    names = {file.name for file in out.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= names
    assert not names & {"assembled", "training_args.bin", ".partial", "checkpoint-4"}
    assert "1 bad sample was skipped" in logs(caplog)
    assert "s1" in logs(caplog)
    trained = load_plain(out)
    assert len(trained.model.multi_modal_projector.queries) == trained.config.image_seq_length == 3
    encoder = load_file(encoder_dir / "model.safetensors")
    for name, value in trained.model.vision_tower.state_dict().items():
        assert torch.equal(value, encoder[name])
    assert str(tmp_path) not in (out / "config.json").read_text()


def test_what_is_frozen_keeps_its_stored_dtype(model_dir, data, tmp_path):
    """Trained in float32, for want of bf16 in the recipe; saved, the frozen parts take no more room than before."""
    model, processor = load_model(model_dir, dtype="bfloat16")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    finetune(recipe(output=str(tmp_path / "out"), model=str(tmp_path / "base"), data=[data]))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "out"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        if "multi_modal_projector" in name:
            assert after[name].dtype == torch.float32
        else:
            assert after[name].dtype == torch.bfloat16
            assert torch.equal(after[name], weight)
    assert load_plain(tmp_path / "out").dtype == torch.bfloat16


def test_lora_stage_learns_and_leaves_one_directory(model_dir, data, tmp_path):
    base, out = tmp_path / "base", tmp_path / "runs" / "lora"
    shutil.copytree(model_dir, base)
    trainer = {**recipes.TRAINER, "max_steps": 12, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant"}
    lora = LoraRecipe(rank=4, alpha=8, dropout=0.0)
    finetune(recipe(stage="lora", output=str(out), model=str(base), data=[data], lora=lora, trainer=trainer))
    losses = [entry["loss"] for entry in recipes.logged(out)]
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]
    weights = load_file(out / "adapter_model.safetensors")
    assert any("lora_A" in name for name in weights)
    assert any("multi_modal_projector" in name for name in weights)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../base"
    assert {"processor_config.json", "tokenizer.json"} <= {file.name for file in out.iterdir()}
    assert not (out / "README.md").exists()
    load_model(out)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(model_dir, data, tmp_path, monkeypatch):
    dated = shutil.copytree(model_dir, tmp_path / "dated")
    template = dated / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %B') }} " + template.read_text())

    class AnotherDay(date):
        @classmethod
        def today(cls) -> date:
            return date(2001, 2, 3)

    def run(name: str, resume: bool = False) -> None:
        lora = LoraRecipe(rank=2, alpha=4, dropout=0.1)
        trainer = {**recipes.TRAINER, "max_steps": 6, "save_steps": 2, "warmup_steps": 2}
        one = recipe(stage="lora", output=str(tmp_path / name), model=str(dated), data=[data], lora=lora)
        one.trainer, one.projector_learning_rate = trainer, 5e-3
        finetune(one, resume=resume)

    run("whole")
    steps = []
    compute_loss = FinetuneTrainer.compute_loss

    def stop_at_step_5(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTrainer, "compute_loss", stop_at_step_5)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    with pytest.raises(InputError, match="--resume"):
        run("stopped")
    monkeypatch.setattr(processing, "date", AnotherDay)  # the template goes on with the day of its begin
    run("stopped", resume=True)
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped"))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5)


def test_projector_stage_resumes_from_its_own_checkpoint(encoder_dir, language_model_dir, data, tmp_path, monkeypatch):
    one = recipe(
        output=str(tmp_path / "out"), data=[data], encoder=str(encoder_dir), language_model=str(language_model_dir)
    )
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTrainer, "write_result", lambda self, output: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(one)
    stored = load_file(tmp_path / "out" / "checkpoint-4" / "model.safetensors")
    finetune(one, resume=True)
    final = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == final.keys()
    for name, value in stored.items():
        assert torch.equal(final[name], value), name


# ------------------------------------------------------------------------------------------------------------- errors


def test_an_adapter_is_no_start_for_another_stage(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="mllm merge"):
        finetune(recipe(model=str(tmp_path), output=str(tmp_path / "out"), data=["synthetic:train:1"]))


def test_generated_conversations_are_a_source(model_dir):
    conversations = open_conversations(["synthetic:validation:3"], image_size=(32, 48))
    assert len(conversations) == 3
    assert conversations[0]["images"][0].size == (48, 32)


def test_stages_come_first_and_in_order():
    easy, own = list(range(3)), [f"own {index}" for index in range(5)]
    seen = [Curriculum([(easy, 7), (own, 5)], seed=0)[index] for index in range(12)]
    assert sorted(seen[:3]) == sorted(seen[3:6]) == easy  # used up, and begun again
    assert seen[6] in easy
    assert sorted(seen[7:]) == own
    assert [Curriculum([(easy, 7), (own, 5)], seed=1)[index] for index in range(12)] != seen


def test_finetuning_with_a_curriculum(tmp_path, model_dir, monkeypatch):
    """Each step sees the conversations of its stage, in both stages and after a resumption."""
    stages = [
        CurriculumStage(1, ["synthetic:train:50:objects=2:lists=1.0"]),
        CurriculumStage(1, ["synthetic:train:50:objects=1"]),
    ]
    whole = recipe(model=str(model_dir), output=str(tmp_path / "out"), data=["synthetic:train:50"], curriculum=stages)
    asked = []
    load = EncodedConversations.load

    def spy(self, index):
        (source,) = self.conversations.parts
        asked.append((source.config.max_objects, source.asked.lists))
        return load(self, index)

    monkeypatch.setattr(EncodedConversations, "load", spy)
    finetune(whole)
    assert asked == [(2, 1.0)] * 2 + [(1, 0.0)] * 2 + [(6, 0.0)] * 4


def test_stages_longer_than_the_run_are_refused():
    with pytest.raises(InputError, match=r"curriculum: trainer\.max_steps"):
        recipe(model="m", output="o", data=["d"], curriculum=[CurriculumStage(4, ["d"])])
    grouped = {**recipes.TRAINER, "train_sampling_strategy": "group_by_length"}
    with pytest.raises(InputError, match=r"curriculum: .* leave trainer\.train_sampling_strategy=group_by_length out"):
        recipe(model="m", output="o", data=["d"], curriculum=[CurriculumStage(1, ["d"])], trainer=grouped)
    with pytest.raises(InputError, match="curriculum: steps"):
        CurriculumStage(0, ["d"])
