"""What all trainings share: prepare -> build -> fit -> export, in one output directory.

    with started("lm", recipe, recipe.trainer, resume) as run:
        if run.finished:
            return
        ...                      # prepare and build: if that fails, nothing of it is left
        run.fit(trainer)
        run.export(write)
        run.close(perplexity=...)

`encoder.training.output` has the directory, `.checkpoints` what a run goes on from, `.fitting` the run itself and
`.metrics` its file.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainingArguments, set_seed

from data.bad_samples import BadSamples
from data.files import whole_folder
from encoder.training.arguments import arguments
from encoder.training.checkpoints import checkpoint_to_resume
from encoder.training.fitting import fit
from encoder.training.metrics import MetricsFile, Progress
from encoder.training.output import is_finished, output_lock, remove_checkpoints
from encoder.weights import check_files_finite

logger = logging.getLogger(__name__)

LOWER_RATE = "nothing is written: start again with a lower learning rate"


class Run:
    """A training between its recipe and its output. See `started`.

    Attributes:
        output: the directory.
        process: which one this is; the first one writes.
        resume: whether an interrupted run goes on.
        finished: whether the output is complete already.
        bad: the record of bad samples, which all processes share and a resumption keeps.
        metrics: what `metrics.json` holds.
    """

    def __init__(self, command: str, recipe: Any, training: TrainingArguments, resume: bool) -> None:
        self.output, self.process, self.resume = Path(recipe.output), PartialState(), resume
        self.finished = is_finished(self.output, resume)
        self.training, self.fitting = training, False
        self.metrics = MetricsFile(self.output, command, recipe, training, resume)
        record = self.output / "bad_samples.jsonl"
        if self.process.is_main_process and not resume:
            record.unlink(missing_ok=True)
        self.process.wait_for_everyone()
        self.bad = BadSamples(record)

    def arguments(self, settings: dict[str, Any] | None = None, folder: Path | None = None) -> TrainingArguments:
        """What a Trainer is built with: where it goes on from is settled, and every random generator seeded.

        Args:
            settings, folder: of a stage, if not those of the whole run.

        Raises:
            InputError: as `arguments`; checkpoints of an interrupted run and no `--resume`, or of another kind of run.
        """
        training = self.training if settings is None else arguments(settings, folder or self.output)
        training.resume_from_checkpoint = checkpoint_to_resume(training, self.resume)
        set_seed(training.seed)
        return training

    def fit(
        self, trainer: Trainer, stage: str | None = None, parameters: dict[str, dict[str, int]] | None = None
    ) -> None:
        """Trains; see `encoder.training.fitting.fit`. From here on what is written is kept, however the run ends.

        Args:
            stage: of several.
            parameters: by part of the model, as `Metrics` has them.
        """
        self.fitting = True
        if parameters is not None:
            self.metrics.write(parameters=parameters)
        fit(trainer, Progress(self.metrics, stage))

    def export(self, write: Callable[[Path], None], folder: Path | None = None, together: bool = False) -> None:
        """Has the first process write a model, whole or not at all, and removes the checkpoints that led to it.

        Args:
            write: is given the folder to write into.
            folder: if it is not the run's output.
            together: all processes call ``write``, as ZeRO-3 needs it; those that are not the first write nothing.

        Raises:
            InputError: the disk is full; a weight is NaN or infinite.
        """
        folder, first = folder or self.output, self.process.is_main_process
        if first or together:
            with whole_folder(folder) if first else nullcontext(folder) as place:
                write(place)
                if first:
                    check_files_finite(place, str(folder), LOWER_RATE)
        if first:
            remove_checkpoints(folder)
            logger.info("saved %s", folder)
        self.process.wait_for_everyone()

    def close(self, **result: Any) -> None:
        """The end: bad samples are told, and what was measured goes into `metrics.json`."""
        if self.process.is_main_process:
            for line in self.bad.report():
                logger.warning("%s", line)
            self.metrics.write(bad_samples=self.bad.count, result=result)
            if not self.bad.count:
                self.bad.path.unlink(missing_ok=True)


@contextmanager
def started(command: str, recipe: Any, settings: dict[str, Any], resume: bool, zero3: bool = False) -> Iterator[Run]:
    """Around a training: no other run writes to its output; if it fails before it fits, what it wrote is removed.

    Args:
        command: of mllm.
        recipe: a dataclass with an ``output``.
        settings: fields of TrainingArguments.
        resume: go on from the last checkpoint in the output.
        zero3: whether ZeRO-3 may split the model.

    Raises:
        InputError: another run writes there; the output is complete, and ``resume`` is not given; see `arguments`.
    """
    output = Path(recipe.output)
    training = arguments(settings, output, zero3)
    first = PartialState().is_main_process
    with output_lock(output) if first else nullcontext():
        before = set(output.iterdir()) if first else set()
        run = None
        try:
            run = Run(command, recipe, training, resume)
            if first and run.finished:
                remove_checkpoints(output)
            yield run
        except BaseException:
            if first and not (run and run.fitting):
                for new in set(output.iterdir()) - before:
                    shutil.rmtree(new) if new.is_dir() and not new.is_symlink() else new.unlink()
            raise
