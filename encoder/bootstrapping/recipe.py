"""The recipe of `mllm bootstrap`: which teacher, on which images, by which stages and losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data import InputError
from data.files import check_name
from data.limits import MAX_DEPTH, MAX_SAMPLES, MAX_SIDE, MAX_STEPS, MAX_TOKENS, check_range
from encoder.bootstrapping.balance import BALANCES
from encoder.bootstrapping.losses import READ_PATCHES, check_losses, reads_patches
from encoder.bootstrapping.objectives import TeacherOptions
from encoder.bootstrapping.stages import Stage
from encoder.bootstrapping.student import StudentOptions
from encoder.training.arguments import check_trainer


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
    teachers: list[TeacherOptions] = field(default_factory=list)  # others, of which the student learns by heads
    balance: str = "phi_s"  # on which scale squares are taken: phi_s, standardized, none; see encoder.bootstrapping
    balance_images: int = 512  # of these each teacher's variance is measured
    shift: float = 0.0  # the student's images are so much larger than the part that a teacher sees, here or there
    init_from: str | None = (
        None  # another ViT, also one of teachers, whose blocks the cortex inherits; named like the teacher
    )
    init_pretrained: str | None = None  # its weights, like pretrained
    held_out_images: int = 1000  # how many of them
    zero_shot: list[str] = field(default_factory=list)  # labeled images to classify side by side: data.open_labeled
    student: StudentOptions = field(default_factory=StudentOptions)
    first_late_block: int | None = None  # first block of the teacher that counts as late; None: 2L/3
    crop_scale: float = 1.0  # random crops of at least this fraction of the area; 1: the processor's own view
    flip: bool = False  # mirror half of the images; not for images with writing
    stages: list[Stage] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=lambda: {"cosine": 1.0})  # weights by name: encoder.bootstrapping
    ema: float | None = None  # decay of an average of the weights over the steps, which each stage then ends with
    teacher_cache: str | None = None  # directory to keep the teacher's embeddings in, for fixed views
    visualize_steps: int = 0  # steps between two drawings of RoIs on held-out images, in OUTPUT/roi_drawings; 0: none
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
            check_trainer(self.settings(stage))
            if stage.warmup_steps and self.settings(stage).get("lr_scheduler_type") == "constant":
                raise InputError(f"warmup_steps of stage {stage.name!r}: set lr_scheduler_type: constant_with_warmup")
        if not 0 < self.crop_scale <= 1:
            raise InputError(f"crop_scale={self.crop_scale}: a fraction of the area, more than 0 and at most 1")
        try:
            check_losses(self.losses)
        except ValueError as error:
            raise InputError(f"losses: {error}") from error
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema={self.ema}: a decay, more than 0 and less than 1, such as 0.999")
        if self.teacher_cache is not None and (self.crop_scale < 1 or self.flip):
            raise InputError("teacher_cache: the views must be fixed: set crop_scale=1 and flip=false")
        if self.balance not in BALANCES:
            raise InputError(f"balance={self.balance!r}: there are {', '.join(BALANCES)}")
        check_range("balance_images", self.balance_images, 2, MAX_SAMPLES)
        check_range("shift", self.shift, 0, 1)
        if self.teacher_cache is not None and self.shift:
            raise InputError("teacher_cache: the views must be fixed: set shift=0")
        if self.teacher_cache is not None and any(map(reads_patches, self.all_losses)):
            readers = ", ".join(sorted(READ_PATCHES))
            raise InputError(f"teacher_cache: holds no patches, which the losses {readers} read; leave it out")
        check_range("visualize_steps", self.visualize_steps, 0, MAX_STEPS)
        for index, count in enumerate(self.report_tokens):  # a class token, and one that looks
            check_range(f"report_tokens[{index}]", count, 2, MAX_TOKENS)
        check_range("teacher_image_size", self.teacher_image_size, 1, MAX_SIDE)
        check_range("held_out_images", self.held_out_images, 1, MAX_SAMPLES)
        check_range("first_late_block", self.first_late_block, 0, MAX_DEPTH)
        if self.init_from is not None and not self.student.inherit:
            raise InputError("init_from: nothing is inherited with student.inherit=false")
        if self.init_pretrained is not None and self.init_from is None:
            raise InputError("init_pretrained: are the weights of init_from, which is not given")
        if "max_steps" in self.trainer:
            raise InputError("trainer: max_steps is given by each stage's steps")

    @property
    def all_losses(self) -> list[dict[str, float]]:
        """The weights of the losses of each teacher, of the first one first."""
        weighted = ({name: each.weight * weight for name, weight in each.losses.items()} for each in self.teachers)
        return [self.losses, *weighted]

    def settings(self, stage: Stage) -> dict[str, Any]:
        """The fields of TrainingArguments with which a stage trains."""
        settings = {"remove_unused_columns": False, **self.trainer, **stage.trainer, "max_steps": stage.steps}
        if stage.warmup_steps is not None:
            settings["warmup_steps"] = stage.warmup_steps
        return settings
