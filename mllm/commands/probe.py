"""`mllm probe`: what the features of encoders, ours and others, tell of classes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm.commands.comparison import add_comparison_options, check_comparison, compare
from mllm.commands.options import add_count, counts

if TYPE_CHECKING:
    from encoder.evaluation.clip_models import ClipModel
    from encoder.evaluation.embedding import Runtime
    from encoder.evaluation.probing import Features

HELP = (
    "Score the features of encoders, frozen: the votes of the nearest neighbors, the nearest mean of a few images of "
    "each class, and a linear classifier, trained at all learning rates in one pass; the best one on a tenth that is "
    "held out counts."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "a folder with a folder per class, webdataset:GLOB, datasets:NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]], "
    parser.add_argument("train", metavar="TRAIN", help=f"labeled images to learn from: {words}drawings:train …")
    parser.add_argument("test", metavar="TEST", help="others of the same classes to test on")
    parser.add_argument("--neighbors", type=counts, default=[1, 5, 20], metavar="N[,N...]", help="default 1,5,20")
    parser.add_argument("--shots", type=counts, default=[1, 5], metavar="N[,N...]", help="of each class; default 1,5")
    add_count(parser, "--epochs", "of the linear classifier; 0: none", 20, least=0)
    parser.add_argument("--cache", metavar="DIR", help="keep features here: computed once for a model and images")
    add_comparison_options(parser)


def run(args: argparse.Namespace) -> None:
    check_comparison(args)

    import logging

    from data.bad_samples import BadSamples
    from encoder.evaluation.clip_models import load_image_model
    from encoder.evaluation.probing import few_shot_accuracy, knn_accuracy, linear_probe, read_features

    bad, log = BadSamples(), logging.getLogger(__name__)
    cache = None if args.cache is None else Path(args.cache)

    def score(model: ClipModel, runtime: Runtime) -> tuple[dict[str, Any], Features]:
        train = read_features(model, args.train, runtime, bad, cache)
        test = read_features(model, args.test, runtime, bad, cache).renumbered(train.classes, args.test)
        neighbors = knn_accuracy(train, test, args.neighbors, runtime.device)
        figures: dict[str, Any] = {f"knn_{k}": each for k, each in neighbors.items()}
        for shots in args.shots:
            figures[f"shots_{shots}"], figures[f"shots_{shots}_std"] = few_shot_accuracy(train, test, shots)
        if args.epochs:
            linear = linear_probe(train, test, runtime.device, args.epochs, tell=log.info)
            figures |= {"linear": linear.top_1, "learning_rate": linear.rate}
            figures["sweep"] = {f"{rate:g}": each for rate, each in linear.sweep.items()}
        return {**figures, "features": train.vectors.shape[1], "classes": len(train.classes)}, test

    columns = {"k-NN %, k " + " ".join(map(str, args.neighbors)): tuple(f"knn_{k}" for k in args.neighbors)}
    columns["shots %, " + " ".join(map(str, args.shots))] = tuple(f"shots_{shots}" for shots in args.shots)
    if args.epochs:
        columns["linear %"] = ("linear",)
    facts = {"train": args.train, "source": args.test}
    compare(args, facts, columns, score, bad, f"{args.test}, learned from {args.train}", load_image_model)
