"""The `trainer:` section of a recipe, looked at before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import fields
from enum import EnumMeta
from typing import Any, get_args, get_type_hints

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames

from data.errors import InputError, translated
from encoder.training.recipes import check_keys

# what the recipe says elsewhere: the field of TrainingArguments -> where
ELSEWHERE = {"output_dir": "the recipe's output", "resume_from_checkpoint": "--resume"}
PRIMITIVES = (bool, int, float, str)
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
    """Refuse what TrainingArguments does not have, has with another type, or cannot work with.

    Raises:
        InputError: names the field.
    """
    for name, where in ELSEWHERE.items():
        if name in trainer:
            raise InputError(f"trainer: {name} is given by {where}")
    check_keys("trainer", trainer, [field.name for field in fields(TrainingArguments) if field.name not in ELSEWHERE])
    hints = get_type_hints(TrainingArguments)
    for name, value in trainer.items():
        hint = hints[name]
        allowed = set(get_args(hint) or (hint,)) - {type(None)}
        for kind in allowed if value is not None else ():
            if isinstance(kind, EnumMeta):
                with translated("trainer"):
                    kind(as_meant({name: value})[name])
        if value is None or not allowed <= set(PRIMITIVES):
            continue  # TrainingArguments checks its enumerations itself
        fits = type(value) in allowed or (type(value) is int and float in allowed)
        if not fits:
            names = " or ".join(sorted(kind.__name__ for kind in allowed))
            raise InputError(f"trainer: {name} must be {names}, not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"trainer: {name}={value}: must be a finite number")
        if name in AT_LEAST and value < AT_LEAST[name]:
            raise InputError(f"trainer: {name}={value}: must be at least {AT_LEAST[name]}")
    if trainer.get("max_steps") == 0:
        raise InputError("trainer: max_steps=0: must be at least 1; leave it out to count num_train_epochs")


def as_meant(trainer: dict[str, Any]) -> dict[str, Any]:
    """The same with "no" where YAML took a bare no, as in ``save_strategy: no``, for false."""
    hints = get_type_hints(TrainingArguments)

    def has_no(name: str) -> bool:
        kinds = get_args(hints.get(name)) or (hints.get(name),)
        return any(isinstance(kind, EnumMeta) and "no" in kind.__members__.values() for kind in kinds)

    return {name: "no" if value is False and has_no(name) else value for name, value in trainer.items()}


def check_report_to(training: TrainingArguments) -> None:
    """Raise InputError for a `report_to` that transformers does not know, or that is not installed."""
    names = training.report_to
    try:
        get_reporting_integration_callbacks(names)
    except ValueError as error:
        raise InputError(f"trainer: report_to: {error}") from error
    installed = [*get_available_reporting_integrations(), "flyte"]  # which transformers never looks for
    for name in names if isinstance(names, list) else ():
        if name not in installed:
            raise InputError(f"trainer: report_to: {name} is not installed: pip install {name}")


def check_optimizer(training: TrainingArguments) -> None:
    """Build the optimizer and the schedule once, for one number: their options are known to their own classes only.

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
