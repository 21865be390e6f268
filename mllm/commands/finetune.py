"""`mllm finetune`: stage 1 trains the projector, stage 2 the language model with it, whole or by LoRA."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_recipe_arguments

HELP = "Train the projector, or with it the language model (whole, LoRA, QLoRA), on conversations about images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "mllm.finetuning.recipe.FinetuneRecipe")


def run(args: argparse.Namespace) -> None:
    from encoder.training.recipes import load_recipe
    from mllm.finetuning.recipe import FinetuneRecipe
    from mllm.finetuning.run import finetune

    finetune(load_recipe(FinetuneRecipe, args.recipe, args.overrides), resume=args.resume)
