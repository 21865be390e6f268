"""Teaching the language model to see: stage 1 trains the projector, stage 2 the language model too (LLaVA, 2304.08485).

Launched by `mllm finetune RECIPE`, alone or by scripts/launch.sh.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from data import InputError
from data.files import whole_folder
from data.materials import SCHEME, model_path
from data.sources import MixedConversations, open_conversations
from encoder.image_processing import image_size, load_image_processor
from encoder.training.arguments import samples_per_run, samples_per_step
from encoder.training.checkpoints import begun_on
from encoder.training.epochs import OfEachEpoch
from encoder.training.output import is_whole
from encoder.training.spine import Run, started
from mllm.assembly import assemble
from mllm.compat import forget_renaming, keeps_packed_apart, loading_whole
from mllm.finetuning.budgets import check_budgets
from mllm.finetuning.data import Collator, Curriculum, EncodedConversations, bad_limit, check_faults
from mllm.finetuning.freezing import count, freeze, model_parts
from mllm.finetuning.quantization import four_bit
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.start import RidgeRecipe, images_for_whitening, named_images
from mllm.finetuning.trainer import FinetuneTrainer
from mllm.hub import write_card
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


@dataclass
class Prepared:
    """What is opened and looked at before any model is loaded."""

    directory: Path  # of the plain model that training starts from
    adapter: Path | None  # on it, which goes on training
    data: MixedConversations
    validation: MixedConversations | None
    curriculum: list[MixedConversations]  # of each stage


def finetune(recipe: FinetuneRecipe, resume: bool = False) -> None:
    """Trains one stage and writes the result to `recipe.output`.

    Args:
        resume: go on from the last checkpoint in the output directory.
    Raises:
        InputError: a directory, a source or a value of the recipe that cannot be used.
    """
    in_order = {"train_sampling_strategy": "sequential"} if recipe.curriculum else {}
    settings = {"remove_unused_columns": False, **recipe.trainer, **in_order}
    with started("finetune", recipe, settings, resume, zero3=True) as run:
        if run.finished:
            return
        prepared = prepare(recipe, run)
        trainer = build(recipe, run, prepared)
        parts = {name: list(part.parameters()) for name, part in model_parts(trainer.model).items()}
        sizes = {name: {"all": count(iter(part)), "trained": count(iter(part), True)} for name, part in parts.items()}
        run.fit(trainer, parameters=sizes)
        run.export(trainer.write_result, together=True)
        run.close()
        if run.process.is_main_process and not is_adapter(run.output):
            write_card(run.output)
        if recipe.model is None and run.process.is_main_process:
            shutil.rmtree(run.output / "assembled")  # all of its weights are in the output


def prepare(recipe: FinetuneRecipe, run: Run) -> Prepared:
    """Looks at model and data, before hours are spent; then parts are assembled into one model."""
    if recipe.model is None:
        directory, adapter = run.output / "assembled", None
        encoder, language_model = model_path(str(recipe.encoder)), model_path(str(recipe.language_model))
        check_parts(encoder, language_model)
        if recipe.reference_language_model:
            check_language_model_alone(language_model)
        size = image_size(load_image_processor(encoder))
    else:
        directory, adapter = starting_model(Path(recipe.model), recipe.stage)
        size = image_size(load_processor(adapter or directory).image_processor)

    def opened(sources: list[str]) -> MixedConversations:
        return open_conversations(sources, recipe.image_folder, size, run.bad)

    with run.process.local_main_process_first():
        data = opened(recipe.data)
        validation = opened(recipe.validation) if recipe.validation else None
        curriculum = [opened(stage.data) for stage in recipe.curriculum]
        everything = [*filter(None, (data, validation)), *curriculum]
        check_faults(everything, recipe.max_bad_samples)
    run.bad.limit = bad_limit(everything, recipe.max_bad_samples)
    if recipe.model is None:
        # One process assembles, so that ZeRO-3 only ever loads a whole model from disk. With several machines the
        # folders are on a shared disk, as they must be for the checkpoints.
        if run.process.is_main_process and not (run.resume and is_whole(directory)):
            with loading_whole(run.training):
                assemble_parts(recipe, directory, data, size)
        run.process.wait_for_everyone()
    return Prepared(directory, adapter, data, validation, curriculum)


def build(recipe: FinetuneRecipe, run: Run, prepared: Prepared) -> FinetuneTrainer:
    """The model in its Trainer, over the data as the model takes it."""
    directory, adapter = prepared.directory, prepared.adapter
    # Before any model is loaded: under ZeRO-3 the arguments decide how from_pretrained lays out the weights.
    args = run.arguments()
    args.label_names = ["labels"]  # which the Trainer cannot see through peft
    processor = load_processor(adapter or directory)
    if args.resume_from_checkpoint is not None:
        processor.date = begun_on(args.resume_from_checkpoint)
    end_of_turn(processor)  # a chat template at fault is one error, and not one for each sample
    budgets = recipe.budgets()
    check_budgets(budgets, processor)
    assembled: Any = read_config(directory, "model")
    model = load_base(directory, recipe, args)
    if not is_deepspeed_zero3_enabled():  # it splits the weights
        check_sight(directory, model, processor)
    trained = freeze(
        model,
        recipe.stage,
        recipe.lora,
        full_precision=args.deepspeed is None,
        train_encoder=recipe.train_encoder,
        adapter=adapter,
    )
    longest = recipe.max_length or context_length(model.config)

    def encoded(conversations: MixedConversations) -> EncodedConversations:
        return EncodedConversations(conversations, processor, longest, run.bad, budgets)

    data: Dataset = encoded(prepared.data)
    if recipe.curriculum:
        step, left = samples_per_step(args), samples_per_run(args)
        counts = [stage.steps * step for stage in recipe.curriculum]
        stages = map(encoded, prepared.curriculum)
        data = Curriculum([*zip(stages, counts, strict=True), (data, left - sum(counts))], args.seed)
    return FinetuneTrainer(
        model=trained,
        args=args,
        train_dataset=data,
        eval_dataset=None if prepared.validation is None else encoded(prepared.validation),
        data_collator=Collator(processor.tokenizer.pad_token_id, recipe.packing),
        processing_class=processor,
        base=directory,
        refers=recipe.model is None and assembled.language_model_reference is not None,
        learning_rates=recipe.learning_rates(),
        callbacks=[OfEachEpoch(budgets)],
    )


def starting_model(directory: Path, stage: str) -> tuple[Path, Path | None]:
    """The plain model directory that training starts from, and the adapter on it that goes on training.

    Raises:
        InputError: the directory is none, or an adapter in another stage than lora.
    """
    adapter = directory if is_adapter(directory) else None
    if adapter:
        if stage != "lora":
            raise InputError(
                f"model {directory}: is an adapter, which only stage lora goes on training; "
                f"write a plain model: mllm merge {directory} --out DIR"
            )
        directory = adapter_base(directory)
    check_model_directory(directory)
    return directory, adapter


def assemble_parts(recipe: FinetuneRecipe, folder: Path, data: MixedConversations, size: tuple[int, int]) -> None:
    """Writes the model that the recipe's parts make; ``size`` is that of the encoder's images.

    Raises:
        InputError: they do not fit; there are no images to measure features on, for whitening.
    """
    assert recipe.encoder is not None  # the recipe has checked it
    assert recipe.language_model is not None
    torch.manual_seed(int(recipe.trainer.get("seed", 42)))  # the projector's first weights
    model, processor = assemble(
        recipe.encoder,
        recipe.language_model,
        chat_template=recipe.chat_template,
        whitening_images=images_for_whitening(data, recipe.whitening or 0),
        named_images=named_images(recipe.ridge, size, data.bad) if recipe.ridge != RidgeRecipe() else None,
        **recipe.assembly(),
    )
    with whole_folder(folder) as partial:
        if refers := recipe.reference_language_model:
            given = refers if isinstance(refers, str) else recipe.language_model
            name = given if given is refers or given.startswith(SCHEME) else None
            save_with_reference(model, partial, folder, model_path(recipe.language_model), name)
        else:
            model.save_pretrained(partial)
        processor.save_pretrained(partial)


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
        forget_renaming(model)
    inner = model_parts(model)["language model"]
    if recipe.packing and not keeps_packed_apart(inner):
        raise InputError(f"packing: a {type(inner).__name__} does not keep packed samples apart; set it to false")
    return model
