"""What `mllm zeroshot` and `mllm retrieve` share: models side by side, their cost, a table and a JSON file."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.files import check_output
from mllm.commands.options import add_count, add_device, add_json

if TYPE_CHECKING:
    from data.bad_samples import BadSamples
    from encoder.evaluation.clip_models import ClipModel
    from encoder.evaluation.embedding import EmbeddedImages, Runtime
    from encoder.evaluation.probing import Features

    Load = Callable[[str, str | None, str | None], ClipModel]
    Score = Callable[[ClipModel, Runtime], tuple[dict[str, Any], EmbeddedImages | Features]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Named:
    """A `--model` with the options behind it; ``tokens``: numbers to look with, none for its own."""

    source: str
    pretrained: str | None = None
    tokenizer: str | None = None
    tokens: tuple[int, ...] = ()


class _Model(argparse.Action):
    """`--model` adds a model without pretrained weights."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, flag: object = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), _Named(values)])


class _Of(argparse.Action):
    """`--pretrained` and `--tokenizer` belong to the `--model` before them."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, flag: object = None) -> None:
        models = namespace.model or []
        if not models or getattr(models[-1], self.dest) is not None:
            raise argparse.ArgumentError(self, f"{values}: follows the --model whose {_PARTS[self.dest]} it names")
        namespace.model = [*models[:-1], replace(models[-1], **{self.dest: values})]


_PARTS = {"pretrained": "weights", "tokenizer": "tokenizer"}


class _Tokens(argparse.Action):
    """`--tokens` belongs to the `--model` before it; each adds a row."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, flag: object = None) -> None:
        models = namespace.model or []
        if not models:
            raise argparse.ArgumentError(self, f"{values}: follows the --model that is to look with so many")
        namespace.model = [*models[:-1], replace(models[-1], tokens=(*models[-1].tokens, values))]


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """The models, and how they compute; the same for every comparison."""
    parser.add_argument(
        "--model",
        action=_Model,
        metavar="DIR|NAME",
        help="a directory that `mllm bootstrap` or open_clip wrote, or the name of one of open_clip's models; for "
        "zeroshot also a SparseFormer that is a classifier, in the order of --classes; "
        "again for each further model",
    )
    parser.add_argument(
        "--pretrained",
        action=_Of,
        default=argparse.SUPPRESS,
        metavar="TAG|FILE",
        help="weights of the --model before it, if that is a name: a tag, a file, or TAG=FILE for the file's weights "
        "with the tag's activation and preprocessing",
    )
    parser.add_argument(
        "--tokenizer",
        action=_Of,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="the tokenizer of the --model before it, if that is a name whose tokenizer (SigLIP's) is not here",
    )
    parser.add_argument(
        "--tokens",
        action=_Tokens,
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="let the --model before it, a SparseFormer, look with N tokens, the class token counted, instead of its "
        "own number; again for a row each",
    )
    add_json(parser)
    add_device(parser)
    parser.add_argument("--autocast", choices=("bfloat16", "float16"), help="compute in this type; default: float32")
    add_count(parser, "--batch-size", "images at a time", 64)
    add_count(
        parser,
        "--workers",
        "processes that decode and prepare images; 0: the main one",
        min(4, os.cpu_count() or 1),
        least=0,
    )


def check_comparison(args: argparse.Namespace) -> None:
    """Raise InputError for what is wrong with the options, before anything is loaded."""
    if not args.model:
        raise InputError("--model: name at least one model")
    check_output("--json", args.json)


def compare(
    args: argparse.Namespace,
    facts: dict[str, Any],
    columns: dict[str, tuple[str, ...]],
    score: Score,
    bad: BadSamples,
    title: str,
    load: Load | None = None,
) -> None:
    """Score every model, print the table, write the JSON file, name the bad images on stderr.

    Args:
        args: with `add_comparison_options`' values, checked.
        facts: about the task, for the JSON file.
        columns: heading in the table -> the figures that stand under it, in percent.
        score: model and runtime -> figures in [0, 1] by name, embeddings of the images.
        bad: the record of bad images that ``score`` keeps.
        title: of the table, behind the number of images.
        load: what --model names, with its --pretrained and --tokenizer; None: a CLIP, or a classifier.
    """
    import torch
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from data.files import write_json
    from encoder.evaluation.clip_models import load_clip_model
    from encoder.evaluation.embedding import Runtime
    from mllm.loading import pick_device, quiet

    quiet()
    autocast = getattr(torch, args.autocast) if args.autocast else None
    runtime = Runtime(pick_device(args.device), args.batch_size, args.workers, autocast)
    # All are loaded before the first one works: a wrong name shows at once.
    load = load or load_clip_model
    models = [load(named.source, named.pretrained, named.tokenizer) for named in args.model]
    for named, model in zip(args.model, models, strict=True):
        for tokens in named.tokens:
            model.with_tokens(tokens)
    rows: list[dict[str, Any]] = []
    count = 0
    for named, model in zip(args.model, models, strict=True):
        for tokens in named.tokens or (None,):
            looking = model if tokens is None else model.with_tokens(tokens)
            macs = looking.macs()
            looking.clip.to(runtime.device)
            figures, images = score(looking, runtime)
            looking.clip.to("cpu")
            count = len(images.values)
            cost = {"tokens": looking.num_tokens, "gmacs": macs / 1e9, "images_per_second": images.per_second}
            rows.append({"model": named.source, "pretrained": named.pretrained, **cost, **figures})
    if args.json:
        write_json(Path(args.json), {**facts, "images": count, "models": rows, "skipped": bad.samples})
    table = Table(title=Text(f"{count} images of {title}"))
    table.add_column("model", overflow="fold")
    for heading in ("tokens", "GMACs", "images/s", *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row["model"] if row["pretrained"] is None else f"{row['model']} {row['pretrained']}"),
            "-" if row["tokens"] is None else str(row["tokens"]),
            f"{row['gmacs']:.3g}",
            "cached" if row["images_per_second"] is None else f"{row['images_per_second']:.0f}",
            *(" ".join(f"{100 * row[name]:.1f}" for name in names) for names in columns.values()),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # in a file or pipe, no name need be folded
    for line in bad.report():
        logger.warning("%s", line)
