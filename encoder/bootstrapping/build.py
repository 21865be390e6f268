"""What a recipe is built into: the teachers, the student as it starts, and the Trainer of each stage."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import TrainingArguments, set_seed

from data import InputError
from data.limits import check_range
from encoder.bootstrapping.heads import StudentWithHeads, Trained, with_heads, without_heads
from encoder.bootstrapping.losses import check_losses
from encoder.bootstrapping.objectives import Objective, measure_balances
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.stages import Stage, apply_stage
from encoder.bootstrapping.student import build_student
from encoder.bootstrapping.trainer import BootstrapTrainer
from encoder.teachers import LoadedTeacher, TeacherError, load_teacher
from encoder.training.epochs import OfEachEpoch
from encoder.training.images import EndlessStream, ImageCollator, Indexed


def load_recipe_teacher(
    name: str, pretrained: str | None = None, field: str = "teacher", **options: Any
) -> LoadedTeacher:
    """Loads a teacher, with errors that name the recipe's ``field``."""
    try:
        return load_teacher(name, pretrained, **options)
    except TeacherError as error:
        raise InputError(f"{field}: {error}") from error


def load_objectives(recipe: BootstrapRecipe, random: bool = False) -> tuple[LoadedTeacher, list[Objective]]:
    """Loads the teachers: the first one, and what is learned from each.

    All see the same part of an image, the first one's, each at its own size and with its own mean and deviation.

    Args:
        random: with random weights.
    """
    loaded = load_recipe_teacher(
        recipe.teacher,
        recipe.pretrained,
        image_size=recipe.teacher_image_size,
        tokenizer=None if random else recipe.tokenizer,
        random=random,
    )
    first, *others = recipe.all_losses
    objectives = [Objective("pixel_values", loaded.teacher, first, recipe.balance, own=True)]
    for index, (each, losses) in enumerate(zip(recipe.teachers, others, strict=True)):
        options = {"image_size": each.image_size, "random": random, "text": False}
        teacher = load_recipe_teacher(each.name, each.pretrained, f"teachers[{index}]", **options).teacher
        teacher.image_processor = teacher.image_processor.framed_as(loaded.teacher.image_processor)
        objectives.append(Objective(f"pixel_values_{index + 2}", teacher, losses, recipe.balance))
    return loaded, objectives


def image_collator(
    recipe: BootstrapRecipe, objectives: list[Objective], student_size: int, seed: int = 0
) -> ImageCollator:
    """One view of each image, for the student and for each teacher at its own size."""
    shown = {}
    for each in objectives:
        side = round(each.teacher.image_size * (1 + recipe.shift))
        shown[each.key] = each.teacher.image_processor.resized(side)
    first = shown.pop("pixel_values")
    resized = None if student_size == first.output_size[0] else first.resized(student_size)
    return ImageCollator(first, resized, recipe.crop_scale, recipe.flip, seed=seed, more=shown)


def balance_teachers(
    recipe: BootstrapRecipe, objectives: list[Objective], images: Dataset[Any], device: torch.device
) -> None:
    """Measures each teacher's variance, where it is needed, on images from all over the data set."""
    given: Any = images
    if isinstance(images, IterableDataset):
        shown: Any = EndlessStream(images)
    else:
        step = max(1, len(given) // recipe.balance_images)
        shown = Subset(Indexed(images), range(0, len(given), step))
    if not any(each.reads for each in objectives):
        return
    for each in objectives:
        each.teacher.to(device)
    size = min(64, recipe.balance_images)
    collator = image_collator(recipe, objectives, objectives[0].teacher.image_size)
    batches = DataLoader(shown, batch_size=size, collate_fn=collator)
    measure_balances(objectives, islice(batches, -(-recipe.balance_images // size)), device)


def stage_trainer(
    recipe: BootstrapRecipe,
    stage: Stage,
    model: Trained,
    early_blocks: int,
    objectives: list[Objective],
    images: Dataset[Any],
    training: TrainingArguments,
) -> BootstrapTrainer:
    """The Trainer of a stage; freezes what the stage does not train."""
    size = without_heads(model).config.image_size = stage.largest_size or objectives[0].teacher.image_size
    parts = apply_stage(model, stage, early_blocks)
    collator = image_collator(recipe, objectives, size, training.seed)
    return BootstrapTrainer(
        model=model.train(),
        args=training,
        train_dataset=EndlessStream(images) if isinstance(images, IterableDataset) else Indexed(images),
        data_collator=collator,
        callbacks=[OfEachEpoch(collator)],
        objectives=objectives,
        stage=stage,
        parts=parts,
        ema=recipe.ema,
    )


def make_student(recipe: BootstrapRecipe, objectives: list[Objective], random: bool = False) -> tuple[Trained, int]:
    """The student as it starts, and how many blocks of its cortex count as early.

    Args:
        objectives: of its teachers.
        random: take what ``init_from`` and ``stem`` name with random weights.

    Raises:
        InputError: an option that does not fit the teacher, or no blocks to inherit.
    """
    teacher = objectives[0].teacher
    named = {each.name: objective.teacher for each, objective in zip(recipe.teachers, objectives[1:], strict=True)}
    init_from = None if recipe.init_pretrained else named.get(recipe.init_from or "")
    if recipe.init_from is not None and init_from is None:
        init_from = load_recipe_teacher(
            recipe.init_from, recipe.init_pretrained, "init_from", random=random, text=False
        ).teacher
    stem_from = teacher if recipe.student.stem == "inherit" else None
    if recipe.student.stem is not None and stem_from is None:
        stem_from = load_recipe_teacher(recipe.student.stem, None, "student.stem", random=random, text=False).teacher
    set_seed(int(recipe.trainer.get("seed", 42)))  # the student's first weights, the same on every process
    try:
        student = build_student(teacher, recipe.student, init_from, stem_from)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(f"student: {' '.join(str(error).split())}") from error
    if stem_from is None and any("stem" in stage.learning_rates for stage in recipe.stages):
        raise InputError("stages: learning_rates name 'stem', which this student has not; set student.stem")
    for index, each in enumerate(objectives):
        try:
            check_losses(each.losses, student, each.teacher, each.own)
        except ValueError as error:
            raise InputError(f"{f'teachers[{index - 1}]: ' if index else ''}losses: {error}") from error
    model = with_heads(student, objectives)
    heads = isinstance(model, StudentWithHeads)
    if heads and not recipe.stages[0].rate("heads"):
        raise InputError("stages: the heads are new; name 'heads' in the learning_rates of the first stage")
    if not heads and any("heads" in stage.learning_rates for stage in recipe.stages):
        raise InputError("stages: learning_rates name 'heads', which only teachers and the loss 'grid' need")
    for count in (*recipe.report_tokens, *(count for stage in recipe.stages for count in stage.token_counts)):
        check_range("stages: num_tokens", count, 1 + student.config.class_token, student.config.num_tokens)
    source = init_from or teacher
    first, last = 0, student.config.num_hidden_layers
    late = last  # of a cortex that starts from nothing, all blocks are early
    new = source.blocks is None or recipe.student.new_cortex
    if not new:
        first, last = recipe.student.resolve_first_block(source), source.num_blocks
        late = 2 * last // 3
    late = late if recipe.first_late_block is None else recipe.first_late_block
    if not first <= late <= last:
        raise InputError(f"first_late_block={late}: the cortex has the blocks {first} to {last - 1}")
    if (init_from or new) and not any("head" in stage.learning_rates for stage in recipe.stages):
        raise InputError("stages: the projection to this teacher is new; name 'head' in the learning_rates of a stage")
    return model, late - first
