"""`mllm finetune` on instruction data with bad samples: skipped, named and counted once each, up to a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mllm.cli import main
from tests import tiny


def write_data(folder: Path, bad: list[dict], good: int = 6) -> str:
    """A file of good samples with the bad ones in between."""
    tiny.image(0).save(folder / "a.png")
    (folder / "torn.png").write_bytes(b"nothing")
    samples = [sample(f"good {number}", "<image>\nIs it red?", image="a.png") for number in range(good)]
    for number, each in enumerate(bad):
        samples.insert(2 * number + 1, each)
    (folder / "data.json").write_text(json.dumps(samples))
    return str(folder / "data.json")


def sample(name: str, question: str, **fields) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]
    return {"id": name, "conversations": turns, **fields}


def write_recipe(folder: Path, model: Path, data: str, workers: int = 0) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"stage: projector\nmodel: {model}\ndata: [{data}]\noutput: {folder}/out\nmax_length: 64\n"
        f"trainer: {{per_device_train_batch_size: 2, max_steps: 6, dataloader_num_workers: {workers}}}\n"
    )
    return recipe


def train(folder: Path, model: Path, data: str, *overrides: str, workers: int = 0) -> int:
    return main(["finetune", str(write_recipe(folder, model, data, workers)), *overrides])


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


BAD = [
    sample("count", "<image><image>\nAlike?", image="a.png"),
    sample("video", "<video>\nWhat?", video="a.mp4"),
    sample("torn", "<image>\nWhat?", image="torn.png"),
    sample("long", "star " * 300),
    {"id": "user", "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]},
    sample("silent", "Hello", system="Be brief.") | {"conversations": []},
]


def test_bad_samples_are_skipped_named_and_counted_once(tmp_path, model_dir, caplog):
    """Two workers, two epochs, and each fault under the name of the sample that has it."""
    data = write_data(tmp_path, BAD)
    assert train(tmp_path, model_dir, data, "trainer.max_steps=12", "max_bad_samples=1", workers=2) == 0
    recorded = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
    reasons = {each["name"]: each["reason"] for each in recorded}
    assert set(reasons) == {f"{data}: sample {2 * n + 1} (id {each['id']!r})" for n, each in enumerate(BAD)}
    for name, reason in zip(BAD, ("2 <image>", "video", "no image", "max_length=64", "'user'", "missing"), strict=True):
        assert reason in next(text for each, text in reasons.items() if f"(id {name['id']!r})" in each)
    assert "6 bad samples were skipped:" in caplog.text


def test_one_bad_sample_does_not_end_a_run(tmp_path, model_dir):
    data = write_data(tmp_path, BAD[:1])
    assert train(tmp_path, model_dir, data) == 0


def test_more_than_the_limit_end_the_run_before_anything_is_written(tmp_path, model_dir, capfd, caplog):
    data = write_data(tmp_path, [BAD[0], BAD[-1]])
    assert train(tmp_path, model_dir, data) == 2
    (line,) = errors(capfd.readouterr().err)
    assert line.startswith("error: 2 samples are bad, more than the 1 that max_bad_samples allows; `mllm check-data`")
    assert f"{data}: sample 1 (id 'count'): image names 1 images for 2 <image>" in caplog.text
    assert f"{data}: sample 3 (id 'silent'): " in caplog.text
    assert not (tmp_path / "out").exists()


def test_more_than_the_limit_are_met_by_a_worker(tmp_path, model_dir, capfd):
    data = write_data(tmp_path, [sample(name, "<image>\nWhat?", image="torn.png") for name in "abcd"])
    assert train(tmp_path, model_dir, data, workers=2) == 2
    text = capfd.readouterr().err
    (line,) = errors(text)
    assert "samples are bad, more than the 1 that max_bad_samples allows" in line
    assert f"{tmp_path}/out/bad_samples.jsonl lists them" in line
    assert (tmp_path / "out" / "bad_samples.jsonl").read_text().count("\n") >= 2
    assert len(line) <= 310
    assert "Traceback" not in text


def test_no_good_sample_at_all_is_one_line_and_the_end(tmp_path, model_dir):
    """A process of its own, which must not wait for its workers."""
    data = write_data(tmp_path, [sample(name, "<image>\nWhat?", image="torn.png") for name in "ab"], good=0)
    recipe = write_recipe(tmp_path, model_dir, data, workers=2)
    command = [sys.executable, "-m", "mllm", "finetune", str(recipe), "max_bad_samples=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert errors(done.stderr)[0].startswith("error: none of the 2 samples is good")
    assert "Traceback" not in done.stderr
