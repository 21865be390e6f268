"""Libraries without our help: a test that fails says that a function of a `compat` module is no longer needed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration, MixtralConfig, MixtralForCausalLM

from encoder.compat import FUSED_ATTENTION
from mllm.compat import CACHE, is_mixture_of_experts, leave_out_on_save, loads_adapter, untie_adapted_embeddings
from mllm.reference import LoadsReferences

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_the_name_of_the_cache_is_not_the_same_in_all_versions():
    parameters = inspect.signature(LlavaForConditionalGeneration.forward).parameters
    assert {"cache", "past_key_values"} & set(parameters) == {CACHE}
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    found = re.search(r'"transformers>=5\.(\d+)', project)
    assert found is not None
    assert int(found.group(1)) < 24


def test_attention_on_the_meta_device_is_not_the_fused_operator():
    query = torch.empty(1, 2, 64, 8, device="meta")
    with FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(query, query, query)
    assert FUSED_ATTENTION not in counter.get_flop_counts()["Global"]
    with FlopCounterMode(display=False) as counter:
        FUSED_ATTENTION(query, query, query)
    assert counter.get_flop_counts()["Global"] == {FUSED_ATTENTION: 2 * 2 * 2 * 64 * 64 * 8}


def adapted(helped: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a model with an adapter on its head, which is tied to its embeddings, and those after merging."""
    torch.manual_seed(0)
    model = get_peft_model(
        LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
        LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False),
    ).eval()
    ids = torch.arange(8)[None]
    before = model(input_ids=ids).logits
    if helped:
        untie_adapted_embeddings(model.get_base_model())
    return before, model.merge_and_unload()(input_ids=ids).logits


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
def test_merging_into_tied_weights_changes_both():
    before, after = adapted(helped=True)
    torch.testing.assert_close(after, before)
    before, after = adapted(helped=False)
    assert (after - before).abs().max() > 0.01


def test_a_model_does_not_say_whether_it_has_experts():
    dense = LlamaForCausalLM(LlamaConfig(**SIZES))
    experts = MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2))
    assert (is_mixture_of_experts(dense), is_mixture_of_experts(experts)) == (False, True)
    public = {name for name in dir(dense) if not name.startswith("_") and "expert" in name}
    assert public <= {
        "get_correct_experts_implementation",
        "get_experts_implementation",
        "set_experts_implementation",
    }
    experts.set_experts_implementation("eager")
    assert dense.get_experts_implementation() == experts.get_experts_implementation()


def test_what_is_left_out_on_saving_is_said_by_a_private_name(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    parameters = inspect.signature(model.save_pretrained).parameters
    assert not [name for name in parameters if "ignore" in name or "exclude" in name]
    leave_out_on_save(model, ["lm_head.weight"])
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict()) - {"lm_head.weight"}
    assert model._keys_to_ignore_on_save != LlamaForCausalLM._keys_to_ignore_on_save


def test_an_auto_class_hands_an_adapter_on_as_its_base(monkeypatch, tmp_path, model_dir):
    import json

    from transformers import AutoModelForImageTextToText

    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model_dir), "peft_type": "LORA"})
    )
    seen = {}

    def from_pretrained(cls, name, *args, **options):
        seen.update(name=name, **options)

    monkeypatch.setattr(LoadsReferences, "from_pretrained", classmethod(from_pretrained))
    AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert seen["name"] == str(model_dir)
    assert loads_adapter(seen)
    AutoModelForImageTextToText.from_pretrained(model_dir)
    assert not loads_adapter(seen)
