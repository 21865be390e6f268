"""A rehearsal of a task: the recipe's own model at true size, with random weights, for a few steps. Writes nothing."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from data.errors import InputError
from encoder.tasks.build import build_model, freeze, load_encoder
from encoder.tasks.data import TaskCollator
from encoder.tasks.recipe import TaskRecipe
from encoder.tasks.run import count_parameters
from encoder.tasks.trainer import TaskTrainer
from encoder.training.arguments import arguments, samples_per_step
from encoder.training.fitting import fit
from encoder.training.metrics import Progress, peak_memory
from encoder.training.rehearsal import DryRunImages, Stopwatch, describe, say


class _Labeled(DryRunImages):
    """With the labels that a task asks for."""

    def __init__(self, count: int, side: int, classes: int) -> None:
        super().__init__(count, side)
        self.mask = Image.new("L", (side, side), classes - 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        boxes = {"boxes": [[0.1, 0.1, 0.6, 0.7]], "labels": [0]}
        return {**super().__getitem__(index), "label": 0, "mask": self.mask, **boxes, "index": index}


def dry_run(recipe: TaskRecipe, steps: int) -> dict[str, float]:
    """Runs ``steps`` optimizer steps and prints a line.

    Returns: "images_per_second" of all processes, "peak_gib" of one, "trained" and "frozen" parameters.

    Raises:
        InputError: fewer than one step; how many classes there are is not said; a recipe that would not run.
    """
    if steps < 1:
        raise InputError(f"--dry-run {steps}: at least 1 step")
    if recipe.num_classes is None:
        raise InputError("num_classes: a dry run opens no images; say how many classes there are")
    tower, processor = load_encoder(recipe, random=True)
    side = processor.output_size[0]
    model = build_model(recipe, tower, [f"class {number}" for number in range(recipe.num_classes)], side)
    describe(f"{recipe.encoder} for {recipe.task}, {model.config.num_tokens} tokens, {side} pixels", model, side)
    freeze(recipe, model)
    changes = {"max_steps": steps, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder:
        training = arguments({**recipe.settings, **changes}, folder)
        collator = TaskCollator(recipe.task, processor, int, recipe, training.seed)
        watch = Stopwatch()
        trainer = TaskTrainer(
            model=model.train(),
            args=training,
            train_dataset=_Labeled(steps * samples_per_step(training), side, recipe.num_classes),
            data_collator=collator,
            callbacks=[watch],
            recipe=recipe,
        )
        fit(trainer, Progress())
        speed = watch.steps_per_second() * samples_per_step(training)
    parts = count_parameters(model, recipe.task).values()
    trained, every = (sum(part[name] for part in parts) for name in ("trained", "all"))
    frozen, peak = every - trained, peak_memory() / 2**30
    say(
        f"{trained / 1e6:.1f} M parameters train, {frozen / 1e6:.1f} M are frozen; "
        f"{training.per_device_train_batch_size} images at a time on {training.device.type}: "
        f"{speed:.3g} images/s, peak memory {peak:.2f} GiB"
    )
    return {"images_per_second": speed, "peak_gib": peak, "trained": trained, "frozen": frozen}
