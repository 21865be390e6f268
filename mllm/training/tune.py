"""Teaching the language model to see: stage 1 trains the projector, stage 2 LoRA and the projector (LLaVA, 2304.08485).

Launched by `mllm train RECIPE`, alone or through `deepspeed --num_gpus N --no_local_rank --module mllm train RECIPE`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, Trainer
from transformers.integrations import is_deepspeed_zero3_enabled

from data import InputError
from data.bad_samples import BadSamples
from data.scenes import SceneTurns
from mllm.assemble import assemble
from mllm.loading import ADAPTER_CONFIG, check_model_directory, is_adapter, load_plain, load_processor
from mllm.training.arguments import (
    arguments,
    check_output_folder,
    finish,
    fit,
    samples_per_run,
    samples_per_step,
    save_atomically,
)
from mllm.training.collator import Collator, EncodedConversations
from mllm.training.freezing import STAGES, LoraRecipe, freeze, parts_of
from mllm.training.lessons import Curriculum, Lesson
from mllm.training.sources import open_conversations, picture_size
from projector import complete_options

logger = logging.getLogger(__name__)


@dataclass
class TuneRecipe:
    """One stage of tuning. Either `model`, or the parts to assemble one from."""

    stage: str  # "projector": the projector alone; "lora": LoRA and the projector
    output: str  # directory: a plain model after stage projector, an adapter after stage lora
    data: list[str]  # scenes:train:COUNT or paths of LLaVA JSON files, mixed
    model: str | None = None  # a plain model directory
    encoder: str | None = None  # directory of a SparseFormer, CLIP or SigLIP
    language_model: str | None = None  # directory of a causal language model and its tokenizer
    projector: str = "mlp2x_gelu"  # name in the registry of projectors
    projector_options: dict[str, Any] = field(default_factory=dict)  # its own, such as {queries: 32} of a resampler
    roi_embedding: bool = False  # add an embedding of each token's RoI
    whitening: int = 0  # level the variances of the encoder's features, as measured on so many pictures; 0: don't
    vision_feature_layer: int = -2  # which of the cortex's outputs the projector takes
    vision_feature_select_strategy: str = "full"  # "default" leaves the class token out, as grids of patches need it
    chat_template: str | None = None  # name in mllm.prompts.CHAT_TEMPLATES; default: the tokenizer's own, or "plain"
    scene_turns: SceneTurns = field(default_factory=SceneTurns)  # what is asked about generated scenes
    lessons: list[Lesson] = field(default_factory=list)  # what comes before `data`; then trainer.max_steps is needed
    image_folder: str | None = None  # where the pictures of the JSON files are; default: beside each file
    validation: list[str] = field(default_factory=list)  # sources for the held-out loss (trainer.eval_strategy)
    # tokens, the picture's included; longer conversations are skipped by name. Default: the language model's longest
    max_length: int | None = None
    projector_learning_rate: float | None = None  # default: trainer.learning_rate
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage: {self.stage!r} is none; it is one of {', '.join(STAGES)}")
        parts = (self.encoder, self.language_model)
        if (self.model is None) == (parts == (None, None)) or (self.model is None and None in parts):
            raise InputError("model: give either model, or both encoder and language_model")
        if self.model is not None and self.projector_options:
            raise InputError("projector_options: the model has its projector already; leave them out")
        try:
            complete_options(self.projector, self.projector_options)
        except ValueError as problem:
            raise InputError(f"projector: {problem}") from problem
        if self.lessons and self.trainer.get("max_steps", 0) <= sum(lesson.steps for lesson in self.lessons):
            raise InputError("lessons: trainer.max_steps, which counts their steps too, must be more than they take")
        if self.trainer.get("eval_strategy", "no") not in ("no", False) and not self.validation:
            raise InputError(
                "validation: trainer.eval_strategy asks for it; list sources, for example scenes:validation:500"
            )


def tune(recipe: TuneRecipe, resume: bool = False) -> None:
    """Train one stage and write the result to `recipe.output`.

    Args:
        resume: go on from the last checkpoint in the output directory.
    Raises:
        InputError: a directory, a source or a value of the recipe that cannot be used.
    """
    transformers.utils.logging.disable_progress_bar()
    output = Path(recipe.output)
    check_output_folder(output)
    if os.environ.get("RANK", "0") == "0":  # before hours are spent, or anything is written
        for sources in (recipe.data, recipe.validation, *(lesson.data for lesson in recipe.lessons)):
            if sources or sources is recipe.data:
                open_conversations(sources, recipe.image_folder)
    directory = starting_model(recipe, resume)
    # Before any model is loaded: under ZeRO-3 the arguments decide how from_pretrained lays out the weights.
    in_order = {"train_sampling_strategy": "sequential"} if recipe.lessons else {}
    args = arguments({**recipe.trainer, **in_order}, output, resume)
    args.label_names = ["labels"]  # which the Trainer cannot see through peft
    record = output / "bad_samples.jsonl"  # shared by all processes, kept over a resumption
    if args.should_save:
        record.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            record.unlink(missing_ok=True)
    _barrier()  # the first process has assembled the model by now

    half = args.bf16 or args.fp16
    # Without half precision DeepSpeed wants one dtype, float32; with it, stored halves stay as they are.
    model = load_plain(directory, "auto" if half else torch.float32)
    if is_deepspeed_zero3_enabled():
        # Loading under ZeRO-3 leaves renaming rules behind that would add ".model" to the names on saving.
        setattr(model, "_weight_conversions", None)  # noqa: B010  (unknown to the type checker)
    processor = load_processor(directory)
    size = picture_size(processor.image_processor)
    trained = freeze(model, recipe.stage, recipe.lora, full_precision=args.deepspeed is None)

    longest = recipe.max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    bad = BadSamples(record)

    def encoded(sources: list[str], turns: SceneTurns = recipe.scene_turns) -> EncodedConversations:
        conversations = open_conversations(sources, recipe.image_folder, size, bad, turns)
        return EncodedConversations(conversations, processor, longest, bad)

    data: Dataset = encoded(recipe.data)
    if recipe.lessons:
        step, left = samples_per_step(args), samples_per_run(args)
        lessons = [(encoded(lesson.data, lesson.scene_turns), lesson.steps * step) for lesson in recipe.lessons]
        left -= sum(count for _, count in lessons)
        data = Curriculum([*lessons, (data, left)], args.seed)

    trainer = TuneTrainer(
        model=trained,
        args=args,
        train_dataset=data,
        eval_dataset=encoded(recipe.validation) if recipe.validation else None,
        data_collator=Collator(processor.tokenizer.pad_token_id),
        processing_class=processor,
        base=directory,
        projector_learning_rate=recipe.projector_learning_rate,
    )
    fit(trainer)
    _barrier()  # every process has recorded what it skipped
    for line in bad.report() if args.should_save else ():
        logger.warning("%s", line)
    trainer.save_result(output)
    if recipe.stage == "projector" and args.should_save:
        shutil.rmtree(output / "assembled", ignore_errors=True)  # all of its weights are in the output
    _barrier()


def starting_model(recipe: TuneRecipe, resume: bool = False) -> Path:
    """The plain model directory that training starts from; parts are assembled into one first.

    One process assembles, before the processes meet, so that ZeRO-3 only ever loads a whole model from disk. With
    several machines the folders are on a shared disk, as they must be for the checkpoints.

    Args:
        resume: take the model that the interrupted run assembled.
    Raises:
        InputError: the directory is none, or an adapter.
    """
    if recipe.model is not None:
        directory = Path(recipe.model)
        if is_adapter(directory):
            raise InputError(f"model {directory}: is an adapter; write a plain model: mllm merge {directory} --out DIR")
        check_model_directory(directory)
        return directory
    assert recipe.encoder is not None  # the recipe has checked it
    assert recipe.language_model is not None
    assembled = Path(recipe.output) / "assembled"
    if os.environ.get("RANK", "0") == "0" and not (resume and assembled.is_dir()):
        torch.manual_seed(int(recipe.trainer.get("seed", 42)))  # the projector's first weights
        model, processor = assemble(
            recipe.encoder,
            recipe.language_model,
            projector=recipe.projector,
            roi_embedding=recipe.roi_embedding,
            vision_feature_layer=recipe.vision_feature_layer,
            chat_template=recipe.chat_template,
            whitening_pictures=pictures_for_whitening(recipe),
            projector_options=recipe.projector_options,
            vision_feature_select_strategy=recipe.vision_feature_select_strategy,
        )

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)

        save_atomically(assembled, write)
    return assembled


def pictures_for_whitening(recipe: TuneRecipe) -> list[Image.Image]:
    """The first `recipe.whitening` pictures of the data.

    Raises:
        InputError: the data has none.
    """
    pictures: list[Image.Image] = []
    if recipe.whitening:
        image_processor = AutoImageProcessor.from_pretrained(str(recipe.encoder), local_files_only=True)
        conversations = open_conversations(recipe.data, recipe.image_folder, picture_size(image_processor))
        for index in range(len(conversations)):
            pictures += conversations[index].get("images", ())
            if len(pictures) >= recipe.whitening:
                break
        if not pictures:
            raise InputError("whitening: the data has no pictures to measure features on; set it to 0")
    return pictures[: recipe.whitening]


class TuneTrainer(Trainer):
    """The Trainer with a learning rate for the projector, a frozen encoder at rest, and directories that can move."""

    def __init__(self, *, base: Path, projector_learning_rate: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.base = base
        self.projector_learning_rate = projector_learning_rate

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        tower = parts_of(self.model)["encoder"]
        if not any(p.requires_grad for p in tower.parameters()):
            tower.eval()  # drop path is for training: a frozen encoder sees as it will when it answers
        return super().compute_loss(model, inputs, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None or self.projector_learning_rate is None:
            return super().create_optimizer(model)
        whole: Any = self.model if model is None else model
        decay = set(self.get_decay_parameter_names(whole))
        projector = {id(p) for p in parts_of(whole)["projector"].parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in whole.named_parameters():
            if parameter.requires_grad:
                rate = self.projector_learning_rate if id(parameter) in projector else self.args.learning_rate
                groups.setdefault((rate, self.args.weight_decay if name in decay else 0.0), []).append(parameter)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, whole)
        self.optimizer = kind(
            [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()], **options
        )
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer does, but nothing of this machine stays in the directory: no pickle, no absolute path."""
        super().save_model(output_dir, _internal_call)
        directory = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            (directory / "training_args.bin").unlink(missing_ok=True)
            if is_adapter(directory):
                (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card with the base's path
                point_to_base(directory, self.base)

    def save_result(self, output: Path) -> None:
        """Save the result in place of `output`, whole or not at all; ZeRO-3 needs every process to take part."""
        gathered = output / ".gathered"
        self.save_model(str(gathered))

        def write(folder: Path) -> None:
            for file in gathered.iterdir():
                os.replace(file, folder / file.name)
            gathered.rmdir()
            if is_adapter(folder):
                point_to_base(folder, self.base, seen_from=output)

        finish(self.args, write)


def point_to_base(adapter: Path, base: Path, seen_from: Path | None = None) -> None:
    """Store the base model's place relative to the adapter's, so that both can be moved together."""
    file = adapter / ADAPTER_CONFIG
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = os.path.relpath(base.resolve(), (seen_from or adapter).resolve())
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(partial, file)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
