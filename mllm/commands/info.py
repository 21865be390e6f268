"""`mllm info`: parameters, visual tokens, multiply-accumulates and memory of a model, without its weights."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.limits import check_range
from mllm.commands.options import add_count

if TYPE_CHECKING:
    from mllm.configuration import MLLMConfig
    from mllm.finetuning.recipe import FinetuneRecipe

HELP = (
    "What a model costs: parameters, visual tokens, multiply-accumulates, and the memory of a GPU for answering and "
    "training. Nothing is loaded; of the language model its config.json is enough."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="DIR_OR_RECIPE", help="model or adapter directory, or recipe of `mllm finetune`"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value of the recipe")
    parser.add_argument("--encoder", metavar="NAME_OR_DIR", help="published SparseFormer, or directory of an encoder")
    parser.add_argument("--language-model", metavar="DIR", help="directory of a causal language model")
    parser.add_argument("--projector", metavar="NAME", help="default: mlp2x_gelu")
    parser.add_argument(
        "--projector-option", metavar="KEY=VALUE", action="append", default=[], help="may be given again"
    )
    parser.add_argument("--drop-class-token", action="store_true", help="leave a CLIP's class token out")
    add_count(parser, "--tokens", "of an image, fewer than the model has")
    add_count(parser, "--image-size", "pixels; default: the encoder's own")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights; default: bfloat16")
    add_count(parser, "--prompt", "tokens of a question's text", 64)
    add_count(parser, "--new-tokens", "tokens of an answer", 128)
    add_count(parser, "--gpus", "GPUs that train together", 8)
    add_count(parser, "--batch-size", "samples on a GPU at a time (default 4)")
    add_count(parser, "--length", "tokens of a sample in training (default 2048)")
    add_count(parser, "--images", "images of a sample", 1)
    add_count(parser, "--lora-rank", "rank of LoRA (default 128)")
    add_count(parser, "--samples", "of a training, all epochs together: also tell its hours")
    add_count(parser, "--mean-length", "tokens of a sample on average, for the hours (default: --length)", least=2)
    parser.add_argument(
        "--tflops",
        type=float,
        metavar="N",
        help="what a GPU really computes, for the hours (default 125: 40%% of an A100's peak; an H100's would be 400)",
    )
    parser.add_argument("--no-checkpointing", action="store_true", help="train without gradient checkpointing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> None:
    import torch

    from mllm.costs.memory import Step
    from mllm.costs.report import costs
    from mllm.costs.time import RATE, Samples
    from mllm.finetuning.freezing import LoraRecipe
    from mllm.loading import quiet

    quiet()
    recipe = _recipe(args)
    config = _config(args, recipe)
    if args.tokens is not None:
        _shorten(config, args.tokens)
    trainer = recipe.trainer if recipe else {}
    longest = getattr(config.text_config, "max_position_embeddings", None) or 2048
    lora = recipe.lora if recipe else LoraRecipe()
    step = Step(  # the defaults of a recipe are those of TrainingArguments
        batch=_first(args.batch_size, trainer.get("per_device_train_batch_size"), 8 if recipe else 4),
        length=_first(args.length, recipe.max_length if recipe else None, min(2048, longest)),
        images=args.images,
        gpus=args.gpus,
        checkpointing=not args.no_checkpointing and trainer.get("gradient_checkpointing", recipe is None),
        lora=lora if args.lora_rank is None else replace(lora, rank=args.lora_rank),
    )
    if args.samples is None and (args.mean_length or args.tflops) is not None:
        raise InputError("--mean-length, --tflops: are for the hours of a training; give its --samples too")
    check_range("--tflops", args.tflops, 1e-3, 1e6)
    samples = args.samples and Samples(args.samples, args.mean_length or step.length, args.tflops or RATE)
    name = args.dtype or ("float32" if recipe and not trainer.get("bf16", False) else "bfloat16")
    with _without_info("mllm.finetuning.freezing"):  # nothing is trained
        report = costs(config, step, getattr(torch, name), args.prompt, args.new_tokens, args.image_size, samples)
    if args.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        _print(report)


def _shorten(config: MLLMConfig, tokens: int) -> None:
    """Makes it the configuration of a model whose images have so many tokens: it costs what the whole one does then."""
    from encoder import SparseFormerConfig

    vision = config.vision_config
    several = isinstance(vision, SparseFormerConfig) and (vision.nested_tokens or vision.shared_embedding)
    if not (config.elastic and several):
        raise InputError(f"--tokens {tokens}: images of this model always have the same number of tokens")
    without = int(config.vision_feature_select_strategy == "default")
    check_range("--tokens", tokens, 1 + vision.class_token - without, vision.num_tokens - without)
    vision.num_latent_tokens = tokens + without - vision.class_token


@contextmanager
def _without_info(name: str) -> Iterator[None]:
    """Lets a logger speak of warnings only, for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _first(*values: int | None) -> int:
    """Returns the first that was given."""
    return next(value for value in values if value is not None)


def _recipe(args: argparse.Namespace) -> FinetuneRecipe | None:
    """Reads the recipe that was given, if it is one."""
    given = Path(args.model) if args.model is not None else None
    if given is None or given.is_dir() or given.suffix not in (".yaml", ".yml"):
        if args.overrides:
            raise InputError(f"{args.overrides[0]}: overrides belong to a recipe, a .yaml file")
        return None
    from encoder.training.recipes import load_recipe
    from mllm.finetuning.recipe import FinetuneRecipe

    return load_recipe(FinetuneRecipe, given, args.overrides)


def _config(args: argparse.Namespace, recipe: FinetuneRecipe | None) -> MLLMConfig:
    """Reads the configuration of the model directory, of the recipe's model or parts, or of the parts in the flags."""
    from mllm.costs.meta_model import config_of_model, config_of_parts

    parts = {"--encoder": args.encoder, "--language-model": args.language_model}
    if args.model is not None:
        flags = {**parts, "--projector": args.projector, "--projector-option": args.projector_option or None}
        for flag, value in {**flags, "--drop-class-token": args.drop_class_token or None}.items():
            if value is not None:
                raise InputError(f"{flag}: {args.model} says it; give one of the two")
    if recipe is None and args.model is not None:
        return config_of_model(Path(args.model))
    if recipe is None:
        for flag, value in parts.items():
            if value is None:
                raise InputError(f"{flag} is missing: give a model directory, a recipe, or both {' and '.join(parts)}")
        return config_of_parts(
            args.encoder,
            args.language_model,
            projector=args.projector or "mlp2x_gelu",
            projector_options=_options(args.projector_option),
            vision_feature_select_strategy="default" if args.drop_class_token else "full",
        )
    if recipe.model is not None:
        return config_of_model(Path(recipe.model))
    return config_of_parts(
        str(recipe.encoder),
        str(recipe.language_model),
        whitening=bool(recipe.whitening),
        **recipe.assembly(),
    )


def _options(given: list[str]) -> dict[str, Any]:
    """Parses KEY=VALUE pairs, the values in YAML."""
    import yaml

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--projector-option {text}: expected KEY=VALUE")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as problem:
            raise InputError(f"--projector-option {text}: the value is no YAML") from problem
    return options


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from mllm.costs.memory import GIB, GPUS

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            made.add_column(column, justify="left" if number == 0 else "right")
        return made

    projector = report["projector"]
    options = ", ".join(f"{key}={value}" for key, value in projector.items() if key != "name")
    kinds = {
        "encoder": f"{report['encoder']}, the first {report['encoder_blocks']} blocks",
        "projector": projector["name"] + (f" ({options})" if options else ""),
        "language model": report["language_model"],
        "output head": "may be tied to the embeddings",
    }
    height, width = report["image"]
    parts = table(
        f"an image of {height} x {width} pixels becomes {report['visual_tokens']} tokens",
        "part",
        "kind",
        "parameters",
        "GMACs",
        "of these inside attention",
    )
    for part, count in report["parameters"].items():
        macs = report["macs"].get(part)
        numbers = [f"{macs[key] / 1e9:.2f}" for key in ("total", "attention")] if macs else ["", ""]
        parts.add_row(part, kinds[part], f"{count:,}", *numbers)
    parts.caption = (
        f"encoder and projector: an image; language model: a prompt of {report['prompt_tokens']} tokens, head included"
    )
    columns = ("weights", "gradients", "optimizer", "activations", "cache", "buffers", "total")
    memory = table("memory of one GPU in GiB", "", "ZeRO", *columns, "smallest GPU")

    def add(name: str, zero: str, row: dict[str, Any], last: bool) -> None:
        gpu = row["gpu_gib"]
        fits = f"{gpu} GB ({GPUS[gpu]})" if gpu else "none"
        memory.add_row(name, zero, *(f"{row[key] / GIB:.2f}" for key in columns), fits, end_section=last)

    add(f"answering, {report['prompt_tokens']} + {report['new_tokens']} tokens", "", report["inference"], True)
    for row in report["training"]:
        add(f"training, {row['stage']}", str(row["zero"]), row, row["zero"] == 3)
    step = report["step"]
    checkpointing = "with" if step["checkpointing"] else "without"
    memory.caption = (
        f"{report['dtype']}; 1 GiB for CUDA is in the total; training on {step['gpus']} GPUs, each {step['batch']} "
        f"samples of {step['length']} tokens, {checkpointing} gradient checkpointing; LoRA rank {step['lora']['rank']}"
    )
    console = Console()
    if not console.is_terminal:
        console.width = 150  # a file need not wrap
    console.print(parts)
    console.print(memory)
    if time := report.get("time"):
        hours = table(f"hours on {step['gpus']} GPUs for {time['count']:,} samples", "", "GMACs of a sample", "hours")
        for row in time["stages"]:
            hours.add_row(f"training, {row['stage']}", f"{row['macs'] / 1e9:,.0f}", f"{row['hours']:.1f}")
        hours.caption = f"of {time['length']} tokens on average; a GPU is taken to compute {time['tflops']:g} TFLOPS"
        console.print(hours)
