"""`mllm train-lm`: train a small LLaMA and its tokenizer on text about scenes."""

from __future__ import annotations

import argparse

HELP = "Train a SentencePiece tokenizer and a small LLaMA on text about generated scenes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="YAML file; see scripts/recipes/ and mllm.lab.language_model.LanguageModelRecipe",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output directory")


def run(args: argparse.Namespace) -> None:
    from encoder.training.recipes import load_recipe
    from mllm.lab.language_model import LanguageModelRecipe, train_language_model

    train_language_model(load_recipe(LanguageModelRecipe, args.recipe, args.overrides), resume=args.resume)
