"""scripts/deepspeed: what transformers and DeepSpeed make of each configuration; test_launch.py trains under them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

from mllm.loading import load_plain

CONFIGS = sorted((Path(__file__).parents[1] / "scripts" / "deepspeed").glob("*.json"))
EXPECTED = {  # stage of ZeRO, and what lies in main memory
    "zero1.json": (1, set()),
    "zero2.json": (2, set()),
    "zero2_offload.json": (2, {"optimizer"}),
    "zero3.json": (3, set()),
    "zero3_offload.json": (3, {"optimizer", "param"}),
}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_configuration_is_accepted(file, model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    rates = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
    args = TrainingArguments(str(tmp_path), use_cpu=True, **rates)
    model = load_plain(model_dir)  # before there is a configuration of ZeRO-3, which would split it
    try:
        config = HfTrainerDeepSpeedConfig(str(file))
        config.trainer_config_process(args)
        config.trainer_config_finalize(args, model, num_training_steps=10)  # refuses what is still auto
        accepted = DeepSpeedConfig(config.config)
    finally:
        unset_hf_deepspeed_config()  # or models would be split from here on
    zero = accepted.zero_config
    offloaded = {name for name in ("optimizer", "param") if getattr(zero, f"offload_{name}") is not None}
    assert (int(zero.stage), offloaded) == EXPECTED[file.name]
    if offloaded:  # torch's own optimizer then steps in main memory: nothing is compiled
        assert accepted._param_dict["zero_force_ds_cpu_optimizer"] is False
    assert accepted.train_micro_batch_size_per_gpu == 3
    assert accepted.gradient_accumulation_steps == 2
    assert accepted.gradient_clipping == 0.5


def test_every_configuration_is_known():
    assert {file.name for file in CONFIGS} == set(EXPECTED)
