"""`mllm demo`: the embedded model answers questions about the images in examples/."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import check_output, read_json
from mllm.commands.options import add_model, load

HELP = "Answer questions about the images in examples/ and draw where the model looked."
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--examples", default=str(EXAMPLES), metavar="DIR", help="images and their questions.json")
    parser.add_argument("--out", default="demo.png", metavar="PNG", help="where the model looked (default demo.png)")


def run(args: argparse.Namespace) -> None:
    folder = Path(args.examples)
    questions = read_examples(folder)
    check_output("--out", args.out)

    from rich.console import Console
    from rich.table import Table

    from data.benchmarks.choices import normalize
    from data.images import open_image
    from encoder import SparseFormerVisionModel
    from encoder.visualize import save_png, visualize
    from mllm.generation import ask_all
    from mllm.loading import quiet

    quiet()
    images = {name: open_image(folder / name) for name in dict.fromkeys(item["image"] for item in questions)}
    model, processor = load(args)
    if not isinstance(model.model.vision_tower, SparseFormerVisionModel):
        raise InputError(f"--model {args.model}: its encoder is no SparseFormer, so where it looks cannot be drawn")
    asked = [{**item, "file": item["image"], "image": images[item["image"]]} for item in questions]
    answers = ask_all(model, processor, asked)
    table = Table("image", "question", "answer", "truth", "")
    right = 0
    for item in answers:
        hit = normalize(item["prediction"]) == normalize(item["answer"])
        right += hit
        mark = "[green]right[/]" if hit else "[red]wrong[/]"
        table.add_row(item["file"], item["question"], item["prediction"], item["answer"], mark)
    console = Console()
    console.print(table)
    console.print(f"{right} of {len(answers)} right")
    first = next(iter(images))
    drawn = visualize(model.model.vision_tower, processor.image_processor, images[first])
    save_png(drawn, Path(args.out))
    console.print(f"where the model looked in {first}: {args.out}")


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """Reads the questions of an examples folder: items with "image" (a file in it), "question" and "answer".

    Raises:
        InputError: the file is missing or is not of this form.
    """
    file = folder / "questions.json"
    if not file.is_file():
        raise InputError(f"{file}: no such file; name the folder with --examples DIR")
    questions = read_json(file)
    wanted = {"image", "question", "answer"}
    if not isinstance(questions, list) or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in wanted) for item in questions
    ):
        raise InputError(f"{file}: must be a list of objects with the texts {', '.join(sorted(wanted))}")
    if not questions:
        raise InputError(f"{file}: has no questions")
    return questions
