"""`metrics.json`: what a training was, how it went and what came of it, for tables and plots; progress for people."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainingArguments

from data.errors import translated
from data.files import read_json, write_json
from encoder.training.arguments import samples_per_step

logger = logging.getLogger(__name__)

METRICS = "metrics.json"  # in the output directory


@dataclass(frozen=True)
class Metrics:
    """What `metrics.json` holds. It is written again after logging steps, always whole."""

    command: str  # of mllm
    recipe: dict[str, Any]  # with all of its defaults and overrides
    machine: dict[str, Any]  # and versions, see `describe_machine`
    processes: int
    parameters: dict[str, dict[str, int]] = field(default_factory=dict)  # of some: "all" and "trained", by part
    # "stage" where there are several, "step", what the Trainer logs ("loss", "learning_rate", "eval_loss" …),
    # "samples_per_second" of all processes since the entry before, "seconds" of training until then
    log: list[dict[str, Any]] = field(default_factory=list)
    bad_samples: int = 0
    result: dict[str, Any] = field(default_factory=dict)  # what the command measured in the end
    seconds: float = 0.0  # of training, before a resumption too
    peak_memory: int = 0  # bytes, of the first process: of its GPU, or else its main memory


class MetricsFile:
    """Keeps `metrics.json` of a run; entries of a run that goes on from a checkpoint are neither lost nor there twice.

    Args:
        folder: the output directory.
        resume: begin with what an interrupted run has written.
    """

    def __init__(self, folder: Path, command: str, recipe: Any, training: TrainingArguments, resume: bool) -> None:
        self.path, self.first = folder / METRICS, training.process_index == 0
        now = Metrics(command, asdict(recipe), describe_machine(training.device), training.world_size)
        if resume and self.path.is_file():
            with translated(str(self.path), "delete it"):
                now = Metrics(**read_json(self.path) | {name: getattr(now, name) for name in ("recipe", "machine")})
        self.content = now

    def write(self, **changes: Any) -> None:
        """Changes fields, and has the first process write the file."""
        peak = max(self.content.peak_memory, peak_memory())
        self.content = replace(self.content, peak_memory=peak, **changes)
        if self.first:
            write_json(self.path, asdict(self.content))


class Progress(TrainerCallback):
    """`step 120/1000  loss 2.1234  lr 9.8e-04  812 samples/s  2:10 left`, and whatever else was logged; `metrics.json`.

    The samples per second are those since the line before, as the loss is; the time left goes by the whole run.

    Args:
        file: of the run; None: no file is kept.
        stage: of a run with several.
    """

    HIDDEN = frozenset({"loss", "learning_rate", "epoch", "total_flos", "step"})

    def __init__(self, file: MetricsFile | None = None, stage: str | None = None) -> None:
        self.file, self.stage = file, {} if stage is None else {"stage": stage}
        self.start = self.last = (0, 0.0)  # steps done, and when
        self.before: list[dict[str, Any]] = []  # entries of other stages
        self.offset = 0.0  # seconds before this process
        self.pause = 0.0  # the file is written again only after this moment: a long log costs no time to speak of

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = self.last = (state.global_step, time.monotonic())
        if self.file is not None:
            log = self.file.content.log
            self.before = [entry for entry in log if entry.get("stage") != self.stage.get("stage")]
        earlier = state.log_history or self.before
        self.offset = earlier[-1].get("seconds", 0.0) if earlier else 0.0

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        now = (state.global_step, time.monotonic())
        parts = [f"step {state.global_step}/{state.max_steps}"]
        if "loss" in logs:
            parts.append(f"loss {float(logs['loss']):.4f}")
        if "learning_rate" in logs:
            parts.append(f"lr {logs['learning_rate']:.1e}")
        entry = state.log_history[-1]  # of these logs; checkpoints keep it
        entry["seconds"] = self.offset + now[1] - self.start[1]
        if "loss" in logs and now[0] > self.last[0]:
            step_time = (now[1] - self.start[1]) / (now[0] - self.start[0])
            pace = samples_per_step(args) * (now[0] - self.last[0]) / (now[1] - self.last[1])
            entry["samples_per_second"] = pace
            left = round((state.max_steps - state.global_step) * step_time)
            parts += [f"{pace:.0f} samples/s", f"{left // 60}:{left % 60:02d} left"]
            self.last = now
        parts += [
            f"{name} {value:.4g}"
            for name, value in logs.items()
            if name not in self.HIDDEN and isinstance(value, int | float)
        ]
        logger.info("%s", "  ".join(parts))
        if now[1] > self.pause:
            self._write(state)
            self.pause = now[1] + 20 * (time.monotonic() - now[1])

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)

    def _write(self, state: Any) -> None:
        if self.file is not None and state.is_world_process_zero:
            log = [*self.before, *(self.stage | each for each in state.log_history if "train_runtime" not in each)]
            self.file.write(log=log, seconds=log[-1].get("seconds", 0.0) if log else 0.0)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a reader needs to know to compare figures with his own."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "open_clip_torch")},
    }


def _cpu_model() -> str:
    """Linux tells it in /proc/cpuinfo only."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Bytes: of the GPU, since its figures were reset; without one, of this process since it started."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
