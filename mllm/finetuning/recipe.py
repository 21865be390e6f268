"""The recipe of `mllm finetune`: which stage, from which model, on which data, at which rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data import InputError
from data.limits import MAX_DEPTH, MAX_LENGTH, MAX_RATE, MAX_SAMPLES, MAX_SIDE, MAX_TOKENS, check_range
from encoder.training.arguments import check_trainer
from mllm.configuration import MLLMConfig
from mllm.finetuning.budgets import DISTRIBUTIONS, ImageBudgets, read_range
from mllm.finetuning.data import CurriculumStage
from mllm.finetuning.freezing import STAGES, LoraRecipe
from mllm.finetuning.start import RidgeRecipe
from projector import complete_options

# Fields that say how a model is put together; a model that exists has them settled.
ASSEMBLY = (
    "projector",
    "projector_options",
    "roi_embedding",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)


@dataclass
class FinetuneRecipe:
    """One stage of tuning. Either `model`, or the parts to assemble one from."""

    stage: str  # "projector" alone; "lora" and the projector; "full": the language model and the projector
    output: str  # directory: an adapter after stage lora, else a plain model
    data: list[str]  # mixed: .json, .jsonl or .parquet files, datasets:NAME_OR_PATH[:SPLIT]; data.open_conversations
    model: str | None = None  # a plain model directory; in stage lora also an adapter, which goes on training
    encoder: str | None = None  # directory of a SparseFormer, CLIP or SigLIP; material:NAME of `mllm fetch NAME`
    language_model: str | None = None  # directory of a causal language model and its tokenizer; material:smollm2
    # How parts are put together, so never beside `model`; defaults are those of mllm.assemble.
    projector: str | None = None  # name in the registry of projectors; default: mlp2x_gelu
    projector_options: dict[str, Any] | None = None  # its own, such as {queries: 32} of a resampler
    roi_embedding: bool | None = None  # add an embedding of each token's RoI
    whitening: int | None = None  # level the variances of the encoder's features, as measured on so many images
    ridge: RidgeRecipe = field(default_factory=RidgeRecipe)  # start the projector on the words for what it is shown
    vision_feature_layer: int | None = None  # of the hidden states, where the encoder then ends; default: -2
    vision_feature_select_strategy: str | None = None  # "default" leaves the class token out, as grids need it
    chat_template: str | None = None  # name in mllm.templates.CHAT_TEMPLATES; default: the tokenizer's own, or "plain"
    # Refer to the language model instead of writing a copy of it into the output: true, or its name on the hub
    reference_language_model: bool | str = False
    curriculum: list[CurriculumStage] = field(default_factory=list)  # before `data`; trainer.max_steps is needed then
    image_folder: str | None = None  # where the images of the JSON files are; default: beside each file
    validation: list[str] = field(default_factory=list)  # sources for the held-out loss (trainer.eval_strategy)
    # tokens, the image's included; longer conversations are skipped by name. Default: the language model's longest
    max_length: int | None = None
    # Share of all samples that may be skipped as bad, rounded up; with more the run ends. 0: none, 1: any number
    max_bad_samples: float = 0.05
    # [fewest, most] embeddings of an image, drawn for each, so that the model does with any; [N]: always so many
    image_tokens: list[int] | None = None
    # Whole images of about [smallest, largest] pixels squared; default: one size, as the image processor cuts them
    image_sizes: list[int] | None = None
    draws: str = "uniform"  # of both; or "log_uniform"
    image_focus: float = 0.0  # fraction of the images that get more tokens on a part of them, as --focus gives
    packing: bool = False  # a batch's samples one behind the other in one row, instead of padded side by side
    train_encoder: bool = False  # stage full: the encoder too, as far as the projector's features depend on it
    encoder_learning_rate: float | None = None  # default: trainer.learning_rate, which is the language model's
    projector_learning_rate: float | None = None  # the same
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    four_bit: bool = False  # stage lora: hold the frozen language model in 4 bits (QLoRA); needs the extra qlora
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage: {self.stage!r} is none; it is one of {', '.join(STAGES)}")
        self._check_start()
        self._check_stage()
        for part, rate in self.learning_rates().items():
            check_range(f"{part}_learning_rate", rate, 0, MAX_RATE)
        check_range("max_length", self.max_length, 1, MAX_LENGTH)
        check_range("whitening", self.whitening, 1, MAX_SAMPLES)
        check_range("vision_feature_layer", self.vision_feature_layer, -MAX_DEPTH, MAX_DEPTH)
        check_range("max_bad_samples", self.max_bad_samples, 0, 1)
        check_range("image_focus", self.image_focus, 0, 1)
        if self.draws not in DISTRIBUTIONS:
            raise InputError(f"draws: {self.draws!r} is none; it is one of {', '.join(DISTRIBUTIONS)}")
        self.budgets()
        check_trainer(self.trainer)
        if self.curriculum and self.trainer.get("max_steps", 0) <= sum(stage.steps for stage in self.curriculum):
            raise InputError("curriculum: trainer.max_steps, which counts their steps too, must be more than they take")
        order = self.trainer.get("train_sampling_strategy")
        if self.curriculum and order not in (None, "sequential"):
            raise InputError(f"curriculum: is an order of its own; leave trainer.train_sampling_strategy={order} out")
        if order == "batch_rebalance":
            raise InputError("trainer: train_sampling_strategy: take random, sequential or group_by_length")
        if self.trainer.get("eval_strategy", "no") not in ("no", False) and not self.validation:
            raise InputError("validation: trainer.eval_strategy asks for it; list sources as in data")

    def _check_start(self) -> None:
        parts = (self.encoder, self.language_model)
        if (self.model is None) == (parts == (None, None)) or (self.model is None and None in parts):
            raise InputError("model: give either model, or both encoder and language_model")
        if self.model is not None:
            for name in (*ASSEMBLY, "whitening", "chat_template"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name}: the model has its own already; leave the field out, or name its parts")
            if self.ridge != RidgeRecipe():
                raise InputError("ridge: the model has its projector already; leave the field out, or name its parts")
        try:
            complete_options(self.projector or MLLMConfig.projector, self.projector_options or {})
        except ValueError as problem:
            raise InputError(f"projector: {problem}") from problem

    def _check_stage(self) -> None:
        """Refuse what the stage would ignore."""
        if self.stage != "lora":
            for name, unused in (("lora", self.lora != LoraRecipe()), ("four_bit", self.four_bit)):
                if unused:
                    raise InputError(f"{name}: belongs to stage lora, not {self.stage}; leave it out")
        if self.reference_language_model and (self.stage != "projector" or self.model is not None):
            raise InputError("reference_language_model: belongs to stage projector from encoder and language_model")
        if str(self.reference_language_model).startswith((".", "/", "~")):
            raise InputError("reference_language_model: is no path, which language_model is; set it to true")
        if self.train_encoder and self.stage != "full":
            raise InputError("train_encoder: belongs to stage full; stage lora has lora.vision")
        if self.encoder_learning_rate is not None and not (self.train_encoder or self.lora.vision):
            raise InputError("encoder_learning_rate: the encoder does not train; set train_encoder, or lora.vision")

    def assembly(self) -> dict[str, Any]:
        """The fields of `MLLMConfig` that the recipe gives."""
        return {name: getattr(self, name) for name in ASSEMBLY if getattr(self, name) is not None}

    def budgets(self) -> ImageBudgets:
        """What is drawn for each image."""
        tokens = read_range("image_tokens", self.image_tokens, MAX_TOKENS)
        sizes = read_range("image_sizes", self.image_sizes, MAX_SIDE)
        return ImageBudgets(tokens, self.draws, sizes, self.image_focus, int(self.trainer.get("seed", 42)))

    def learning_rates(self) -> dict[str, float]:
        """By part (`freezing.model_parts`), where it is not trainer.learning_rate."""
        rates = {"encoder": self.encoder_learning_rate, "projector": self.projector_learning_rate}
        return {part: rate for part, rate in rates.items() if rate is not None}
