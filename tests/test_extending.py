"""The examples of docs/architecture.md, as a module that the command line finds by its name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

import mllm  # noqa: F401  (registers the model)
from data import registry
from data.benchmarks import BENCHMARKS
from data.sources import SOURCES
from encoder.teachers.teacher import LIBRARIES
from mllm.cli import main
from projector import PROJECTORS
from tests import benchmark_files as files
from tests import tiny

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
ADDED = [(PROJECTORS, "bottleneck"), (LIBRARIES, "torchvision"), (SOURCES["images"], "solid"), (BENCHMARKS, "exact")]


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """The examples in a module of their own, named as docs/architecture.md says."""
    (tmp_path / "my_module.py").write_text("\n".join(EXAMPLES))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(registry.MODULES, "my_module")
    monkeypatch.chdir(tmp_path)
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()
    sys.modules.pop("my_module", None)
    for each, name in ADDED:
        each.members.pop(name, None)


def test_each_is_short():
    assert len(EXAMPLES) == len(ADDED)
    assert all(len(example.splitlines()) < 20 for example in EXAMPLES)


def test_a_source_of_images_and_a_teacher(plugins, tmp_path):
    rates = {"focusing": 1e-3, "early": 1e-3, "head": 1e-3}
    recipe = {
        "output": "student",
        "teacher": "torchvision:resnet18",
        "teacher_image_size": 32,
        "images": ["solid:red+green+blue"],
        "held_out": "solid:yellow+white",
        "student": {
            "inherit": False, "num_tokens": 5, "width": 64, "depth": 1, "early_channels": 8, "mixing_hidden_size": 8
        },
        "stages": [{"name": "all", "steps": 2, "learning_rates": rates}],
        "trainer": {"per_device_train_batch_size": 2},
    }  # fmt: skip
    Path("recipe.json").write_text(json.dumps(recipe))
    assert main(["bootstrap", "recipe.json"]) == 0
    assert json.loads(Path("student/config.json").read_text())["projection_dim"] == 1000


def test_a_projector_and_a_benchmark(plugins, encoder_dir, language_model_dir):
    options = {"projector": "bottleneck", "projector_options": {"width": 3}}
    model = tiny.model(Path("model"), encoder_dir, language_model_dir, **options)
    assert AutoModelForImageTextToText.from_pretrained(model).model.multi_modal_projector.layers[0].out_features == 3
    files.images(Path("images"), ["a.png", "b.png"])
    asked = files.questions(Path("asked.jsonl"), [(0, "a.png", "Is it red?", ""), (1, "b.png", "What is it?", "")])
    Path("truth.json").write_text(json.dumps({"0": "yes", "1": "no"}))
    given = ["--questions", str(asked), "--images", "images", "--annotations", "truth.json", "--out", "out"]
    assert main(["eval", "exact", "--model", str(model), *given, "--max-new-tokens", "2", "--device", "cpu"]) == 0
    score = json.loads(Path("out/score.json").read_text())
    assert (score["benchmark"], score["count"]) == ("exact", 2)


def test_without_its_module_a_name_is_unknown(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "exact"])
    assert "exact" in capsys.readouterr().err
    with pytest.raises(ValueError, match="bottleneck"):
        PROJECTORS["bottleneck"]
