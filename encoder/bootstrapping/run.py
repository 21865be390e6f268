"""Bootstrapping as a command: recipe in, a SparseFormer out, with the teacher's text tower if it has one.

Stages follow each other, each in a folder of its own below the output; a finished stage is a saved SparseFormer, from
which the next one starts. So an interrupted run goes on in the stage, and at the checkpoint, where it was.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from data import InputError, open_images, open_labeled
from data.errors import translated
from encoder import SparseFormerImageProcessor, SparseFormerVisionModel
from encoder.bootstrapping.build import balance_teachers, load_objectives, make_student, stage_trainer
from encoder.bootstrapping.cache import CachedTeacher, open_cache
from encoder.bootstrapping.callbacks import DrawRois
from encoder.bootstrapping.heads import Trained, load_student, without_heads
from encoder.bootstrapping.objectives import STATISTICS, Objective, load_balances, save_balances, share_balances
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.report import report
from encoder.bootstrapping.stages import Stage
from encoder.bootstrapping.trainer import BootstrapTrainer
from encoder.clip import save_clip, save_tower
from encoder.teachers import LoadedTeacher, Teacher
from encoder.training.arguments import arguments
from encoder.training.images import open_sources
from encoder.training.output import check_output_folder, is_whole
from encoder.training.spine import Run, started

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """What is opened and looked at before anything is written."""

    loaded: LoadedTeacher  # the first
    objectives: list[Objective]
    images: Dataset[Any]
    image_processor: SparseFormerImageProcessor  # of the result
    student: Trained  # as it starts
    early_blocks: int  # of its cortex


def bootstrap(recipe: BootstrapRecipe, resume: bool = False) -> dict[str, Any]:
    """Trains the stages, saves the result and prints how student and teacher compare, also of a finished run.

    Returns: what `report` does; {} on all processes but the first.
    """
    settings = [recipe.settings(stage) for stage in recipe.stages]
    for each in settings:  # what is wrong in the last one is told before the first one trains
        arguments(each, recipe.output)
    with started("bootstrap", recipe, settings[0], resume) as run:
        folders = [run.output / f"stage-{index}-{stage.name}" for index, stage in enumerate(recipe.stages, start=1)]
        for folder in folders:
            if folder.exists() and not resume and any(folder.iterdir()):
                raise InputError(f"{folder} is left of an earlier run: add --resume, or delete {run.output}")
        prepared = prepare(recipe, run)
        student = prepared.student
        for stage, folder in () if run.finished else zip(recipe.stages, folders, strict=True):
            if is_whole(folder):
                logger.info("stage %s is complete", stage.name)
            else:
                trainer = build(recipe, run, prepared, stage, student, folder)
                run.fit(trainer, stage.name)
                run.export(trainer.save_result, folder)
            # A fresh model: what wrapped the last one (DeepSpeed hooks its parameters) must not reach the next stage.
            student = load_student(folder, prepared.objectives)
        if not run.finished:
            run.export(lambda folder: export(folder, prepared, without_heads(student)))
        if not run.process.is_main_process:
            return {}
        for folder in filter(Path.exists, folders):
            if (folder / "runs").is_dir():  # what report_to=tensorboard wrote
                shutil.copytree(folder / "runs", run.output / "runs" / folder.name, dirs_exist_ok=True)
            shutil.rmtree(folder)
        figures = report(recipe, prepared.loaded, run.process.device)
        run.close(**figures)
    return figures


def prepare(recipe: BootstrapRecipe, run: Run) -> Prepared:
    """Opens images and teachers, and makes the student."""
    with run.process.local_main_process_first():
        images = open_sources(recipe.images, run.bad)
    loaded, objectives = load_objectives(recipe)
    image_processor = _check_end(recipe, loaded)
    student, early_blocks = make_student(recipe, objectives)
    for number, each in enumerate(objectives[1:], start=2):
        logger.info("teacher %d: %s", number, each.teacher.description)
    logger.info("teacher: %s; student: %s", loaded.teacher.description, _describe(without_heads(student)))
    if not run.finished:
        _balance(recipe, run, objectives, images)
    return Prepared(loaded, objectives, images, image_processor, student, early_blocks)


def _balance(recipe: BootstrapRecipe, run: Run, objectives: list[Objective], images: Dataset[Any]) -> None:
    """Reads what the interrupted run has measured of its teachers, or measures it, and keeps it."""
    if run.resume and (run.output / STATISTICS).is_file():
        load_balances(run.output, objectives)
    else:
        balance_teachers(recipe, objectives, images, run.process.device)
    share_balances(objectives, run.process.device)
    if run.process.is_main_process and any(each.balances for each in objectives):
        save_balances(run.output, objectives)


def build(
    recipe: BootstrapRecipe, run: Run, prepared: Prepared, stage: Stage, student: Trained, folder: Path
) -> BootstrapTrainer:
    """The Trainer of a stage, in whose folder its checkpoints are."""
    objectives, images = prepared.objectives, prepared.images
    training = run.arguments(recipe.settings(stage), folder)
    if recipe.teacher_cache is not None:
        for each in objectives:
            cache = open_cache(recipe.teacher_cache, each.teacher, recipe.images, images, training)
            each.cached = CachedTeacher(each.teacher, cache)
    trainer = stage_trainer(recipe, stage, student, prepared.early_blocks, objectives, images, training)
    if recipe.visualize_steps:
        trainer.add_callback(_drawings(recipe, stage, without_heads(student), objectives[0].teacher))
    return trainer


def export(folder: Path, prepared: Prepared, student: SparseFormerVisionModel) -> None:
    """Writes the student, with the teacher's text tower if it has one."""
    text = prepared.loaded.text
    if text is None:
        save_tower(folder, student, prepared.image_processor)
    else:
        save_clip(folder, text.clip, student, prepared.image_processor, text.model_config, text.tokenizer)


def _check_end(recipe: BootstrapRecipe, loaded: LoadedTeacher) -> SparseFormerImageProcessor:
    """Look at first what is needed last: held-out images, texts, and the result's image processor, which is returned.

    Raises:
        InputError: hours would have been spent for nothing.
    """
    teacher = loaded.teacher
    if recipe.zero_shot and loaded.text is None:
        raise InputError(f"zero_shot: {recipe.teacher} has no text tower; leave it out")
    for source in recipe.zero_shot:
        if open_labeled(source, image_size=(teacher.image_size, teacher.image_size)).class_names is None:
            raise InputError(
                f"zero_shot: {source} knows no names of its classes; give a folder with a folder per class"
            )
    if recipe.teacher_cache is not None:
        check_output_folder(recipe.teacher_cache, "teacher_cache")
    held_out: Any = open_images(recipe.held_out)
    next(iter(DataLoader(held_out, batch_size=None, collate_fn=dict)))  # raises InputError if not one is good
    if not isinstance(held_out, IterableDataset) and len(held_out) < recipe.held_out_images:
        logger.info("held_out: has %d images, not held_out_images=%d", len(held_out), recipe.held_out_images)
    with translated("teacher"):
        # The result is made for images of the last stage's size.
        processor = teacher.image_processor.resized(recipe.stages[-1].image_size or teacher.image_size)
        if loaded.text is not None:
            processor.to_open_clip()
    return processor


def _drawings(recipe: BootstrapRecipe, stage: Stage, student: SparseFormerVisionModel, teacher: Teacher) -> DrawRois:
    """Drawings of the first four held-out images, in the course of a stage."""
    samples = DataLoader(open_images(recipe.held_out), batch_size=None, collate_fn=dict)
    images = [sample["image"] for sample in islice(samples, 4)]
    processor = teacher.image_processor.resized(stage.largest_size or teacher.image_size)
    prefix = Path(recipe.output) / "roi_drawings" / stage.name
    return DrawRois(student, processor, images, prefix, recipe.visualize_steps, stage.num_tokens)


def _describe(student: SparseFormerVisionModel) -> str:
    millions = sum(parameter.numel() for parameter in student.parameters()) / 1e6
    return f"{student.config.num_tokens} tokens, {len(student.cortex)} blocks of cortex, {millions:.2f} M parameters"
