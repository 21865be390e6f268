"""The recipe of `mllm train-task`: which task, from which encoder, on which images, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data.errors import InputError
from data.limits import MAX_RATE, MAX_SAMPLES, MAX_SIDE, MAX_TOKENS, MAX_WIDTH, check_range
from encoder.training.arguments import check_trainer

TASKS = ("classification", "segmentation", "detection")


@dataclass
class TaskRecipe:
    """What `mllm train-task` reads."""

    output: str  # directory of the result, which transformers' Auto classes load; checkpoints lie in it too
    task: str  # classification, segmentation or detection
    # Directory of a SparseFormer, or the name of a published one, which is downloaded. For segmentation also a teacher
    # (encoder.teachers): a dense tower, frozen, under a linear classifier at all its patches, to compare with.
    encoder: str
    train: str  # images to train on: data.open_labeled, open_segmented or open_boxed
    validation: str  # others, to measure on in the end
    num_classes: int | None = None  # where the images' source has numbers for classes, and no names
    num_tokens: int | None = None  # the class token counted; default: the encoder's
    image_size: int | None = None  # side of the images in pixels; default: the encoder's
    train_encoder: bool = True  # false: what is new alone
    lora_rank: int = 0  # above 0: low-rank updates of the cortex in place of its weights (arXiv 2106.09685)
    decoder: str = "attention"  # of segmentation, how pixels read the tokens; or "splat"
    decoder_width: int = 256
    drop_path: float = 0.0  # stochastic depth at the last block
    layer_decay: float = 1.0  # the rate of each layer, by the next one's
    head_rate: float = 1.0  # of what is new, times the learning rate
    ema: float | None = None  # decay of an average of the weights over the steps, which is then the result
    mixup: float = 0.0  # of classification, alphas of timm's Mixup; with any of these three batches must be even
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    crop_scale: float = 1.0  # random crops of at least this fraction of the area; 1: the whole image
    flip: bool = False  # mirror half of the images
    jitter: float = 0.0  # brightness, contrast and saturation times 1 ± this
    stride: int | None = None  # of segmentation: measure in windows of image_size, so many pixels apart; default: whole
    report_tokens: list[int] = field(default_factory=list)  # other numbers of tokens to measure with in the end
    pictures: int = 0  # of so many images to measure on, predictions are drawn into OUTPUT/predictions
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"task={self.task}: one of {', '.join(TASKS)}")
        if not 0 < self.crop_scale <= 1 or not 0 < self.layer_decay <= 1:
            raise InputError("crop_scale, layer_decay: fractions, more than 0 and at most 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema={self.ema}: a decay, more than 0 and less than 1, such as 0.999")
        for name, value, least, most in (
            ("num_classes", self.num_classes, 1, MAX_WIDTH),
            ("num_tokens", self.num_tokens, 2, MAX_TOKENS),
            ("image_size", self.image_size, 16, MAX_SIDE),
            ("stride", self.stride, 1, MAX_SIDE),
            ("lora_rank", self.lora_rank, 0, MAX_WIDTH),
            ("pictures", self.pictures, 0, MAX_SAMPLES),
            ("head_rate", self.head_rate, 0, MAX_RATE),
            *((name, getattr(self, name), 0, 1) for name in ("drop_path", "jitter", "mixup", "cutmix")),
            *((f"report_tokens[{index}]", count, 2, MAX_TOKENS) for index, count in enumerate(self.report_tokens)),
        ):
            check_range(name, value, least, most)
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing={self.label_smoothing}: at least 0 and less than 1")
        mixed = ("mixup", "cutmix", "label_smoothing")
        for task, names in (("classification", mixed), ("segmentation", ("stride", "pictures"))):
            if given := [name for name in names if getattr(self, name) and self.task != task]:
                raise InputError(f"{given[0]}: belongs to the task {task}; leave it out")
        if self.lora_rank and (self.ema is not None or not self.train_encoder):
            raise InputError("lora_rank: goes with neither ema nor train_encoder=false")
        check_trainer(self.trainer)
        if self.mixes and self.trainer.get("per_device_train_batch_size", 8) % 2:
            raise InputError("trainer: per_device_train_batch_size must be even for mixup, cutmix and label_smoothing")

    @property
    def mixes(self) -> bool:
        """Whether timm's `Mixup` makes the labels, which takes even batches."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of TrainingArguments with which it trains."""
        return {"remove_unused_columns": False, "dataloader_drop_last": self.mixes, **self.trainer}
