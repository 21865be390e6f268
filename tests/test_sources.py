"""Sources by scheme: one of a plug-in is as good as ours, a slip is one line."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from data import InputError, open_conversations, open_images, register_source, registry
from data.benchmarks import BENCHMARKS, build_benchmark
from data.sources import SOURCES, parse_options
from mllm.cli import main
from mllm.finetuning.data import EncodedConversations
from mllm.loading import load_processor

PLUGIN = """
from PIL import Image

from data import LabeledImages, register_source
from data.benchmarks import Benchmark, Option, register_benchmark


@register_source("labeled", "solid")
def open_labeled(address, given):
    colors = address.split("+")
    images = [{"image": Image.new("RGB", (32, 32), color), "label": n} for n, color in enumerate(colors)]
    return LabeledImages(images, colors, ["a {} square."])


@register_source("conversations", "solid")
class Conversations:
    faults = {}

    def __init__(self, address, given):
        self.colors, self.size = address.split("+"), given.image_size

    def __len__(self):
        return len(self.colors)

    def load(self, index):
        asked = [{"type": "image"}, {"type": "text", "text": "what color?"}]
        answer = [{"type": "text", "text": self.colors[index]}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {"images": [Image.new("RGB", self.size, self.colors[index])], "messages": messages}

    def name(self, index):
        return self.colors[index]

    def words(self, index):
        return ["<image>what color?", self.colors[index]]


@register_benchmark
class Solid(Benchmark):
    name, title, metric, instruction, needs = "solid", "Solid", "accuracy", "", ()
    options = (Option("shade", str, "of what"),)

    def __init__(self, shade="dark"):
        self.shade = shade

    def score(self, pairs):
        raise NotImplementedError
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package that is installed for as long as the test takes; gives the file of its module."""
    info = tmp_path / "solid-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: solid\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mllm.plugins]\nsolid = solid_colors\n")
    file = tmp_path / "solid_colors.py"
    file.write_text(PLUGIN)
    for each in (BENCHMARKS, *SOURCES.values()):
        for (
            module
        ) in each.built_in.values():  # those would be registered for as long as the test takes, and never again
            importlib.import_module(module)
        monkeypatch.setattr(each, "members", dict(each.members))
    monkeypatch.syspath_prepend(tmp_path)
    registry._load_plugins.cache_clear()
    yield file
    registry._load_plugins.cache_clear()
    sys.modules.pop("solid_colors", None)


def test_a_plugin_is_found_by_itself(plugin, open_clip_dir, model_dir, tmp_path):
    arguments = ["zeroshot", "solid:red+green+blue", "--model", str(open_clip_dir), "--workers", "0"]
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["images"], report["classes"], report["templates"]) == (3, 3, 1)
    conversations = open_conversations(["synthetic:train:2", "solid:red+green"], image_size=(32, 40))
    samples = EncodedConversations(conversations, load_processor(model_dir))
    assert (len(samples), len(samples.lengths()), samples.name(3)) == (4, 4, "green")
    assert samples[3]["pixel_values"].shape[0] == 1
    assert build_benchmark("solid", shade="light").shade == "light"
    assert "solid" in list(BENCHMARKS)
    with pytest.raises(InputError, match="--hue is no option of solid"):
        build_benchmark("solid", hue="red")


def test_a_broken_plugin_is_one_line(plugin, capfd):
    plugin.write_text("import no_such_module")
    assert main(["zeroshot", "solid:red", "--model", "none"]) == 2
    assert "error: plug-in solid_colors: No module named 'no_such_module'; fix or" in capfd.readouterr().err


def test_names_are_exact_and_taken_once():
    with pytest.raises(
        InputError, match="Folder:x: is no source of images; give a path, or one that begins with folder:"
    ):
        open_images("Folder:x")
    for scheme in ("folder", "synthetic"):  # imported already, or not yet
        with pytest.raises(ValueError, match=f"source of images '{scheme}' exists already"):
            register_source("images", scheme)(lambda address, given: [])
    with pytest.raises(InputError, match="no source is given"):
        open_conversations([])


def test_options():
    options = {"size": int, "kind": str}
    assert parse_options("a:train:3:size=4:kind=x=y", options, "a:...") == (["train", "3"], {"size": 4, "kind": "x=y"})
    assert parse_options("a", options, "a:...") == ([], {})
    with pytest.raises(InputError, match="a:sise=4: there is no option 'sise'; there are size, kind"):
        parse_options("a:sise=4", options, "a:...")
    with pytest.raises(InputError, match=r"a:size=x: size: invalid literal .*; write a:\.\.\."):
        parse_options("a:size=x", options, "a:...")
