"""`mllm train-clip`: train a small CLIP on scenes and captions."""

from __future__ import annotations

import argparse

HELP = "Train a small CLIP with open_clip's classes on generated scenes and their captions."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="YAML file; see scripts/recipes/ and mllm.lab.clip.TeacherRecipe"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output directory")


def run(args: argparse.Namespace) -> None:
    from encoder.training.recipes import load_recipe
    from mllm.lab.clip import TeacherRecipe, train_teacher

    train_teacher(load_recipe(TeacherRecipe, args.recipe, args.overrides), resume=args.resume)
