"""`mllm train-clip`: train a CLIP on captioned images, or distill one into another image tower."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_recipe_arguments

HELP = "Train a CLIP on captioned images, from nothing or from weights, or distill one into another image tower."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "encoder.contrastive.recipe.TrainClipRecipe")


def run(args: argparse.Namespace) -> None:
    from encoder.contrastive.recipe import TrainClipRecipe
    from encoder.training.recipes import load_recipe

    recipe = load_recipe(TrainClipRecipe, args.recipe, args.overrides)
    from encoder.contrastive.run import train_clip

    train_clip(recipe, resume=args.resume)
