"""What a recipe is built into: the teacher, the student as it starts, and the Trainer of each stage."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainingArguments, set_seed

from data import InputError
from data.limits import check_range
from encoder import SparseFormerVisionModel
from encoder.bootstrapping.cache import EmbeddingCache
from encoder.bootstrapping.losses import check_losses
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.stages import Stage, apply_stage
from encoder.bootstrapping.student import build_student
from encoder.bootstrapping.trainer import BootstrapTrainer
from encoder.teachers import LoadedTeacher, Teacher, TeacherError, load_teacher
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


def stage_trainer(
    recipe: BootstrapRecipe,
    stage: Stage,
    student: SparseFormerVisionModel,
    early_blocks: int,
    teacher: Teacher,
    images: Dataset[Any],
    training: TrainingArguments,
    cache: EmbeddingCache | None = None,
) -> BootstrapTrainer:
    """The Trainer of a stage; freezes what the stage does not train."""
    student.config.image_size = stage.largest_size or teacher.image_size
    parts = apply_stage(student, stage, early_blocks)
    processor, size = teacher.image_processor, student.config.image_size
    resized = None if size == teacher.image_size else processor.resized(size)
    collator = ImageCollator(processor, resized, recipe.crop_scale, recipe.flip, seed=training.seed)
    return BootstrapTrainer(
        model=student.train(),
        args=training,
        train_dataset=EndlessStream(images) if isinstance(images, IterableDataset) else Indexed(images),
        data_collator=collator,
        callbacks=[OfEachEpoch(collator)],
        teacher=teacher,
        stage=stage,
        parts=parts,
        losses=recipe.losses,
        ema=recipe.ema,
        cache=cache,
    )


def make_student(
    recipe: BootstrapRecipe, teacher: Teacher, random: bool = False
) -> tuple[SparseFormerVisionModel, int]:
    """The student as it starts, and how many blocks of its cortex count as early.

    Args:
        random: take what ``init_from`` and ``stem`` name with random weights.

    Raises:
        InputError: an option that does not fit the teacher, or no blocks to inherit.
    """
    init_from = None
    if recipe.init_from is not None:
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
    try:
        check_losses(recipe.losses, student, teacher)
    except ValueError as error:
        raise InputError(f"losses: {error}") from error
    for count in (*recipe.report_tokens, *(count for stage in recipe.stages for count in stage.token_counts)):
        check_range("stages: num_tokens", count, 1 + student.config.class_token, student.config.num_tokens)
    source = init_from or teacher
    first, last = 0, student.config.num_hidden_layers
    late = last  # of a cortex that starts from nothing, all blocks are early
    if source.blocks is not None:
        first, last = recipe.student.resolve_first_block(source), source.num_blocks
        late = 2 * last // 3
    late = late if recipe.first_late_block is None else recipe.first_late_block
    if not first <= late <= last:
        raise InputError(f"first_late_block={late}: the cortex has the blocks {first} to {last - 1}")
    if (init_from or source.blocks is None) and not any("head" in stage.learning_rates for stage in recipe.stages):
        raise InputError("stages: the projection to this teacher is new; name 'head' in the learning_rates of a stage")
    return student, late - first
