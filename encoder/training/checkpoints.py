"""Checkpoints of a run: how each was made, whether it is whole, and which one a run goes on from.

They lie in the output directory as `checkpoint-STEP/` and are removed once the output is complete: where there are
some, a run was interrupted. The record in each is written last.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.training_args import OptimizerNames

from data.errors import InputError
from data.files import read_json, write_json
from encoder.compat import whole_shape
from encoder.training.output import step_of

logger = logging.getLogger(__name__)

RECORD = "record.json"  # how the checkpoint was made, the day on which its run began, and the sizes of its files
PARAMETERS = "trained parameters"


def how_made(training: TrainingArguments) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had never stopped, by the names that errors use."""
    deepspeed = getattr(training, "hf_deepspeed_config", None)
    made = {name: getattr(training, name) for name in ("bf16", "fp16", "seed", "data_seed", "save_only_model")}
    return {
        "processes": training.world_size,
        "DeepSpeed stage": 0 if deepspeed is None else deepspeed.get_value("zero_optimization.stage", 0),
        "DeepSpeed offload": deepspeed is not None and bool(deepspeed.is_offload()),
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "optim": OptimizerNames(training.optim).value,
        **made,
    }


class Recorder(TrainerCallback):
    """Completes every checkpoint by its record, and only then removes older ones than ``save_total_limit`` allows."""

    def __init__(self, trainer: Trainer) -> None:
        self.made = {**how_made(trainer.args), PARAMETERS: _trained(trainer)}
        self.day = getattr(trainer.processing_class, "date", date.today())
        self.limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # every process has written its part
        if not args.should_save:
            return
        folder = Path(str(args.output_dir))
        checkpoint = folder / f"checkpoint-{state.global_step}"
        files = [file for file in checkpoint.rglob("*") if file.is_file() and file.name != RECORD]
        sizes = {str(file.relative_to(checkpoint)): file.stat().st_size for file in files}
        write_json(checkpoint / RECORD, {"made": self.made, "date": self.day.isoformat(), "files": sizes})
        best = state.best_model_checkpoint and Path(state.best_model_checkpoint).name
        for old in list(_newest_first(folder))[self.limit :] if self.limit else ():
            if old.name != best:
                shutil.rmtree(old)


def whole_checkpoints(folder: Path, tell: bool = False) -> Iterator[Path]:
    """The checkpoints that are as they were written, the newest first.

    Args:
        tell: warn of each that is not.
    """
    for checkpoint in _newest_first(folder):
        damage = _damage(checkpoint)
        if damage is None:
            yield checkpoint
        elif tell:
            logger.warning("%s: %s; taking the one before it", checkpoint, damage)


def checkpoint_to_resume(training: TrainingArguments, resume: bool) -> str | None:
    """The checkpoint that the run goes on from; None if there is none.

    Raises:
        InputError: there is one, and no `--resume`; or it was made by another kind of run.
    """
    folder = Path(str(training.output_dir))
    first = training.process_index == 0
    checkpoint = next(whole_checkpoints(folder, tell=resume and first), None)
    if checkpoint is None:
        if resume:
            logger.info("no complete checkpoint in %s: starting at the first step", folder)
        return None
    if not resume:
        raise InputError(f"{folder} holds checkpoints of an earlier run: add --resume, or delete them")
    _compare(checkpoint, how_made(training))
    if training.save_only_model:
        raise InputError(f"{checkpoint}: save_only_model left out the optimizer; nothing can go on from it, delete it")
    logger.info("resuming from %s", checkpoint)
    return str(checkpoint)


def begun_on(checkpoint: str | Path) -> date:
    """The day on which a checkpoint's run began, which chat templates may tell the model."""
    return date.fromisoformat(read_json(Path(checkpoint) / RECORD)["date"])


def check_resumable(trainer: Trainer) -> None:
    """Look at what only the built model tells, and remove what the run will not go on from.

    Raises:
        InputError: the checkpoint is one of other parameters.
    """
    checkpoint = trainer.args.resume_from_checkpoint
    if checkpoint is not None:
        _compare(Path(checkpoint), {PARAMETERS: _trained(trainer)})
    PartialState().wait_for_everyone()  # every process has chosen its checkpoint
    if trainer.args.should_save:
        for newer in _newest_first(Path(str(trainer.args.output_dir))):
            if checkpoint is None or step_of(newer) > step_of(Path(checkpoint)):
                shutil.rmtree(newer)  # cut off or damaged


def _compare(checkpoint: Path, now: dict[str, Any]) -> None:
    made = read_json(checkpoint / RECORD)["made"]
    for name, value in now.items():
        if made.get(name) != value:
            raise InputError(
                f"{checkpoint}: was made with {name}: {made.get(name)}, this run has {value}; "
                "go on as it was made, or delete it"
            )


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing."""
    if not os.path.lexists(checkpoint / RECORD):
        return "was cut off while it was written"
    try:
        record = read_json(checkpoint / RECORD)
        files, _, _ = dict(record["files"]), dict(record["made"]), date.fromisoformat(record["date"])
    except (ValueError, KeyError, TypeError):
        return f"{RECORD} is damaged"
    for name, size in files.items():
        file = checkpoint / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is damaged or missing"
    return None


def _newest_first(folder: Path) -> list[Path]:
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return [checkpoint for checkpoint in found if step_of(checkpoint) >= 0]


def _trained(trainer: Trainer) -> int:
    model: Any = trainer.model
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return sum(whole_shape(parameter).numel() for parameter in trained)
