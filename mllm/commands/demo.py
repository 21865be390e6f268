"""`mllm demo`: a tour through images that nobody trained on: asked, answered, and where the model looked."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.files import read_json
from mllm.commands.options import add_count, add_model, load

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console
    from rich.text import Text

    from mllm.serving.chat import Chat

HELP = "Ask about the images in examples/, beside what is true and a drawing of where the model looked."
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_FIELDS = ("image", "question", "answer")
_COLUMNS = 44  # of an image in the terminal
_LONGEST = 96  # tokens of an answer
NEXT = """\
[bold]On your own images[/]      mllm chat --image FILE
[bold]In a browser[/]            mllm serve
[bold]At real size[/]            scripts/reproduce/llava15.sh  (published weights, LLaVA's data, eight benchmarks)
[bold]From your own towers[/]    mllm bootstrap RECIPE, then mllm finetune RECIPE: docs/training.md"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--examples", default=str(EXAMPLES), metavar="DIR", help="images and their questions.json")
    parser.add_argument(
        "--out", default="demo", metavar="DIR", help="drawings of where the model looked (default demo)"
    )
    add_count(parser, "--tokens", "look at an image with N tokens (default: all)")


def run(args: argparse.Namespace) -> None:
    folder, out = Path(args.examples), Path(args.out)
    items = read_examples(folder)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")

    from rich.console import Console

    from data.images import open_image
    from encoder import SparseFormerVisionModel
    from mllm.loading import quiet
    from mllm.serving.chat import Chat
    from mllm.serving.inline import find_way

    quiet()
    images = {name: open_image(folder / name) for name in dict.fromkeys(item["image"] for item in items)}
    console, began = Console(), time.perf_counter()
    model, processor = load(args)
    if not isinstance(model.model.vision_tower, SparseFormerVisionModel):
        raise InputError(f"--model {args.model}: its encoder is no SparseFormer, so where it looks cannot be drawn")
    chat = Chat(model, processor, _LONGEST, num_tokens=args.tokens)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    console.print(
        f"{millions:.0f} M parameters on {model.device}, loaded in {time.perf_counter() - began:.1f} s; "
        f"{chat.num_tokens} tokens for each image"
    )
    way = find_way() if console.is_terminal else None
    hits = list[bool]()
    for name, questions in groupby(items, lambda item: item["image"]):
        console.rule(name)
        if way is not None:
            console.file.flush()
            sys.stdout.buffer.write(way(images[name]))
        elif console.is_terminal:
            console.print(in_blocks(images[name], min(_COLUMNS, console.width)))
        hits += [hit for item in questions if (hit := _ask(console, chat, folder / name, item)) is not None]
        out.mkdir(parents=True, exist_ok=True)
        drawing = out / f"{Path(name).stem}.png"
        chat.saved.add(drawing.absolute())  # of an earlier tour
        chat.draw(str(drawing))
        console.print(f"where it looked for the last answer: {drawing}", style="dim")
    console.rule()
    console.print(f"{sum(hits)} of {len(hits)} right")
    console.print(NEXT)


def _ask(console: Console, chat: Chat, image: Path, item: dict[str, Any]) -> bool | None:
    """Asks in a conversation of its own, prints what came of it, and returns whether it is right if anybody can say."""
    from rich.markup import escape

    from data.benchmarks.choices import normalize

    chat.clear()
    chat.show(str(image))
    began, firsts = time.perf_counter(), list[float]()
    said = chat.ask(item["question"], lambda word: firsts.append(time.perf_counter() - began))
    seconds = time.perf_counter() - began
    if "about" in item:
        console.print(escape(item["about"]), style="italic")
    asked, *short = item["question"].splitlines()  # short: in a word, as benchmarks ask for it
    console.print(f"[bold]{escape(asked)}[/]{' (in a word or phrase)' if short else ''}", highlight=False)
    truth, accepted, mark, hit = item["answer"], item.get("accepted", []), "", None
    if truth:
        hit = normalize(said) in map(normalize, (truth, *accepted))
        mark = "[green]right[/]" if hit else f"[red]wrong[/], it is {escape(truth)}"
    console.print(f"  {escape(said)}   {mark}")
    first = f"first word after {firsts[0]:.2f} s, " if firsts else ""
    console.print(f"  {first}all after {seconds:.2f} s", style="dim")
    if "note" in item:
        console.print(f"  {escape(item['note'])}", style="italic dim")
    return hit


def in_blocks(image: Image.Image, columns: int) -> Text:
    """Draws an image with half blocks, two pixels a character, for terminals with colors and no other way."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    rows = max(1, round(columns * image.height / image.width / 2))
    pixels: Any = image.convert("RGB").resize((columns, 2 * rows)).load()
    text = Text()
    for row in range(rows):
        for column in range(columns):
            above, below = (Color.from_rgb(*pixels[column, 2 * row + half]) for half in (0, 1))
            text.append("▀", Style(color=above, bgcolor=below))
        text.append("\n")
    return text


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """Reads the questions of an examples folder, those of an image one after the other.

    Each is a dict of "image" (a file in it), "question" and "answer" (empty where no single answer is right), perhaps
    with "accepted" (a list of other right answers), "about" (said before it) and "note" (said after it).

    Raises:
        InputError: the file is missing or is not of this form.
    """
    file = folder / "questions.json"
    if not file.is_file():
        raise InputError(f"{file}: no such file; name the folder with --examples DIR")
    questions = read_json(file)
    if not isinstance(questions, list) or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in _FIELDS) for item in questions
    ):
        raise InputError(f"{file}: must be a list of objects with the texts {', '.join(sorted(_FIELDS))}")
    if not questions:
        raise InputError(f"{file}: has no questions")
    for item in questions:
        accepted = item.get("accepted", [])
        texts = [item.get("about", ""), item.get("note", ""), *(accepted if isinstance(accepted, list) else [None])]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{file}: accepted must be a list of texts, about and note texts")
    return questions
