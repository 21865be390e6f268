"""The scripts and the notebook in examples/, as they stand."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import nbformat
from nbclient import NotebookClient

from mllm.generation import answer, question
from mllm.loading import load_model
from tests import tiny
from tests.served import serving

FOLDER = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_is_captioned_and_gone_on_with(tmp_path, model_dir, capsys):
    folder, out = tmp_path / "images", tmp_path / "captions.jsonl"
    folder.mkdir()
    for index in range(3):
        tiny.image(index).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    given = [str(folder), str(out), "--model", str(model_dir), "--prompt", "Is it red?", "--batch", "2"]
    example("caption_folder").main(given)
    assert "broken.png" in capsys.readouterr().err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(record["image"]).name for record in records] == ["0.png", "1.png", "2.png"]
    model, processor = load_model(model_dir)
    asked = [question("Is it red?", [tiny.image(index)]) for index in range(3)]
    assert [record["caption"] for record in records] == answer(model, processor, asked)
    out.write_text("".join(f"{json.dumps(record)}\n" for record in records[:2]))
    example("caption_folder").main(given)
    assert [json.loads(line) for line in out.read_text().splitlines()] == records


def test_a_folder_is_searched(tmp_path, open_clip_dir, capsys):
    for index in range(4):
        tiny.image(index).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    example("search_folder").main(
        [str(tmp_path), "a red circle", "--model", f"local-dir:{open_clip_dir}", "--best", "3"]
    )
    told = capsys.readouterr()
    head, *found = told.out.splitlines()
    assert head == "a red circle"
    scores = [float(line.split()[0]) for line in found]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert "broken.png" in told.err


def test_openai_s_client(tmp_path, capsys, model_dir):
    tiny.image(0).save(tmp_path / "0.png")
    with serving(model_dir) as url:
        example("openai_client").main([str(tmp_path / "0.png"), "Is it red?", "--server", f"{url}/v1"])
    told = capsys.readouterr().out
    assert "first token after " in told
    assert "most from the token at [" in told


def test_the_notebook_runs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(FOLDER / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == 4  # the image, what the encoder reads, the curve, the words
