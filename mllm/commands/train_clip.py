"""`mllm train-clip`: train a small CLIP on scenes and captions."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_recipe_arguments

HELP = "Train a small CLIP with open_clip's classes on generated scenes and their captions."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "mllm.lab.clip.TeacherRecipe")


def run(args: argparse.Namespace) -> None:
    from encoder.training.recipes import load_recipe
    from mllm.lab.clip import TeacherRecipe, train_teacher

    train_teacher(load_recipe(TeacherRecipe, args.recipe, args.overrides), resume=args.resume)
