"""The `trainer:` section of a recipe: looked at before anything is loaded, then made TrainingArguments."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from enum import EnumMeta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
    is_deepspeed_zero3_enabled,
)
from transformers.training_args import OptimizerNames
from transformers.utils.logging import disable_progress_bar

from data.errors import InputError, translated
from data.processes import launch_rank
from encoder.compat import deepspeed_logs_to_stderr, unlink_allreduce_buffer
from encoder.training.output import check_output_folder
from encoder.training.recipes import check_keys

# what the recipe says elsewhere: the field of TrainingArguments -> where
ELSEWHERE = {"output_dir": "the recipe's output", "resume_from_checkpoint": "--resume"}
PRIMITIVES = {bool, int, float, str}
# What TrainingArguments lets through, and what would end a run much later, or make a different one of it.
AT_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "learning_rate": 0,
    "seed": 0,
    "data_seed": 0,
}


def check_trainer(trainer: dict[str, Any]) -> None:
    """Refuses what TrainingArguments does not have, has with another type, or cannot work with.

    Raises:
        InputError: names the field.
    """
    for name, where in ELSEWHERE.items():
        if name in trainer:
            raise InputError(f"trainer: {name} is given by {where}")
    check_keys("trainer", trainer, [field.name for field in fields(TrainingArguments) if field.name not in ELSEWHERE])
    hints = get_type_hints(TrainingArguments)
    for name, value in _as_meant(trainer).items():
        hint = hints[name]
        allowed = set(get_args(hint) or (hint,)) - {type(None)}
        if value is None:
            continue
        with translated("trainer"):
            for kind in allowed:
                if isinstance(kind, EnumMeta):
                    kind(value)
        if not allowed <= PRIMITIVES:
            continue  # TrainingArguments reads dictionaries and lists itself
        if type(value) not in allowed and not (type(value) is int and float in allowed):
            names = " or ".join(sorted(kind.__name__ for kind in allowed))
            raise InputError(f"trainer: {name} must be {names}, not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"trainer: {name}={value}: must be a finite number")
        if name in AT_LEAST and value < AT_LEAST[name]:
            raise InputError(f"trainer: {name}={value}: must be at least {AT_LEAST[name]}")
    if trainer.get("max_steps") == 0:
        raise InputError("trainer: max_steps=0: must be at least 1; leave it out to count num_train_epochs")


def _as_meant(trainer: dict[str, Any]) -> dict[str, Any]:
    """The same with "no" where YAML took a bare no, as in ``save_strategy: no``, for false."""
    hints = get_type_hints(TrainingArguments)

    def has_no(name: str) -> bool:
        kinds = get_args(hints.get(name)) or (hints.get(name),)
        return any(isinstance(kind, EnumMeta) and "no" in kind.__members__.values() for kind in kinds)

    return {name: "no" if value is False and has_no(name) else value for name, value in trainer.items()}


def arguments(trainer: dict[str, Any], output: str | Path, zero3: bool = False) -> TrainingArguments:
    """TrainingArguments from a `trainer:` section that `check_trainer` has passed, for this machine.

    Without an accelerator the CPU is used. Started by a launcher (deepspeed or torchrun), the processes are joined,
    over gloo on CPU: from here on `accelerate.PartialState` knows them.

    Args:
        zero3: whether the weights may be split over the processes.

    Raises:
        InputError: a value that nothing can be done with; a DeepSpeed config without its launcher, or of stage 3.
    """
    check_output_folder(output)
    disable_progress_bar()
    tell_deepspeed()
    deepspeed = trainer.get("deepspeed")
    if deepspeed is not None:
        if not isinstance(deepspeed, str) or not Path(deepspeed).is_file():
            raise InputError(f"trainer: deepspeed: no such file: {deepspeed}")
        if launch_rank() is None:
            raise InputError(
                f"trainer: deepspeed={deepspeed} needs the launcher: "
                "deepspeed --num_gpus N --no_local_rank --module mllm COMMAND RECIPE (or leave the field out)"
            )
    settings: dict[str, Any] = {
        "use_cpu": not torch.accelerator.is_available(),
        "save_total_limit": 2,
        # Without images, or with another number of tokens, parameters are left out. Unless told, the Trainer does not
        # look for them where activations are checkpointed, which only the reentrant kind forbids.
        "ddp_find_unused_parameters": True,
        "logging_first_step": True,
        "disable_tqdm": True,  # Progress instead: one line per logging step, also without a terminal
        "logging_nan_inf_filter": False,  # which would hide what `StopIfNotFinite` looks for
        "report_to": "none",
        **_as_meant(trainer),
    }
    try:
        result = TrainingArguments(output_dir=str(output), **settings)
    except ValueError as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    if is_deepspeed_zero3_enabled() and not zero3:
        raise InputError("trainer: deepspeed: so small a model is not split; take a config of stage 1 or 2")
    _check_optimizer(result)
    _check_report_to(result)
    if deepspeed is not None:
        _start_deepspeed(result)
    return result


def _check_report_to(training: TrainingArguments) -> None:
    """Raises InputError for a `report_to` that transformers does not know, or that is not installed."""
    names = training.report_to
    try:
        get_reporting_integration_callbacks(names)
    except ValueError as error:
        raise InputError(f"trainer: report_to: {error}") from error
    installed = [*get_available_reporting_integrations(), "flyte"]  # which transformers never looks for
    for name in names if isinstance(names, list) else ():
        if name not in installed:
            raise InputError(f"trainer: report_to: {name} is not installed: pip install {name}")


def _check_optimizer(training: TrainingArguments) -> None:
    """Builds the optimizer and the schedule once, for one number: their options are known to their own classes only.

    Raises:
        InputError: an option that is none, or out of range; a package that is not installed.
    """
    if training.optim_target_modules or training.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
        return  # these are made for a certain model
    schedule: Any = training.lr_scheduler_kwargs
    steps = training.max_steps if training.max_steps > 0 else 10**6
    fields_of = "optim, optim_args"
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(training)
        fields_of = "optim, its learning_rate and options"
        optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **options)
        fields_of = "lr_scheduler_type, lr_scheduler_kwargs"
        get_scheduler(
            training.lr_scheduler_type,
            optimizer,
            num_warmup_steps=training.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=schedule,
        )
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise InputError(f"trainer: {fields_of}: {' '.join(str(error).split())}") from error


def tell_deepspeed() -> None:
    """Without an accelerator, says so to DeepSpeed, or it tells stdout once it is imported, as saving does."""
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _start_deepspeed(training: TrainingArguments) -> None:
    import deepspeed

    deepspeed_logs_to_stderr()
    if training.use_cpu:
        # ZeRO-3 splits the weights inside from_pretrained, which comes before the Trainer
        deepspeed.init_distributed(dist_backend="gloo")
        unlink_allreduce_buffer()


def samples_per_step(training: TrainingArguments) -> int:
    """Samples in one step of the optimizer, over all processes."""
    return int(training.train_batch_size * training.gradient_accumulation_steps * training.world_size)


def samples_per_run(training: TrainingArguments) -> int:
    """How many samples `max_steps` steps take, over all processes.

    Raises:
        InputError: no `max_steps`; generated data has no end of its own.
    """
    if training.max_steps <= 0:
        raise InputError("trainer: max_steps is missing: generated data has no end of its own")
    return training.max_steps * samples_per_step(training)
