"""`mllm train-lm`: train a small LLaMA and its tokenizer on text about scenes."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_recipe_arguments

HELP = "Train a SentencePiece tokenizer and a small LLaMA on text about generated scenes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "mllm.lab.language_model.LanguageModelRecipe")


def run(args: argparse.Namespace) -> None:
    from encoder.training.recipes import load_recipe
    from mllm.lab.language_model import LanguageModelRecipe, train_language_model

    train_language_model(load_recipe(LanguageModelRecipe, args.recipe, args.overrides), resume=args.resume)
