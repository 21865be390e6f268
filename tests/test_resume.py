"""Runs that are interrupted, damaged or come to nothing: what `--resume` makes of them, what ends with one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from encoder.bootstrapping import BootstrapTrainer
from encoder.training.checkpoints import RECORD
from encoder.training.spine import Run
from mllm.cli import main
from tests import recipes

TRAINER = {"per_device_train_batch_size": 4, "logging_steps": 1, "save_steps": 2, "lr_scheduler_type": "constant"}
STAGE = {"name": "a", "steps": 5, "learning_rates": {"focusing": 1e-2}}


def write_recipe(folder: Path, open_clip_dir: Path, **values) -> Path:
    """Random views; 13 images, so that an epoch ends within a batch."""
    trainer = TRAINER | values.pop("trainer", {})
    common = {"zero_shot": [], "held_out_images": 1, "crop_scale": 0.3, "flip": True}
    common |= {"stages": [STAGE], "trainer": trainer}
    return recipes.bootstrap(folder, open_clip_dir, **{**common, **values})


def interrupt(monkeypatch, at: int, act) -> None:
    """Have ``act`` called in the step after ``at`` steps."""
    compute_loss = BootstrapTrainer.compute_loss

    def acting(self, *args, **kwargs):
        if self.state.global_step == at:
            act()
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(BootstrapTrainer, "compute_loss", acting)


def stop() -> None:
    raise KeyboardInterrupt


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def assert_equal(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def last_line(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def write_tar(path: Path, images: list[Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            tar.add(image, f"{number:05}.png")


@pytest.mark.parametrize("stream", [False, True], ids=["folder", "stream"])
def test_random_views_are_the_same_after_a_resumption(stream, open_clip_dir, tmp_path, monkeypatch):
    """Interrupted in the second epoch, of a stream too, with a worker that reads ahead."""
    recipe = write_recipe(tmp_path, open_clip_dir, trainer={"dataloader_num_workers": 1})
    more = [f"output={tmp_path / 'cut'}"]
    if stream:
        write_tar(tmp_path / "a.tar", sorted((tmp_path / "images").glob("[0-9]*.png"))[:7])
        more.append(f"images=[webdataset:{tmp_path / 'a.tar'}]")
    assert main(["bootstrap", str(recipe), *more, f"output={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 3 if stream else 4, stop)
        assert main(["bootstrap", str(recipe), *more]) == 130
    assert main(["bootstrap", str(recipe), *more, "--resume"]) == 0
    assert_equal(tmp_path / "whole", tmp_path / "cut")


def test_damaged_checkpoints_are_named_and_left_out(open_clip_dir, tmp_path, monkeypatch, capsys, caplog):
    recipe = write_recipe(tmp_path, open_clip_dir, trainer={"save_steps": 1, "save_total_limit": 3})
    whole, cut, stage = tmp_path / "whole", tmp_path / "student", tmp_path / "student/stage-1-a"
    assert main(["bootstrap", str(recipe), f"output={whole}"]) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 4, stop)
        assert main(["bootstrap", str(recipe)]) == 130
    assert sorted(path.name for path in stage.iterdir()) == [f"checkpoint-{step}" for step in (2, 3, 4)]
    # another kind of run, each told before anything is loaded into it
    record = json.loads((stage / "checkpoint-4" / RECORD).read_text())
    for name, value in (("processes", 2), ("DeepSpeed stage", 3), ("optim", "sgd"), ("trained parameters", 1)):
        changed = record | {"made": record["made"] | {name: value}}
        (stage / "checkpoint-4" / RECORD).write_text(json.dumps(changed))
        assert main(["bootstrap", str(recipe), "--resume"]) == 2
        line = last_line(capsys)
        assert line.startswith(f"error: {stage / 'checkpoint-4'}: was made with {name}: {value}, this run has ")
    (stage / "checkpoint-4" / RECORD).write_text(json.dumps(record))
    assert main(["bootstrap", str(recipe), "--resume", "trainer.gradient_accumulation_steps=2"]) == 2
    assert "was made with gradient_accumulation_steps: 1, this run has 2" in last_line(capsys)
    # of the right size, and damaged
    optimizer = stage / "checkpoint-4" / "optimizer.pt"
    content = optimizer.read_bytes()
    optimizer.write_bytes(bytes(len(content)))
    assert main(["bootstrap", str(recipe), "--resume"]) == 2
    assert last_line(capsys).startswith(f"error: {stage / 'checkpoint-4'}: cannot be gone on from: ")
    optimizer.write_bytes(content)
    # truncated, emptied
    os.truncate(stage / "checkpoint-4" / "optimizer.pt", 100)
    (stage / "checkpoint-3" / "trainer_state.json").write_text("")
    caplog.clear()
    assert main(["bootstrap", str(recipe), "--resume"]) == 0
    warnings = [message for message in caplog.messages if " is damaged or missing" in message]
    assert warnings == [
        f"{stage}/checkpoint-{step}: {name} is damaged or missing; taking the one before it"
        for step, name in ((4, "optimizer.pt"), (3, "trainer_state.json"))
    ]
    assert_equal(whole, cut)


def test_after_the_last_checkpoint_only_the_save_is_left(open_clip_dir, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, open_clip_dir)
    assert main(["bootstrap", str(recipe), f"output={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Run, "export", lambda *_: stop())
        assert main(["bootstrap", str(recipe)]) == 130
    monkeypatch.setattr(BootstrapTrainer, "compute_loss", lambda *_, **__: stop())
    assert main(["bootstrap", str(recipe), "--resume"]) == 0
    assert_equal(tmp_path / "whole", tmp_path / "student")


def test_sigterm_saves_a_checkpoint_and_says_how_to_go_on(open_clip_dir, tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, open_clip_dir, trainer={"save_steps": 100})
    assert main(["bootstrap", str(recipe), f"output={tmp_path / 'whole'}"]) == 0
    checkpoint = tmp_path / "student/stage-1-a/checkpoint-3"
    with monkeypatch.context() as patch:
        interrupt(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        capsys.readouterr()
        assert main(["bootstrap", str(recipe)]) == 143
    assert last_line(capsys) == f"terminated after step 3/5, saved as {checkpoint}; --resume goes on from it"
    assert (checkpoint / RECORD).is_file()
    assert main(["bootstrap", str(recipe), "--resume"]) == 0
    assert_equal(tmp_path / "whole", tmp_path / "student")


def test_what_is_not_finite_is_not_saved(open_clip_dir, tmp_path, capsys, monkeypatch):
    recipe = write_recipe(tmp_path, open_clip_dir, trainer={"save_steps": 1})
    stage = tmp_path / "student/stage-1-a"
    with monkeypatch.context() as patch:
        patch.setattr(BootstrapTrainer, "training_step", _nan_at(2, BootstrapTrainer.training_step))
        assert main(["bootstrap", str(recipe)]) == 2
    line = last_line(capsys)
    assert line.startswith("error: step 3: ")
    assert "lower learning_rate" in line
    assert sorted(path.name for path in stage.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    shutil.rmtree(tmp_path / "student")
    with monkeypatch.context() as patch:  # nothing is logged or saved in the meantime: it is seen at the end
        patch.setattr(BootstrapTrainer, "training_step", _nan_at(2, BootstrapTrainer.training_step))
        assert main(["bootstrap", str(recipe), "trainer.save_strategy=no", "trainer.logging_steps=100"]) == 2
    assert last_line(capsys).startswith("error: step 5: ")
    assert not list((tmp_path / "student").rglob("*.safetensors"))
    for rate in (".nan", ".inf", "-1"):
        stages = f"stages=[{{learning_rates: {{focusing: {rate}}}}}]"
        assert main(["bootstrap", str(recipe), stages]) == 2
        assert "focusing" in last_line(capsys)
        assert main(["bootstrap", str(recipe), f"trainer.learning_rate={rate}"]) == 2
        assert "learning_rate" in last_line(capsys)


def _nan_at(step: int, training_step):
    def spoiled(self, model, *args, **kwargs):
        loss = training_step(self, model, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == step else loss

    return spoiled


@pytest.mark.parametrize(("images", "batch", "accumulation"), [(7, 4, 4), (1, 4, 3), (3, 8, 1)])
def test_a_short_stream_makes_all_steps(images, batch, accumulation, open_clip_dir, tmp_path):
    trainer = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    recipe = write_recipe(tmp_path, open_clip_dir, trainer=trainer, stages=[STAGE | {"steps": 2}])
    write_tar(tmp_path / "a.tar", sorted((tmp_path / "images").glob("[0-9]*.png"))[:images])
    assert main(["bootstrap", str(recipe), f"images=[webdataset:{tmp_path / 'a.tar'}]"]) == 0
    assert [entry["step"] for entry in recipes.logged(tmp_path / "student")] == [1, 2]


def test_a_source_without_one_batch_is_one_line(open_clip_dir, tmp_path, capsys):
    recipe = write_recipe(tmp_path, open_clip_dir)
    write_tar(tmp_path / "bad.tar", [tmp_path / "images/broken.png"])
    more = [f"images=[webdataset:{tmp_path / 'bad.tar'}]", "trainer.dataloader_num_workers=2"]
    assert main(["bootstrap", str(recipe), *more]) == 2
    assert "holds no good image" in last_line(capsys)
    more = ["trainer.per_device_train_batch_size=20", "trainer.dataloader_drop_last=true"]
    assert main(["bootstrap", str(recipe), *more]) == 2
    assert "the data ended at step 0 of 5" in last_line(capsys)
