"""Pushing a model to a hub on this machine, and naming it in place of a directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from mllm.cli import main
from mllm.hub import model_card
from mllm.loading import find_model
from tests import loopback, tiny


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, with a cache of its own, and no other."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with loopback.serving(tmp_path / "served") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


def test_a_model_is_pushed_and_asked_by_its_name(hub, model_dir, tmp_path, capfd):
    shutil.copytree(model_dir, tmp_path / "mine")
    (tmp_path / "mine" / "optimizer.pt").write_bytes(b"not for others")
    assert main(["push", str(tmp_path / "mine"), "owner/mine", "--license", "apache-2.0"]) == 0
    assert capfd.readouterr().out == f"{hub.url}/owner/mine/commit/{loopback.COMMIT}\n"
    there = hub.folder / "hub" / "models" / "owner" / "mine"
    assert not (there / "optimizer.pt").exists()
    head = yaml.safe_load((there / "README.md").read_text().split("---")[1])
    assert (head["license"], head["pipeline_tag"]) == ("apache-2.0", "image-text-to-text")

    tiny.image(0).save(tmp_path / "a.png")
    words = ["--image", str(tmp_path / "a.png"), "--prompt", "Is it red?", "--max-new-tokens", "4", "--device", "cpu"]
    assert main(["chat", "--model", "owner/mine", *words]) == 0
    fetched = capfd.readouterr().out
    assert main(["chat", "--model", str(model_dir), *words]) == 0
    assert fetched == capfd.readouterr().out
    asked = len(hub.requests)
    assert find_model("owner/mine@main").is_dir()
    assert len([path for path in hub.requests[asked:] if "resolve" in path]) == 0  # it is in the cache


def test_what_the_hub_does_not_have(hub, capfd):
    assert main(["chat", "--model", "owner/none", "--text-only", "--prompt", "Hello?"]) == 2
    line = capfd.readouterr().err
    assert line.startswith("error: owner/none: is no directory here, and cannot be had from the hub")
    assert line.count("\n") == 1


def test_an_adapter_is_not_pushed(tmp_path, capfd):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert main(["push", str(tmp_path), "owner/adapter"]) == 2
    assert "mllm merge" in capfd.readouterr().err


def test_a_card_tells_of_training_and_scores(model_dir, tmp_path):
    mine = Path(shutil.copytree(model_dir, tmp_path / "mine"))
    metrics = {"command": "finetune", "recipe": {"stage": "lora", "data": ["talk.json"]}, "seconds": 61.7}
    metrics |= {"log": [{"step": 10, "loss": 1.25}], "result": {}}
    (mine / "metrics.json").write_text(json.dumps(metrics))
    card = model_card(mine, "owner/mine")
    assert "stage: lora\ndata:\n- talk.json" in card
    assert "| loss | 1.25 |" in card
    assert "| tokens of an image | 5 |" in card
    assert "license" not in card.split("---")[1]
