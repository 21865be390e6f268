"""Options that several commands have, under one name and with one meaning."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor


def at_least(least: int) -> Callable[[str], int]:
    """Makes the type of an option: a whole number that is not too small."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    number.__name__ = "int"  # argparse says "invalid int value"
    return number


def add_count(
    parser: argparse.ArgumentParser, flag: str, words: str, default: int | None = None, least: int = 1
) -> None:
    """Adds an option that counts something; a default is told behind the ``words``."""
    words = words if default is None else f"{words} (default {default})"
    parser.add_argument(flag, type=at_least(least), default=default, metavar="N", help=words)


def add_recipe_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    """Adds what every training takes: a recipe, changes to it, and ``--resume``; ``recipe`` names its dataclass."""
    parser.add_argument("recipe", metavar="RECIPE", help=f"YAML file; see scripts/recipes/ and {recipe}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output directory")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``, for `mllm.loading.pick_device`."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: the best there is")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the model that answers, and where and in which dtype it does."""
    words = "model or adapter directory, or OWNER/NAME[@REVISION] of the hub; default: the embedded model"
    parser.add_argument("--model", metavar="DIR_OR_REPO", help=words)
    add_device(parser)
    add_dtype(parser)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds ``--dtype``, for `mllm.loading.load_model`."""
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="of the weights; default: as they are stored",
    )


def add_budget(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds how many tokens and pixels an image is given; ``several`` numbers of tokens may be asked for, one by one."""
    more: dict[str, Any] = {"type": counts, "metavar": "N[,N...]"} if several else {"type": at_least(1), "metavar": "N"}
    words = "look at an image with N tokens, fewer being cheaper (default: all; the model must have learned with fewer)"
    parser.add_argument("--tokens", help=words + ("; of several numbers, a result for each" if several else ""), **more)
    add_count(parser, "--image-size", "see whole images at about N x N pixels (default: as the model's processor cuts)")


def counts(text: str) -> list[int]:
    """The type of an option: numbers with commas between."""
    return [at_least(1)(each) for each in text.split(",")]


def add_json(parser: argparse.ArgumentParser, content: str = "the figures") -> None:
    """Adds ``--json``, a file that is written beside what is printed."""
    parser.add_argument("--json", metavar="OUT", help=f"also write {content} to this file")


def load(args: argparse.Namespace) -> tuple[PreTrainedModel, MLLMProcessor]:
    """Loads the model that `add_model`'s options name."""
    from mllm.loading import EMBEDDED, load_model

    return load_model(args.model or EMBEDDED, args.device, args.dtype)
