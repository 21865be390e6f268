"""The run itself: checkpoints that a run can go on from, and an early end where going on is no use."""

from __future__ import annotations

import math
import signal
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from data.errors import InputError, reason
from data.files import named_when_full
from data.processes import Terminated, TerminationNotice, kill_children_at_exit, on_sigterm
from encoder.compat import fork_late, own_part, stop_when_done
from encoder.training.checkpoints import Recorder, check_resumable
from encoder.training.metrics import Progress


def fit(trainer: Trainer, progress: Progress) -> None:
    """Trains, from the checkpoint of `trainer.args` if there is one, with one line of progress per logging step.

    Raises:
        InputError: the checkpoint does not fit, a loss or weight is not finite, or the data ends before the training.
        Terminated: after SIGTERM, when a checkpoint was saved.
    """
    check_resumable(trainer)
    kill_children_at_exit()
    notice = TerminationNotice()
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which belongs to results
    for callback in (progress, StopWhenTerminated(notice), StopIfNotFinite(), Recorder(trainer)):
        trainer.add_callback(callback)
    stop_when_done(trainer)
    with named_when_full(str(trainer.args.output_dir)), on_sigterm(notice):
        loss = _train(trainer)
        step, last = trainer.state.global_step, trainer.state.max_steps
        if _anywhere(bool(notice)):
            saved = f"{trainer.args.output_dir}/checkpoint-{step}"
            raise Terminated(f"terminated after step {step}/{last}, saved as {saved}; --resume goes on from it")
    if step < last:
        raise InputError(f"the data ended at step {step} of {last}: not one batch is in it; give more, or smaller")
    if _anywhere(not math.isfinite(loss) or not _is_finite(trainer.model)):
        _stop("the loss or a weight at the end", "not finite", step)


def _train(trainer: Trainer) -> float:
    """Train; the mean loss. What a library cannot read of the checkpoint becomes one line."""
    checkpoint = trainer.args.resume_from_checkpoint
    reading = Reading(checkpoint is not None)
    trainer.add_callback(reading)
    try:
        return trainer.train(resume_from_checkpoint=checkpoint).training_loss
    except Exception as problem:
        if not reading.goes_on or isinstance(problem, InputError):
            raise
        fix = "delete it, and --resume takes the one before it, or starts again"
        raise InputError(f"{checkpoint}: cannot be gone on from: {reason(problem)}; {fix}") from problem


class Reading(TrainerCallback):
    """Whether the Trainer still reads a checkpoint: until the first step."""

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.goes_on = False


class StopWhenTerminated(TrainerCallback):
    """After SIGTERM to any process, all save a checkpoint at the end of the same step and stop."""

    def __init__(self, notice: TerminationNotice) -> None:
        self.notice = notice

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if args.dataloader_num_workers:
            loader = kwargs["train_dataloader"].base_dataloader  # accelerate's wraps it
            loader.worker_init_fn = partial(_outlive_sigterm, loader.worker_init_fn)
            if PartialState().backend == "gloo":
                loader.multiprocessing_context = fork_late()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if _anywhere(bool(self.notice)):
            control.should_save = control.should_training_stop = True


class StopIfNotFinite(TrainerCallback):
    """A loss, gradient norm or weight that is no number stops the run on all processes, before it is saved."""

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save and _anywhere(not _is_finite(kwargs["model"])):
            _stop("a weight", "not finite", state.global_step)

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        # In float16 gradients overflow now and then: the loss is scaled down, and the step is left out.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                _stop(f"the {name}", str(value), state.global_step)


def _stop(what: str, value: str, step: int) -> None:
    """Raises InputError on the first process, which speaks for all."""
    if not PartialState().is_main_process:
        raise SystemExit(2)
    raise InputError(
        f"step {step}: {what} is {value}: lower learning_rate, raise warmup_steps, or set max_grad_norm, or bf16 in "
        "place of fp16; --resume goes on from the last checkpoint before it"
    )


def _is_finite(model: Any) -> bool:
    """Whether all weights that train are, as far as this process holds them."""
    parts = [own_part(parameter) for parameter in model.parameters() if parameter.requires_grad]
    return all(bool(part.isfinite().all()) for part in parts)


def _anywhere(here: bool) -> bool:
    """Whether it is so on any process; all of them must ask."""
    return bool(reduce(torch.tensor(float(here), device=PartialState().device), reduction="sum"))


def _outlive_sigterm(init: Any, worker: int) -> None:
    """Workers end when the training ends: one that is gone before would tear it out of its step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if init is not None:
        init(worker)
