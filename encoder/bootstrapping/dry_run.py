"""A rehearsal of bootstrapping: a recipe's own models and stages at true size, with random weights, for a few steps.

It needs neither weights nor images, writes nothing, and tells what a machine can take and how fast it is.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from data import InputError
from encoder.bootstrapping.build import balance_teachers, load_objectives, make_student, stage_trainer
from encoder.bootstrapping.cache import CachedTeacher, EmbeddingCache
from encoder.bootstrapping.heads import Trained, without_heads
from encoder.bootstrapping.objectives import Objective
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.stages import Stage
from encoder.training.arguments import arguments, samples_per_step
from encoder.training.fitting import fit
from encoder.training.metrics import Progress, peak_memory
from encoder.training.rehearsal import DryRunImages, Stopwatch, describe, say


def dry_run(recipe: BootstrapRecipe, steps: int) -> dict[str, dict[str, float]]:
    """Run ``steps`` optimizer steps of every stage, and print one line for each.

    With a `teacher_cache` each stage runs twice over a temporary one: it is filled, and then read.

    Returns: by stage "images_per_second" of all processes, "peak_gib" of one, "trained" and "frozen" parameters; with
        a cache also "cached_images_per_second".

    Raises:
        InputError: fewer than one step, or a recipe that would not run.
    """
    if steps < 1:
        raise InputError(f"--dry-run {steps}: at least 1 step")
    _, objectives = load_objectives(recipe, random=True)
    teacher = objectives[0].teacher
    balance_teachers(recipe, objectives, DryRunImages(16, teacher.image_size), PartialState().device)
    figures: dict[str, dict[str, float]] = {}
    for stage in recipe.stages:
        made = make_student(recipe, objectives, random=True)
        student = made[0]
        if not figures:
            for number, each in enumerate(objectives, start=1):
                name = "teacher" if number == 1 else f"teacher {number}"
                describe(name, each.teacher.tower, each.teacher.image_size)
            describe("student", without_heads(student), stage.largest_size or teacher.image_size)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with TemporaryDirectory() as folder:
            training, speed = _run_stage(recipe, stage, made, objectives, steps, folder)
            trained = student.num_parameters(only_trainable=True)
            found = {
                "images_per_second": speed,
                "peak_gib": peak_memory() / 2**30,
                "trained": trained,
                "frozen": student.num_parameters() - trained,
            }
            line = (
                f"stage {stage.name}: {trained / 1e6:.1f} M parameters train, "
                f"{found['frozen'] / 1e6:.1f} M are frozen; "
                f"{training.per_device_train_batch_size} images at a time on {training.device.type}: "
                f"{speed:.3g} images/s, peak memory {found['peak_gib']:.2f} GiB"
            )
            if recipe.teacher_cache is not None:
                again = make_student(recipe, objectives, random=True)
                _, cached = _run_stage(recipe, stage, again, objectives, steps, folder)
                found["cached_images_per_second"] = cached
                line += f"; the teacher's outputs cached: {cached:.3g} images/s, {cached / speed:.2f} times as fast"
        figures[stage.name] = found
        say(line)
    return figures


def _run_stage(
    recipe: BootstrapRecipe,
    stage: Stage,
    student: tuple[Trained, int],
    objectives: list[Objective],
    steps: int,
    folder: str,
) -> tuple[TrainingArguments, float]:
    """Train a new student for ``steps`` steps; with which arguments, and images/s of all processes.

    Args:
        student: as `make_student` returns it.
        folder: of this process; where the recipe has a cache, one is made here, or found.
    """
    changes = {"max_steps": steps, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
    training = arguments({**recipe.settings(stage), **changes}, folder)
    images = DryRunImages(steps * samples_per_step(training), objectives[0].teacher.image_size)
    if recipe.teacher_cache is not None:  # each process takes the same images both times
        for each in objectives:
            cache = EmbeddingCache(Path(folder) / each.key, len(images), each.teacher.embed_dim)
            each.cached = CachedTeacher(each.teacher, cache)
    trainer = stage_trainer(recipe, stage, *student, objectives, images, training)
    watch = Stopwatch()
    trainer.add_callback(watch)
    fit(trainer, Progress())
    return training, watch.steps_per_second() * samples_per_step(training)
