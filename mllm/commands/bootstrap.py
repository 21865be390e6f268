"""`mllm bootstrap`: turn a pre-trained vision tower into a SparseFormer."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_recipe_arguments

HELP = "Turn a pre-trained vision tower into a SparseFormer with fewer tokens."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "encoder.bootstrapping.recipe.BootstrapRecipe")
    parser.add_argument(
        "--dry-run",
        type=int,
        metavar="STEPS",
        help="run so many steps of each stage with random weights at true size on generated images, write nothing, "
        "and report memory and images/s",
    )


def run(args: argparse.Namespace) -> None:
    from encoder.bootstrapping.recipe import BootstrapRecipe
    from encoder.training.recipes import load_recipe

    recipe = load_recipe(BootstrapRecipe, args.recipe, args.overrides)
    if args.dry_run is None:
        from encoder.bootstrapping.run import bootstrap

        bootstrap(recipe, resume=args.resume)
    else:
        from encoder.bootstrapping.dry_run import dry_run

        dry_run(recipe, args.dry_run)
