"""Bootstrapping as a command: recipe in, a SparseFormer out, with the teacher's text tower if it has one.

Stages follow each other, each in a folder of its own below the output; a finished stage is a saved SparseFormer, from
which the next one starts. So an interrupted run goes on in the stage, and at the checkpoint, where it was.
"""

from __future__ import annotations

import logging
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch.utils.data import DataLoader, IterableDataset

from data import BadSamples, InputError, open_images, open_labeled
from data.errors import translated
from encoder import SparseFormerImageProcessor, SparseFormerVisionModel
from encoder.bootstrapping.build import load_recipe_teacher, make_student, stage_trainer
from encoder.bootstrapping.cache import CacheError, open_cache
from encoder.bootstrapping.drawing import DrawRois
from encoder.bootstrapping.images import open_sources
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.report import report
from encoder.bootstrapping.stages import Stage
from encoder.clip import load_tower, save_clip, save_tower
from encoder.teachers import LoadedTeacher, Teacher
from encoder.training.arguments import arguments, finish, refuse_zero3, save_atomically
from encoder.training.fitting import fit
from encoder.training.output import check_output_folder, is_finished, is_whole, output_lock

logger = logging.getLogger(__name__)


@output_lock
def bootstrap(recipe: BootstrapRecipe, resume: bool = False) -> dict[str, Any]:
    """Train the stages, save the result, print held-out figures of student and teacher; these also of a finished run.

    Returns: see `encoder.bootstrapping.report.report`; {} on all processes but the first.
    """
    output, bad = Path(recipe.output), BadSamples()
    finished = is_finished(output, resume)
    images = open_sources(recipe.images, bad)
    loaded = load_recipe_teacher(
        recipe.teacher, recipe.pretrained, image_size=recipe.teacher_image_size, tokenizer=recipe.tokenizer
    )
    teacher = loaded.teacher
    image_processor = _check_end(recipe, loaded)
    student, early_blocks = make_student(recipe, teacher)
    folders = [output / f"stage-{index}-{stage.name}" for index, stage in enumerate(recipe.stages, start=1)]
    for folder in folders:
        if folder.exists() and not resume and any(folder.iterdir()):
            raise InputError(f"{folder} is left of an earlier run: add --resume, or delete {output}")

    logger.info("teacher: %s; student: %s", teacher.description, _describe(student))
    for stage, folder in () if finished else zip(recipe.stages, folders, strict=True):
        if is_whole(folder):
            logger.info("stage %s is complete", stage.name)
        else:
            training = arguments(recipe.settings(stage), folder, resume)
            refuse_zero3("mllm bootstrap")
            cache = None
            if recipe.teacher_cache is not None:
                cache = open_cache(recipe.teacher_cache, teacher, recipe.images, images, training)
            trainer = stage_trainer(recipe, stage, student, early_blocks, teacher, images, training, cache)
            if recipe.visualize_steps:
                trainer.add_callback(_drawings(recipe, stage, student, teacher))
            try:
                fit(trainer)
            except CacheError as error:
                raise InputError(f"teacher_cache: {error}") from error
            finish(training, trainer.result.save_pretrained)
            trainer.accelerator.wait_for_everyone()
        # A fresh model: what wrapped the last one (DeepSpeed hooks its parameters) must not reach the next stage.
        student = load_tower(folder)

    process = PartialState()
    if not process.is_main_process:
        return {}

    def write(folder: Path) -> None:
        if loaded.text is None:
            save_tower(folder, student, image_processor)
        else:
            text = loaded.text
            save_clip(folder, text.clip, student, image_processor, text.model_config, text.tokenizer)

    if not finished:
        save_atomically(output, write)
    for folder in filter(Path.exists, folders):
        if (folder / "runs").is_dir():  # what report_to=tensorboard wrote
            shutil.copytree(folder / "runs", output / "runs" / folder.name, dirs_exist_ok=True)
        shutil.rmtree(folder)
    for line in bad.report():
        logger.warning("%s", line)
    return report(recipe, loaded, process.device)


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
    processor = teacher.image_processor.resized(stage.image_size or teacher.image_size)
    prefix = Path(recipe.output) / "looks" / stage.name
    return DrawRois(student, processor, images, prefix, recipe.visualize_steps, stage.num_tokens)


def _describe(student: SparseFormerVisionModel) -> str:
    millions = sum(parameter.numel() for parameter in student.parameters()) / 1e6
    return f"{student.config.num_tokens} tokens, {len(student.cortex)} blocks of cortex, {millions:.2f} M parameters"
