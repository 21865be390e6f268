"""Full tuning, going on from an adapter, 4 bits, and how samples become batches."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from data import InputError
from data.sources import open_conversations
from data.synthetic.datasets import SceneConversations
from mllm.cli import main
from mllm.finetuning.data import Collator, EncodedConversations
from mllm.finetuning.freezing import LoraRecipe, freeze, model_parts
from mllm.finetuning.merge import merge
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.run import finetune
from mllm.finetuning.trainer import FinetuneTrainer, LengthSampler
from mllm.loading import load_model, load_plain, load_processor
from mllm.prompts import IGNORE
from tests import recipes, tiny
from tests.benchmark_files import SHORT
from tests.test_templates import LAST, THOUGHT, chatml

LORA = LoraRecipe(rank=2, alpha=4, dropout=0.0)


def run(output, model, data, stage="lora", **changes) -> None:
    trainer = {**recipes.TRAINER, **changes.pop("trainer", {})}
    finetune(
        FinetuneRecipe(
            stage=stage, output=str(output), model=model and str(model), data=[data], trainer=trainer, **changes
        )
    )


# ------------------------------------------------------------------------------------------------------ full tuning


def test_full_stage_trains_all_but_the_encoder(model_dir, data, tmp_path):
    run(tmp_path / "out", model_dir, data, stage="full", projector_learning_rate=1e-3)
    before, after = (load_file(folder / "model.safetensors") for folder in (model_dir, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == ("vision_tower" in name), name
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    load_model(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["use_cache"] is config["text_config"]["use_cache"] is True  # the Trainer switches it off


def test_what_a_template_writes_before_the_last_answer_is_neither_learned_nor_scored(
    encoder_dir, language_model_dir, tmp_path
):
    """Qwen3's kind of template, from a language model to the score."""
    folder = tmp_path / "lm"
    shutil.copytree(language_model_dir, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    tokenizer.add_special_tokens(turns, replace_extra_special_tokens=False)
    tokenizer.chat_template = chatml(LAST)
    tokenizer.save_pretrained(folder)
    samples, questions, truths = [], [], {}
    for number, answer in enumerate(("red", "blue")):
        image, text = f"{number}.png", "What color is it?"
        Image.new("RGB", (40, 40), answer).save(tmp_path / image)
        talk = [{"from": "human", "value": f"<image>\n{text}{SHORT}"}, {"from": "gpt", "value": answer}]
        samples.append({"id": f"s{number}", "image": image, "conversations": talk})
        questions.append(json.dumps({"question_id": number, "image": image, "text": text}))
        truths[number] = {"answer": answer}
    (tmp_path / "data.json").write_text(json.dumps(samples))
    (tmp_path / "asked.jsonl").write_text("\n".join(questions))
    (tmp_path / "truth.json").write_text(json.dumps(truths))
    trainer = {"max_steps": 90, "learning_rate": 3e-3, "save_steps": 100}
    parts = {"encoder": str(encoder_dir), "language_model": str(folder)}
    run(tmp_path / "out", None, str(tmp_path / "data.json"), stage="full", trainer=trainer, **parts)
    files = f"--images {tmp_path} --questions {tmp_path}/asked.jsonl --annotations {tmp_path}/truth.json"
    assert main(f"eval gqa --model {tmp_path}/out --out {tmp_path}/scored {files} --device cpu".split()) == 0
    said = [json.loads(line)["text"] for line in (tmp_path / "scored/answers.jsonl").read_text().splitlines()]
    assert said == ["red", "blue"]
    assert json.loads((tmp_path / "scored/result.json").read_text())["overall"] == 100
    template = (tmp_path / "out/chat_template.jinja").read_text()
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith(f"<|im_start|>assistant\n{THOUGHT}")  # for all who ask by the template alone


@pytest.mark.parametrize("tower", ["clip", "siglip", "dinov2"])
def test_all_of_a_vit_trains(tower, request, language_model_dir, tmp_path):
    encoder = tiny.dinov2(tmp_path / "vit") if tower == "dinov2" else request.getfixturevalue(f"{tower}_dir")
    model = freeze(load_plain(tiny.model(tmp_path / "model", encoder, language_model_dir)), "full", train_encoder=True)
    model.train()(input_ids=torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())  # for text alone too


# ------------------------------------------------------------------------------------------- going on from an adapter


def test_an_adapter_goes_on_training_and_merges(model_dir, data, tmp_path):
    run(tmp_path / "first", model_dir, data, lora=LORA)
    run(tmp_path / "second", tmp_path / "first", data, trainer={"learning_rate": 1e-9})
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    for name, value in first.items():  # it begins where the first one ended
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)
    run(tmp_path / "third", tmp_path / "first", data, lora=LORA)
    third = load_file(tmp_path / "third" / "adapter_model.safetensors")
    moved = [name for name, value in first.items() if (third[name] - value).abs().max() > 1e-4]
    assert any("lora_A" in name for name in moved)
    assert any("projector" in name for name in moved)
    ids = {"input_ids": torch.arange(6)[None]}
    with torch.no_grad():
        expected = load_model(tmp_path / "third")[0](**ids).logits
        merged = load_plain(merge(tmp_path / "third", tmp_path / "model")).eval()
        torch.testing.assert_close(merged(**ids).logits, expected)


def test_an_adapter_that_is_another_or_damaged_is_refused(model_dir, data, tmp_path):
    run(tmp_path / "first", model_dir, data, lora=LORA, trainer={"max_steps": 1})
    with pytest.raises(InputError, match=r"lora: the adapter .* has r=2, not 4; leave the section out"):
        run(tmp_path / "out", tmp_path / "first", data, lora=LoraRecipe(rank=4, alpha=4, dropout=0.0))
    weights = tmp_path / "first" / "adapter_model.safetensors"
    stored = load_file(weights)
    gone = stored.pop(min(stored))
    save_file(stored, weights)
    with pytest.raises(InputError, match="1 weights are missing or unknown"):
        freeze(load_plain(model_dir), "lora", adapter=tmp_path / "first")
    save_file({**stored, min(stored): gone}, weights)
    weights.write_bytes(b"nothing")
    with pytest.raises(InputError, match="the weights cannot be read"):
        freeze(load_plain(model_dir), "lora", adapter=tmp_path / "first")


# --------------------------------------------------------------------------------------------------------- 4 bits


def test_four_bits_need_the_extra(model_dir, data, tmp_path, monkeypatch):
    monkeypatch.setattr("mllm.finetuning.quantization.is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match=r"four_bit: needs bitsandbytes: pip install 'sparseformer-mllm\[qlora\]'"):
        run(tmp_path / "out", model_dir, data, lora=LORA, four_bit=True)


def test_qlora_leaves_encoder_and_projector_as_they_are(model_dir, data, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    seen = {}
    fit = FinetuneTrainer.write_result

    def spy(self, output):
        for name, part in model_parts(self.model).items():
            seen[name] = {p.dtype for p in part.parameters()}
        fit(self, output)

    monkeypatch.setattr(FinetuneTrainer, "write_result", spy)
    run(tmp_path / "out", model_dir, data, lora=LORA, four_bit=True)
    assert torch.uint8 in seen["language model"]
    assert seen["encoder"] == seen["projector"] == seen["output head"] == {torch.float32}
    merged = merge(tmp_path / "out", tmp_path / "model")  # into the base as it is stored, in full precision
    before, after = (load_file(folder / "model.safetensors") for folder in (model_dir, merged))
    assert {name: (value.shape, value.dtype) for name, value in before.items()} == {
        name: (value.shape, value.dtype) for name, value in after.items()
    }


# -------------------------------------------------------------------------------------------------------- batches


def test_lengths_are_guessed_without_opening_a_image(model_dir, data, monkeypatch):
    samples = EncodedConversations(open_conversations([data, "synthetic:train:3"]), load_processor(model_dir))
    with monkeypatch.context() as patch:
        patch.setattr(SceneConversations, "load", None)
        patch.setattr("data.conversations.open_reference", None)
        lengths = samples.lengths()
    assert len(lengths) == len(samples) == 11
    assert lengths[0] == tiny.TOKENS + (len("<image>\nIs it red?") + len("No, two squares.")) // 4
    assert lengths[1] == (len("Is it large?") + len("Yes.")) // 4  # text alone


def test_batches_hold_like_lengths_in_an_order_of_seed_and_epoch():
    lengths = [index % 50 for index in range(400)]
    epoch = 0
    sampler = LengthSampler(4, lengths, seed=3, epoch=lambda: epoch)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(first) == list(range(400))
    spread = [max(each) - min(each) for each in ([lengths[i] for i in first[k : k + 4]] for k in range(4, 400, 4))]
    assert sum(spread) / len(spread) < 5
    epoch = 1
    assert list(sampler) != first


def test_a_run_with_like_lengths_and_packing(model_dir, data, tmp_path):
    run(
        tmp_path / "out",
        model_dir,
        data,
        "projector",
        packing=True,
        trainer={"train_sampling_strategy": "group_by_length"},
    )
    load_plain(tmp_path / "out")


FAMILIES = [
    transformers.LlamaConfig,
    transformers.Qwen2Config,
    transformers.MistralConfig,
    transformers.Gemma2Config,
    transformers.Phi3Config,
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_packed_samples_do_not_see_each_other(family):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = family(vocab_size=64, num_key_value_heads=2, head_dim=8, initializer_range=0.2, **shape, **special)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    samples = [{"input_ids": (ids := torch.randint(3, 64, (length,))), "labels": ids.clone()} for length in (5, 9, 3)]
    for sample in samples:
        sample["labels"][:2] = IGNORE
    with torch.no_grad():
        padded, packed = (model(**Collator(0, packing)(samples), use_cache=False) for packing in (False, True))
        alone = [model(input_ids=sample["input_ids"][None]).logits[0] for sample in samples]
    torch.testing.assert_close(packed.logits[0], torch.cat(alone), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(packed.loss, padded.loss)
