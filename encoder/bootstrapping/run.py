"""Bootstrapping as a command: recipe in, a SparseFormer out, with the teacher's text tower if it has one.

Stages follow each other, each in a folder of its own below the output; a finished stage is a saved SparseFormer, from
which the next one starts. So an interrupted run goes on in the stage, and at the checkpoint, where it was.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset
from transformers import TrainingArguments, set_seed

from data import BadSamples, InputError, open_images
from data.errors import translated
from data.files import check_name
from data.limits import MAX_DEPTH, MAX_SAMPLES, MAX_SIDE, MAX_STEPS, MAX_TOKENS, check_range
from data.synthetic import SceneConfig
from encoder import SparseFormerImageProcessor, SparseFormerVisionModel
from encoder.bootstrapping import (
    BootstrapTrainer,
    CacheError,
    DrawRois,
    EmbeddingCache,
    Stage,
    StudentOptions,
    apply_stage,
    build_student,
    check_losses,
    reads_patches,
)
from encoder.bootstrapping.indexed import EndlessStream, Indexed
from encoder.bootstrapping.report import report
from encoder.bootstrapping.teacher_cache import open_cache
from encoder.bootstrapping.views import ImageCollator, OfEachEpoch
from encoder.clip import load_tower, save_clip, save_tower
from encoder.teachers import LoadedTeacher, Teacher, TeacherError
from encoder.teachers import load_teacher as load_any_teacher
from encoder.training.arguments import arguments, finish, refuse_zero3, save_atomically
from encoder.training.fitting import fit
from encoder.training.output import check_output_folder, is_finished, is_whole, output_lock
from encoder.training.trainer_section import check_trainer

logger = logging.getLogger(__name__)


@dataclass
class BootstrapRecipe:
    """What `mllm bootstrap` reads."""

    output: str  # directory of the result; unfinished stages lie in it too
    teacher: str  # open_clip:NAME, timm:NAME, transformers:DIR_OR_NAME, or a directory; see encoder.teachers
    images: list[str]  # sources to train on, without labels: see data.open_images; several only if none streams
    held_out: str  # a source of other images, to compare student and teacher on
    pretrained: str | None = None  # of a teacher of open_clip or timm: a tag, or a file of weights
    tokenizer: str | None = None  # of a teacher of open_clip, where it is not at hand: the directory of its tokenizer
    teacher_image_size: int | None = None  # side of its images, if not the published one: DINOv2's is 518
    init_from: str | None = None  # another ViT, named like the teacher, whose blocks the cortex inherits
    init_pretrained: str | None = None  # its weights, like pretrained
    held_out_images: int = 1000  # how many of them
    zero_shot_scenes: int = 0  # held-out generated scenes for zero-shot accuracy side by side; 0: none
    student: StudentOptions = field(default_factory=StudentOptions)
    first_late_block: int | None = None  # first block of the teacher that counts as late; None: 2L/3
    crop_scale: float = 1.0  # random crops of at least this share of the area; 1: the processor's own view
    flip: bool = False  # mirror half of the images; not for images with writing
    stages: list[Stage] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=lambda: {"cosine": 1.0})  # weights by name: encoder.bootstrapping
    ema: float | None = None  # decay of an average of the weights over the steps, which each stage then ends with
    teacher_cache: str | None = None  # directory to keep the teacher's representations in, for fixed views
    visualize_steps: int = 0  # steps between two drawings of RoIs on held-out images, in OUTPUT/looks; 0: none
    report_tokens: list[int] = field(default_factory=list)  # other numbers of tokens to report on in the end
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments, for all stages

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("images: at least one source is needed")
        if not self.stages:
            raise InputError("stages: at least one stage is needed")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise InputError(f"stages: two have the same name: {names}")
        for stage in self.stages:
            check_name("stages: name", stage.name)
            if "max_steps" in stage.trainer:
                raise InputError(f"stage {stage.name!r}: trainer: max_steps is given by its steps")
            check_trainer({**self.trainer, **stage.trainer})
            if stage.warmup_steps and {**self.trainer, **stage.trainer}.get("lr_scheduler_type") == "constant":
                raise InputError(f"warmup_steps of stage {stage.name!r}: set lr_scheduler_type: constant_with_warmup")
        if not 0 < self.crop_scale <= 1:
            raise InputError(f"crop_scale={self.crop_scale}: a share of the area, more than 0 and at most 1")
        try:
            check_losses(self.losses)
        except ValueError as error:
            raise InputError(f"losses: {error}") from error
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema={self.ema}: a decay, more than 0 and less than 1, such as 0.999")
        if self.teacher_cache is not None and (self.crop_scale < 1 or self.flip):
            raise InputError("teacher_cache: the views must be fixed: set crop_scale=1 and flip=false")
        if self.teacher_cache is not None and reads_patches(self.losses):
            raise InputError("teacher_cache: holds no patches, which the loss 'tokens' reads; leave out one of them")
        check_range("visualize_steps", self.visualize_steps, 0, MAX_STEPS)
        for index, count in enumerate(self.report_tokens):  # a class token, and one that looks
            check_range(f"report_tokens[{index}]", count, 2, MAX_TOKENS)
        check_range("teacher_image_size", self.teacher_image_size, 1, MAX_SIDE)
        check_range("held_out_images", self.held_out_images, 1, MAX_SAMPLES)
        check_range("zero_shot_scenes", self.zero_shot_scenes, 0, MAX_SAMPLES)
        check_range("first_late_block", self.first_late_block, 0, MAX_DEPTH)
        if self.init_from is not None and not self.student.inherit:
            raise InputError("init_from: nothing is inherited with student.inherit=false")
        if self.init_pretrained is not None and self.init_from is None:
            raise InputError("init_pretrained: are the weights of init_from, which is not given")
        if "max_steps" in self.trainer:
            raise InputError("trainer: max_steps is given by each stage's steps")


def load_teacher(name: str, pretrained: str | None = None, field: str = "teacher", **options: Any) -> LoadedTeacher:
    """`encoder.teachers.load_teacher`, whose errors name the recipe's ``field``."""
    try:
        return load_any_teacher(name, pretrained, **options)
    except TeacherError as error:
        raise InputError(f"{field}: {error}") from error


@output_lock
def run(recipe: BootstrapRecipe, resume: bool = False) -> dict[str, float]:
    """Train the stages, save the result, print held-out figures of student and teacher; these also of a finished run.

    Returns: "cosine", "constant_cosine" of one vector for all images and, with zero_shot_scenes, "teacher_zero_shot"
        and "student_zero_shot", each in [0, 1].
    """
    output, bad = Path(recipe.output), BadSamples()
    finished = is_finished(output, resume)
    images = _open_sources(recipe.images, bad)
    loaded = load_teacher(
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
            settings = {"remove_unused_columns": False, **recipe.trainer, **stage.trainer, "max_steps": stage.steps}
            if stage.warmup_steps is not None:
                settings["warmup_steps"] = stage.warmup_steps
            training = arguments(settings, folder, resume)
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
    if recipe.zero_shot_scenes:
        if loaded.text is None:
            raise InputError(f"zero_shot_scenes: {recipe.teacher} has no text tower; leave them out")
        SceneConfig(height=teacher.image_size, width=teacher.image_size)  # raises InputError for what is not drawn
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


def stage_trainer(
    recipe: BootstrapRecipe,
    stage: Stage,
    student: SparseFormerVisionModel,
    early_blocks: int,
    teacher: Teacher,
    images: Dataset,
    training: TrainingArguments,
    cache: EmbeddingCache | None = None,
) -> BootstrapTrainer:
    """The Trainer of a stage; freezes what the stage does not train."""
    student.config.image_size = stage.image_size or teacher.image_size
    parts = apply_stage(student, stage, early_blocks)
    collator = ImageCollator(teacher.image_processor, stage.image_size, recipe.crop_scale, recipe.flip, training.seed)
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
        random: the donor of blocks, if there is one, is taken with random weights.

    Raises:
        InputError: an option that does not fit the teacher, or no blocks to inherit.
    """
    donor = None
    if recipe.init_from is not None:
        donor = load_teacher(recipe.init_from, recipe.init_pretrained, "init_from", random=random, text=False).teacher
    set_seed(int(recipe.trainer.get("seed", 42)))  # the student's first weights, the same on every process
    try:
        student = build_student(teacher, recipe.student, donor)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(f"student: {' '.join(str(error).split())}") from error
    try:
        check_losses(recipe.losses, student, teacher)
    except ValueError as error:
        raise InputError(f"losses: {error}") from error
    source = donor or teacher
    first, last = 0, student.config.num_hidden_layers
    late = last  # of a cortex that starts from nothing, all blocks are early
    if source.blocks is not None:
        first, last = recipe.student.resolve_first_block(source), source.num_blocks
        late = 2 * last // 3
    late = late if recipe.first_late_block is None else recipe.first_late_block
    if not first <= late <= last:
        raise InputError(f"first_late_block={late}: the cortex has the blocks {first} to {last - 1}")
    if (donor or source.blocks is None) and not any("head" in stage.learning_rates for stage in recipe.stages):
        raise InputError("stages: the projection to this teacher is new; name 'head' in the learning_rates of a stage")
    return student, late - first


def _open_sources(sources: list[str], bad: BadSamples) -> Dataset:
    """All sources as one data set."""
    parts = [open_images(source, bad=bad, shuffle_buffer=2000) for source in sources]
    if len(parts) == 1:
        if isinstance(parts[0], IterableDataset):  # workers, each with a part, could not tell that there is nothing
            next(iter(open_images(sources[0], bad=bad)))
        return parts[0]
    for source, part in zip(sources, parts, strict=True):
        if isinstance(part, IterableDataset):
            raise InputError(f"images: {source} is a stream, which cannot be mixed with others; give it alone")
    return ConcatDataset(parts)


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
