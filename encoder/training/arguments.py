"""What every training command shares: TrainingArguments from a recipe, and the final save.

`encoder.training.fitting` is what lies between; `encoder.training.output` keeps runs out of each other's output.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.logging import disable_progress_bar

from data.errors import InputError
from data.files import whole_folder
from encoder.training.checkpoints import checkpoint_to_resume
from encoder.training.output import check_output_folder, remove_checkpoints
from encoder.training.trainer_section import as_meant, check_optimizer, check_report_to, check_trainer
from encoder.weights import check_files_finite

logger = logging.getLogger(__name__)


def arguments(trainer: dict[str, Any], output: str | Path, resume: bool) -> TrainingArguments:
    """TrainingArguments from the `trainer:` section of a recipe, for this machine; also seeds every random generator.

    Without an accelerator the CPU is used. Started by a launcher (deepspeed or torchrun), the processes are joined:
    over gloo on CPU. `resume_from_checkpoint` is set when there is something to go on from.

    Raises:
        InputError: an unknown or wrongly typed field, or a value that nothing can be done with; a DeepSpeed config
            without its launcher; checkpoints of an interrupted run and no `--resume`, or of another kind of run.
    """
    check_trainer(trainer)
    check_output_folder(output)
    disable_progress_bar()
    tell_deepspeed()
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    deepspeed = trainer.get("deepspeed")
    if deepspeed is not None:
        _check_deepspeed(deepspeed, launched)
    settings: dict[str, Any] = {
        "use_cpu": not torch.accelerator.is_available(),
        "save_total_limit": 2,
        # Without images, or with another number of tokens, parameters are left out. Unless told, the Trainer does not
        # look for them where activations are checkpointed, which only the reentrant kind forbids.
        "ddp_find_unused_parameters": True,
        "logging_first_step": True,
        "disable_tqdm": True,  # LogProgress instead: one line per logging step, also without a terminal
        "logging_nan_inf_filter": False,  # which would hide what `StopIfNotFinite` looks for
    }
    settings.update(as_meant(trainer))
    settings.setdefault("report_to", "none")
    try:
        result = TrainingArguments(output_dir=str(output), **settings)
    except ValueError as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    check_optimizer(result)
    check_report_to(result)
    if deepspeed is not None:
        _start_deepspeed(result)
    result.resume_from_checkpoint = checkpoint_to_resume(result, resume)
    set_seed(result.seed)
    return result


def tell_deepspeed() -> None:
    """Without an accelerator, say so to DeepSpeed, or it tells stdout once it is imported, as saving does."""
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _check_deepspeed(config: Any, launched: bool) -> None:
    if not isinstance(config, str) or not Path(config).is_file():
        raise InputError(f"trainer: deepspeed: no such file: {config}")
    if not launched:
        raise InputError(
            f"trainer: deepspeed={config} needs the launcher: "
            "deepspeed --num_gpus N --no_local_rank --module mllm COMMAND RECIPE (or leave the field out)"
        )


def _start_deepspeed(training: TrainingArguments) -> None:
    import deepspeed

    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)  # stdout belongs to results
    if training.use_cpu:
        # ZeRO-3 splits the weights inside from_pretrained, which comes before the Trainer
        deepspeed.init_distributed(dist_backend="gloo")
        _unlink_buffer()


def _unlink_buffer() -> None:
    """Take away the name of this process's buffer, 66 MiB of main memory through which the others read its sums.

    DeepSpeed leaves it behind at every launch. Without a name it lasts as long as the processes that have opened it,
    however they end.
    """
    torch.distributed.barrier()  # all have opened all
    where, port, rank = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], torch.distributed.get_rank()
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{where}_{port}_{rank}"
    Path("/dev/shm", name).unlink(missing_ok=True)


def refuse_zero3(command: str) -> None:
    """For commands that keep their whole model on every process.

    Raises:
        InputError: the DeepSpeed config is one of stage 3.
    """
    if is_deepspeed_zero3_enabled():
        raise InputError(f"trainer: deepspeed: {command} does not split its small model; take a config of stage 1 or 2")


def samples_per_step(training: TrainingArguments) -> int:
    """Samples in one step of the optimizer, over all processes."""
    return training.train_batch_size * training.gradient_accumulation_steps * training.world_size


def samples_per_run(training: TrainingArguments) -> int:
    """How many samples `max_steps` steps take, over all processes.

    Raises:
        InputError: no `max_steps`; generated data has no end of its own.
    """
    if training.max_steps <= 0:
        raise InputError("trainer: max_steps is missing: generated data has no end of its own")
    return training.max_steps * samples_per_step(training)


def cache_again(model: Any) -> None:
    """Undo what the Trainer leaves in a language model's configuration: that it answers without a cache.

    Args:
        model: of transformers, perhaps with peft around it.
    """
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "use_cache"):
            config.use_cache = True


def save_atomically(folder: str | Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` write a model into a folder, whole or not at all; call it on one process only.

    Raises:
        InputError: the disk is full; a weight is NaN or infinite.
    """
    tell_deepspeed()
    with whole_folder(Path(folder)) as partial:
        writer(partial)
        check_files_finite(partial, str(folder), "nothing is written: start again with a lower learning rate")


def finish(training: TrainingArguments, writer: Callable[[Path], None]) -> None:
    """The end of a run: the first process saves the output, then removes the run's checkpoints."""
    if training.should_save:
        folder = Path(str(training.output_dir))
        save_atomically(folder, writer)
        remove_checkpoints(folder)
        logger.info("saved %s", folder)
