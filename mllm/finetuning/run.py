"""Teaching the language model to see: stage 1 trains the projector, stage 2 the language model too (LLaVA, 2304.08485).

Launched by `mllm finetune RECIPE`, alone or by scripts/launch.sh.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from data import InputError
from data.bad_samples import BadSamples
from data.sources import open_conversations
from encoder.image_processing import load_image_processor
from encoder.training.arguments import (
    arguments,
    samples_per_run,
    samples_per_step,
    save_atomically,
)
from encoder.training.checkpoints import begun_on
from encoder.training.fitting import fit
from encoder.training.output import is_finished, is_whole, nothing_left, output_lock
from mllm.assembly import assemble
from mllm.finetuning.collator import Collator, EncodedConversations
from mllm.finetuning.curriculum import Curriculum
from mllm.finetuning.freezing import freeze, model_parts
from mllm.finetuning.quantization import four_bit
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.sources import bad_limit, check_faults, image_size
from mllm.finetuning.trainer import FinetuneTrainer
from mllm.loading import (
    adapter_base,
    check_model_directory,
    check_sight,
    context_length,
    is_adapter,
    load_plain,
    load_processor,
    read_config,
)
from mllm.parts import check_parts
from mllm.prompts import end_of_turn
from mllm.reference import check_language_model_alone, save_with_reference

logger = logging.getLogger(__name__)


@output_lock
def finetune(recipe: FinetuneRecipe, resume: bool = False) -> None:
    """Train one stage and write the result to `recipe.output`.

    Args:
        resume: go on from the last checkpoint in the output directory.
    Raises:
        InputError: a directory, a source or a value of the recipe that cannot be used.
    """
    transformers.utils.logging.disable_progress_bar()
    output = Path(recipe.output)
    if is_finished(output, resume):
        return
    with nothing_left(output):
        trainer, bad = _prepare(recipe, output, resume)
    fit(trainer)
    _barrier()  # every process has recorded what it skipped
    for line in bad.report() if trainer.args.should_save else ():
        logger.warning("%s", line)
    trainer.save_result(output)
    if recipe.stage != "lora" and trainer.args.should_save:
        shutil.rmtree(output / "assembled", ignore_errors=True)  # all of its weights are in the output
    _barrier()


def _prepare(recipe: FinetuneRecipe, output: Path, resume: bool) -> tuple[FinetuneTrainer, BadSamples]:
    """Everything that comes before the first step: models and data in a trainer, and the record of bad samples."""
    if os.environ.get("RANK", "0") == "0":  # before hours are spent, or anything is written
        sources = (recipe.data, recipe.validation, *(stage.data for stage in recipe.curriculum))
        opened = [open_conversations(each, recipe.image_folder) for each in sources if each or each is recipe.data]
        check_faults(opened, recipe.max_bad_samples)
    directory = starting_model(recipe, resume)
    adapter = Path(recipe.model) if recipe.model is not None and is_adapter(Path(recipe.model)) else None
    # Before any model is loaded: under ZeRO-3 the arguments decide how from_pretrained lays out the weights.
    in_order = {"train_sampling_strategy": "sequential"} if recipe.curriculum else {}
    args = arguments({**recipe.trainer, **in_order}, output, resume)
    args.label_names = ["labels"]  # which the Trainer cannot see through peft
    record = output / "bad_samples.jsonl"  # shared by all processes, kept over a resumption
    if args.should_save:
        record.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            record.unlink(missing_ok=True)
    _barrier()  # the first process has assembled the model by now

    processor = load_processor(adapter or directory)
    if args.resume_from_checkpoint is not None:
        processor.date = begun_on(args.resume_from_checkpoint)
    end_of_turn(processor)  # a chat template at fault is one error, and not one for each sample
    assembled: Any = read_config(directory, "model")
    model = load_base(directory, recipe, args)
    if not is_deepspeed_zero3_enabled():  # it splits the weights
        check_sight(directory, model, processor)
    size = image_size(processor.image_processor)
    trained = freeze(
        model,
        recipe.stage,
        recipe.lora,
        full_precision=args.deepspeed is None,
        train_encoder=recipe.train_encoder,
        adapter=adapter,
    )

    longest = recipe.max_length or context_length(model.config)
    bad = BadSamples(record)

    def encoded(sources: list[str]) -> EncodedConversations:
        conversations = open_conversations(sources, recipe.image_folder, size, bad)
        return EncodedConversations(conversations, processor, longest, bad)

    own = encoded(recipe.data)
    validation = encoded(recipe.validation) if recipe.validation else None
    stages = [encoded(stage.data) for stage in recipe.curriculum]
    bad.limit = bad_limit(filter(None, (own, validation, *stages)), recipe.max_bad_samples)
    data: Dataset = own
    if stages:
        step, left = samples_per_step(args), samples_per_run(args)
        counts = [stage.steps * step for stage in recipe.curriculum]
        data = Curriculum([*zip(stages, counts, strict=True), (own, left - sum(counts))], args.seed)

    trainer = FinetuneTrainer(
        model=trained,
        args=args,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=Collator(processor.tokenizer.pad_token_id, recipe.packing),
        processing_class=processor,
        base=directory,
        refers=recipe.model is None and assembled.language_model_reference is not None,
        learning_rates=recipe.learning_rates(),
    )
    return trainer, bad


def starting_model(recipe: FinetuneRecipe, resume: bool = False) -> Path:
    """The plain model directory that training starts from, an adapter's base; parts are assembled into one first.

    One process assembles, before the processes meet, so that ZeRO-3 only ever loads a whole model from disk. With
    several machines the folders are on a shared disk, as they must be for the checkpoints.

    Args:
        resume: take the model that the interrupted run assembled.
    Raises:
        InputError: the directory is none, or an adapter in another stage than lora.
    """
    if recipe.model is not None:
        directory = Path(recipe.model)
        if is_adapter(directory):
            if recipe.stage != "lora":
                raise InputError(
                    f"model {directory}: is an adapter, which only stage lora goes on training; "
                    f"write a plain model: mllm merge {directory} --out DIR"
                )
            directory = adapter_base(directory)
        check_model_directory(directory)
        return directory
    assert recipe.encoder is not None  # the recipe has checked it
    assert recipe.language_model is not None
    assembled = Path(recipe.output) / "assembled"
    if os.environ.get("RANK", "0") == "0" and not (resume and is_whole(assembled)):
        language_model = Path(recipe.language_model)
        check_parts(Path(recipe.encoder), language_model)  # the encoder first measures, for whitening
        if recipe.reference_language_model:
            check_language_model_alone(language_model)
        torch.manual_seed(int(recipe.trainer.get("seed", 42)))  # the projector's first weights
        model, processor = assemble(
            recipe.encoder,
            recipe.language_model,
            chat_template=recipe.chat_template,
            whitening_images=images_for_whitening(recipe),
            **recipe.assembly(),
        )

        def write(folder: Path) -> None:
            if refers := recipe.reference_language_model:
                name = refers if isinstance(refers, str) else None
                save_with_reference(model, folder, assembled, language_model, name)
            else:
                model.save_pretrained(folder)
            processor.save_pretrained(folder)

        save_atomically(assembled, write)
    return assembled


def load_base(directory: Path, recipe: FinetuneRecipe, args: TrainingArguments) -> PreTrainedModel:
    """The model that training starts from, in the dtype that the arguments ask for.

    Raises:
        InputError: a directory, `four_bit` or `packing` that cannot be used.
    """
    # Without half precision DeepSpeed wants one dtype, float32; with it, stored halves stay as they are.
    dtype: str | torch.dtype = "auto" if args.bf16 or args.fp16 else torch.float32
    computed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    model = load_plain(directory, dtype, four_bit(computed) if recipe.four_bit else None)
    if is_deepspeed_zero3_enabled():
        # Loading under ZeRO-3 leaves renaming rules behind that would add ".model" to the names on saving.
        setattr(model, "_weight_conversions", None)  # noqa: B010  (unknown to the type checker)
    inner = model_parts(model)["language model"]
    if recipe.packing and (inner._is_stateful or not inner._supports_attention_backend):
        raise InputError(f"packing: a {type(inner).__name__} does not keep packed samples apart; set it to false")
    return model


def images_for_whitening(recipe: FinetuneRecipe) -> list[Image.Image]:
    """The first `recipe.whitening` images of the data.

    Raises:
        InputError: the data has none.
    """
    images: list[Image.Image] = []
    if recipe.whitening:
        size = image_size(load_image_processor(Path(str(recipe.encoder))))
        conversations = open_conversations(recipe.data, recipe.image_folder, size)
        for index in range(len(conversations)):
            images += conversations[index].get("images", ())
            if len(images) >= recipe.whitening:
                break
        if not images:
            raise InputError("whitening: the data has no images to measure features on; set it to 0")
    return images[: recipe.whitening or 0]


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
