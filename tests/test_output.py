"""The output directory of a run: one run at a time, a finished one is kept, a full disk is called that."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from data.errors import InputError
from data.files import named_when_full
from encoder.training.output import LOCK
from encoder.training.spine import started


@dataclass
class Recipe:
    output: str


def test_a_finished_output_is_kept(tmp_path):
    recipe = Recipe(str(tmp_path))
    with started("lm", recipe, {}, resume=False) as run:
        assert not run.finished
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(InputError, match="holds a finished model"), started("lm", recipe, {}, resume=False):
        pass
    assert (tmp_path / "checkpoint-3").is_dir()
    with started("lm", recipe, {}, resume=True) as run:
        assert run.finished
    assert not (tmp_path / "checkpoint-3").exists()


def test_what_comes_to_no_step_leaves_nothing(tmp_path):
    def fail():
        with started("lm", Recipe(str(tmp_path / "new" / "run")), {}, resume=False) as run:
            (run.output / "assembled").mkdir()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not (tmp_path / "new").exists()


def test_one_run_at_a_time(tmp_path):
    (tmp_path / "taken").mkdir()
    with FileLock(tmp_path / "taken" / LOCK), pytest.raises(InputError, match="another run is writing"):
        started("lm", Recipe(str(tmp_path / "taken")), {}, resume=False).__enter__()


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

    out = tmp_path / "out"
    with started("lm", Recipe(str(out)), {}, resume=False) as run:
        with pytest.raises(InputError, match=r"out: gone holds NaN .*; nothing is written: start again"):
            run.export(write)
        assert not list(out.glob("*.safetensors")) + list(out.glob("*.json"))
