"""`mllm demo`: a tour through a folder of images and questions, and what it says of a folder that is none."""

from __future__ import annotations

import json

from PIL import Image
from rich.console import Console

from data.synthetic.export import export_scenes
from data.synthetic.scene import SceneConfig
from mllm.cli import main
from mllm.commands.demo import in_blocks, read_examples
from tests import tiny


def test_a_tour(model_dir, tmp_path, capfd):
    examples, out = tmp_path / "examples", tmp_path / "looked"
    config = SceneConfig(height=32, width=32)
    assert export_scenes(examples, "examples", "test", 2, config) == f"{examples}/questions.json"
    items = read_examples(examples)
    items[0] |= {"about": "The first one.", "note": "there: shapes"}
    items[1]["answer"] = ""  # nobody can say
    (examples / "questions.json").write_text(json.dumps(items))
    for _ in range(2):  # drawings of an earlier tour are replaced
        assert main(["demo", "--model", str(model_dir), "--examples", str(examples), "--out", str(out)]) == 0
    printed = capfd.readouterr().out
    assert f"of {len(items) - 1} right" in printed
    assert f"wrong, it is {items[0]['answer']}" in printed
    assert all(words in printed for words in ("The first one.", "there: shapes", "first word after", "mllm serve"))
    assert [min(Image.open(out / f"scene-{number}.png").size) > 200 for number in (1, 2)] == [True, True]


def test_an_image_in_the_terminal():
    image = Image.new("RGB", (8, 8), "red")
    image.paste("blue", (0, 4, 8, 8))
    console = Console(force_terminal=True, color_system="truecolor", width=20)
    with console.capture() as captured:
        console.print(in_blocks(image, 4))
    lines = captured.get().splitlines()
    assert [line.count("▀") for line in lines[:2]] == [4, 4]
    assert "38;2;255;0;0" in lines[0]  # above red
    assert "48;2;0;0;255" in lines[1]  # below blue


def test_the_demo_needs_a_sparseformer(clip_dir, language_model_dir, tmp_path, capfd):
    tiny.image().save(tmp_path / "x.png")
    (tmp_path / "questions.json").write_text('[{"image": "x.png", "question": "?", "answer": ""}]')
    model = tiny.model(tmp_path / "model", clip_dir, language_model_dir)
    capfd.readouterr()
    assert main(["demo", "--examples", str(tmp_path), "--model", str(model), "--out", str(tmp_path / "out")]) == 2
    assert "is no SparseFormer" in capfd.readouterr().err
