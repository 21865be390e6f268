"""Libraries without our help: a test that fails says that a function of a `compat` module is no longer needed."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    Trainer,
    TrainingArguments,
)

from encoder.compat import FUSED_ATTENTION, stop_when_done
from mllm.compat import (
    CACHE,
    keeps_packed_apart,
    leave_out_on_save,
    loads_adapter,
    untie_adapted_embeddings,
)
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


def test_what_is_left_out_on_saving_is_said_by_a_private_name(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    parameters = inspect.signature(model.save_pretrained).parameters
    assert not [name for name in parameters if "ignore" in name or "exclude" in name]
    leave_out_on_save(model, ["lm_head.weight"])
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict()) - {"lm_head.weight"}
    assert model._keys_to_ignore_on_save != LlamaForCausalLM._keys_to_ignore_on_save


def test_an_auto_class_hands_an_adapter_on_as_its_base(monkeypatch, tmp_path, model_dir):
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


class Line(torch.nn.Linear):
    """A model for the Trainer."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": super().forward(x).mean()}


def steps(folder: Path, resume: str | None = None, helped: bool = False) -> int:
    """How many steps a run of two has taken at its end."""
    args = TrainingArguments(str(folder), max_steps=2, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = Trainer(Line(1, 1), args, train_dataset=[{"x": torch.ones(1)}] * 64)
    if helped:
        stop_when_done(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.state.global_step


def test_resumed_from_its_last_step_the_trainer_takes_one_more(tmp_path):
    assert steps(tmp_path) == 2
    last = str(tmp_path / "checkpoint-2")
    assert steps(tmp_path, last, helped=True) == 2
    assert steps(tmp_path, last) == 3


def test_no_public_name_tells_that_a_model_has_a_state():
    llama, mamba = LlamaForCausalLM(LlamaConfig(**SIZES)), MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16))
    assert (keeps_packed_apart(llama), keeps_packed_apart(mamba)) == (True, False)
    assert not [name for name in dir(llama) if "stateful" in name and not name.startswith("_")]


DEEPSPEED = """
import json, logging, os, sys
from pathlib import Path
import deepspeed, mllm
from encoder.compat import deepspeed_logs_to_stderr, own_part, unlink_allreduce_buffer, whole_shape
from mllm.compat import forget_renaming
from safetensors import safe_open
from transformers import AutoModelForImageTextToText
from transformers.integrations import HfDeepSpeedConfig

said = {}
handlers = logging.getLogger("DeepSpeed").handlers
said["stdout"] = [handler.stream is sys.stdout for handler in handlers]
deepspeed_logs_to_stderr()
said["stderr"] = [handler.stream is sys.stderr for handler in handlers]
deepspeed.init_distributed(dist_backend="gloo")
buffers = lambda: [*Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{os.environ['MASTER_PORT']}_0")]
said["left behind"] = len(buffers())
unlink_allreduce_buffer()
said["unlinked"] = len(buffers())
zero3 = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
head = model.lm_head.weight
said["shapes"] = [list(head.shape), list(own_part(head).shape), list(whole_shape(head))]

def saved():
    model.save_pretrained(sys.argv[2], state_dict={"model.language_model.norm.weight": own_part(head).clone()})
    with safe_open(f"{sys.argv[2]}/model.safetensors", "pt") as file:
        return list(file.keys())

said["renamed"] = saved()
forget_renaming(model)
said["forgotten"] = saved()
print(json.dumps(said))
"""


@pytest.mark.launch
def test_deepspeed_on_a_cpu(model_dir, tmp_path):
    """It logs to stdout, leaves a buffer behind, empties parameters, and what it loaded is saved under other names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", DEEPSPEED, str(model_dir), str(tmp_path)],
        env={**os.environ, **launch, "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    empty, part, whole = said.pop("shapes")
    assert (empty, part) == ([0], [math.prod(whole)])
    assert said == {
        "stdout": [True],
        "stderr": [True],
        "left behind": 1,
        "unlinked": 0,
        "renamed": ["model.language_model.model.norm.weight"],
        "forgotten": ["model.language_model.norm.weight"],
    }
