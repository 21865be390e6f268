"""`mllm train-task`: train a SparseFormer to classify, segment or detect."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_device, add_recipe_arguments

HELP = (
    "Train a SparseFormer to classify, segment or detect, all of it, its head alone or by low-rank updates; the result "
    "loads through transformers' Auto classes and pipelines, and is measured by the benchmark's rules."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "encoder.tasks.recipe.TaskRecipe")
    parser.add_argument("--evaluate", metavar="DIR", help="train nothing: measure this model as the recipe says")
    add_device(parser)
    parser.add_argument(
        "--dry-run",
        type=int,
        metavar="STEPS",
        help="run so many steps with random weights at true size on generated images, write nothing, and report memory "
        "and images/s; the recipe must say num_classes",
    )


def run(args: argparse.Namespace) -> None:
    from encoder.tasks.recipe import TaskRecipe
    from encoder.training.recipes import load_recipe

    recipe = load_recipe(TaskRecipe, args.recipe, args.overrides)
    if args.dry_run is not None:
        from encoder.tasks.dry_run import dry_run

        dry_run(recipe, args.dry_run)
        return
    from encoder.tasks.run import evaluate, train_task

    if args.evaluate is None:
        train_task(recipe, resume=args.resume)
    else:
        from mllm.loading import pick_device

        evaluate(recipe, args.evaluate, pick_device(args.device))
