"""The output directory of a run: one run at a time, a finished one is kept, a full disk is called that."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from data.errors import InputError
from data.files import named_when_full
from encoder.training.arguments import save_atomically
from encoder.training.output import LOCK, is_finished, output_lock


def test_a_finished_output_is_kept(tmp_path):
    assert not is_finished(tmp_path, resume=False)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(InputError, match="holds a finished model"):
        is_finished(tmp_path, resume=False)
    assert (tmp_path / "checkpoint-3").is_dir()
    assert is_finished(tmp_path, resume=True)
    assert not (tmp_path / "checkpoint-3").exists()


def test_one_run_at_a_time(tmp_path):
    recipe = SimpleNamespace(output=str(tmp_path / "new" / "run"))
    run = output_lock(lambda recipe: "ran")
    assert run(recipe) == "ran"
    assert not (tmp_path / "new").exists()  # nothing was written, so nothing is left
    (tmp_path / "taken").mkdir()
    with FileLock(tmp_path / "taken" / LOCK), pytest.raises(InputError, match="another run is writing"):
        run(SimpleNamespace(output=str(tmp_path / "taken")))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError(f"I/O error (os error {errno.ENOSPC})")],
    ids=["system", "safetensors"],
)
def test_a_full_disk_is_named(tmp_path, error):
    with pytest.raises(InputError, match="the disk is full"), named_when_full(tmp_path):
        raise error


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="of another kind"), named_when_full(tmp_path):
        raise RuntimeError("of another kind")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    def write(folder):
        save_file({"fine": torch.zeros(2), "gone": torch.tensor([1.0, float("nan")])}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    with pytest.raises(InputError, match=r"out: gone holds NaN .*; nothing is written: start again"):
        save_atomically(tmp_path / "out", write)
    assert not (tmp_path / "out").exists()
