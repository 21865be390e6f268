"""What depends on internals of libraries, each with its reason and the version that it was seen with.

`tests/test_compat.py` shows what the library does without our help, and fails once the help is no longer needed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The operator of fused attention on a GPU, which torch's flop counter knows. On the meta device torch 2.14 splits
# attention into products, with the (T, T) weights between them.
FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention


def own_part(parameter: Tensor) -> Tensor:
    """Returns the values of a parameter that this process holds: under ZeRO-3 it is empty, with its part beside it.

    DeepSpeed 0.19 documents only how to gather whole parameters, which takes time and memory.
    """
    return getattr(parameter, "ds_tensor", parameter).detach()


def is_split(parameter: Tensor) -> bool:
    """Returns whether ZeRO-3 has split a parameter over the processes, as of DeepSpeed 0.19."""
    return hasattr(parameter, "ds_tensor")


def made_whole(make: Callable[[], nn.Module]) -> nn.Module:
    """Makes a module whose initial values need whole weights, and only then has ZeRO-3 split them.

    DeepSpeed 0.19 splits a module's weights as soon as it is made; timm goes through a model's at the end, and divides
    by their sizes.
    """
    from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return make()
    from deepspeed import zero
    from deepspeed.runtime.zero import partition_parameters

    partition_parameters.shutdown_init_context()
    try:
        module = make()
    finally:
        partition_parameters.restore_init_context()
    if partition_parameters.top_level_context:
        zero.Init(module=module, config_dict_or_path=deepspeed_config())
    return module


def whole_shape(parameter: Tensor) -> torch.Size:
    """Returns the shape that a parameter has when ZeRO-3 does not split it, nor bitsandbytes 0.48 packs it in bytes."""
    quantized = getattr(parameter, "quant_state", None)
    return getattr(parameter, "ds_shape", parameter.shape) if quantized is None else quantized.shape


def deepspeed_logs_to_stderr() -> None:
    """Keeps stdout for results: DeepSpeed 0.19 logs there."""
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def unlink_allreduce_buffer() -> None:
    """Takes away the name of this process's buffer, 66 MiB of main memory through which the others read its sums.

    DeepSpeed 0.19 leaves it behind at every launch on a CPU. Without a name it lasts as long as the processes that have
    opened it, however they end.
    """
    from accelerate import PartialState

    process = PartialState()
    process.wait_for_everyone()  # all have opened all
    where, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{where}_{port}_{process.process_index}"
    Path("/dev/shm", name).unlink(missing_ok=True)


def stop_when_done(trainer: Any) -> None:
    """Has a Trainer get no batches once all steps are taken: resumed from the last step, 5.24's takes one more."""
    get_batch_samples = trainer.get_batch_samples

    def none_when_done(*args: Any) -> Any:
        done = trainer.state.global_step >= trainer.state.max_steps
        return ([], None) if done else get_batch_samples(*args)

    trainer.get_batch_samples = none_when_done


def fork_late() -> Any:
    """Makes a context of processes that forks a worker a moment later.

    Accelerate 1.15 sends around a generator's state right before. While gloo's threads let go of it they hold a lock of
    the interpreter's, and a child that is forked meanwhile waits for it forever (CPython 3.11). No test shows what
    happens so rarely.
    """
    from multiprocessing.context import ForkProcess  # which Windows has not

    context: Any = copy(multiprocessing.get_context("fork"))

    class Late(ForkProcess):
        def start(self) -> None:
            time.sleep(0.1)
            super().start()

    context.Process = Late
    return context
