"""`mllm finetune`: stage 1 trains the projector, stage 2 the language model with it, whole or by LoRA."""

from __future__ import annotations

import argparse

HELP = "Train the projector, or with it the language model (whole, LoRA, QLoRA), on conversations about images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="YAML file; see scripts/recipes/ and mllm.finetuning.recipe.FinetuneRecipe"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output directory")


def run(args: argparse.Namespace) -> None:
    from encoder.training.recipes import load_recipe
    from mllm.finetuning.recipe import FinetuneRecipe
    from mllm.finetuning.run import finetune

    finetune(load_recipe(FinetuneRecipe, args.recipe, args.overrides), resume=args.resume)
