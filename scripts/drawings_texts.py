#!/usr/bin/env python
"""Texts for recipes/drawings: prompts without images, and an encyclopedic text to measure fluency on.

usage: scripts/drawings_texts.py FOLDER [--prompts 4000] [--held-out 400]

    prompts.txt    a prompt a line, for `mllm self-distill`: about what drawings show, and of other kinds
    held-out.txt   others, about names and matters that are in none of the former
    factbook.txt   what The World Factbook (public domain) tells of each country's past, for `mllm perplexity --text`
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from data.drawings.index import Name, load_index
from data.drawings.words import plural, with_article
from data.files import read_json, write_whole
from data.materials import fetch

ABOUT_ONE = (
    "What is {a}?",
    "Describe {a} in one sentence.",
    "What is {a} used for?",
    "What is {a} used for? Answer in one sentence.",
    "Write a short sentence about {a}.",
    "Where would you find {a}?",
    "Tell me one interesting fact about {many}.",
    "Write a riddle whose answer is {a}.",
    "What color is {a}, usually?",
    "What does {a} look like?",
    "Name two things that go well with {a}.",
    "Do you like {many}?",
    "Use the word {name} in a sentence.",
    "What do you think of when you hear {name}?",
    "Give me another word for {name}.",
    "Explain to a child what {a} is.",
    "What has {name} to do with {tag}?",
    "Write a sentence with the words {name} and {tag}.",
)
ABOUT_TWO = (
    "What is the difference between {a} and {b}?",
    "Which is larger, {a} or {b}? Answer briefly.",
    "What do {a} and {b} have in common?",
    "Write one sentence about {a} and {b}.",
    "Which would you rather have, {a} or {b}, and why? One sentence.",
    "Tell a very short story with {a} and {b}. Two sentences.",
)
GENERAL = (
    ("Give me one tip for {}.", "activity"),
    ("How do I get better at {}? Answer in two sentences.", "activity"),
    ("What do I need for {}?", "activity"),
    ("Name three reasons for {}.", "activity"),
    ("Explain {} in one sentence.", "matter"),
    ("Explain {} to a child.", "matter"),
    ("Why does {} matter?", "matter"),
    ("Ask me a question about {}.", "matter"),
    ("Write a two-line poem about {}.", "matter"),
    ("List three {}.", "kind"),
    ("Name one of the {} and say why you chose it.", "kind"),
    ("Which {} do you know?", "kind"),
    ("Write a one-sentence message to {}.", "person"),
    ("What should I say when I meet {}?", "person"),
    ("Thank {} in one sentence.", "person"),
)
MATTERS = {
    "activity": (
        "learning to swim|cooking rice|sleeping well|writing a letter|growing tomatoes|saving money|"
        "learning a language|riding a bicycle|baking bread|playing the piano|reading more books|"
        "packing a suitcase|painting a wall|taking photos|running every day|keeping a diary|making new friends|"
        "cleaning a kitchen|speaking in public|drawing a face|planning a trip|caring for a cat|learning to type|"
        "telling a story|staying warm in winter"
    ),
    "matter": (
        "gravity|the rain|friendship|electricity|time|music|the moon|photosynthesis|history|honesty|the seasons|"
        "money|sleep|the alphabet|recycling|a rainbow|the internet|patience|a computer program|the heart|"
        "evaporation|a map|the sea|kindness|an earthquake|mathematics|the wind|the sun|healthy food|a library|"
        "democracy|learning"
    ),
    "kind": (
        "fruits|musical instruments|European countries|planets|colors|sports|tools for a garden|wild animals|"
        "vegetables|means of transport|kitchen tools|famous scientists|oceans|games for children|kinds of weather|"
        "flowers|birds|months of the year|things in an office|hobbies|languages|kinds of cheese|"
        "subjects at school|metals"
    ),
    "person": (
        "a new neighbor|my teacher|a friend who is ill|my grandmother|a customer|a doctor|my boss|"
        "a child who is afraid|a colleague who retires|my best friend|a stranger who helped me|a nurse|the mayor|"
        "a musician|my cousin"
    ),
}
HELD_OUT = 8  # every so many of the matters


def about_names(names: Sequence[Name], rng: random.Random) -> str:
    """A prompt about one of the names, or two."""
    first, second = rng.sample(names, 2)
    frame = rng.choice(ABOUT_ONE if rng.random() < 0.7 else ABOUT_TWO)
    tag = rng.choice(first.tags or (second.text,))
    a, b = with_article(first.text), with_article(second.text)
    return frame.format(a=a, b=b, name=first.text, many=plural(first.text), tag=tag)


def general(held_out: bool, rng: random.Random) -> str:
    """A prompt of another kind."""
    if rng.random() < 0.2:  # numbers below 20 are for training
        first, second = (rng.randrange(20, 40) if held_out else rng.randrange(1, 20) for _ in range(2))
        return rng.choice(("What is {} plus {}?", "Which is more, {} or {}?")).format(first, second)
    frame, kind = rng.choice(GENERAL)
    matters = [text for place, text in enumerate(MATTERS[kind].split("|")) if (place % HELD_OUT == 0) == held_out]
    return frame.format(rng.choice(matters))


def prompts(count: int, held_out: bool) -> list[str]:
    """So many different prompts, three fifths of them about names."""
    names = [name for name in load_index().names if name.seen != held_out]
    rng, found = random.Random(f"prompts {held_out}"), dict[str, None]()
    for tries in range(100 * count):
        found[about_names(names, rng) if tries % 5 < 3 else general(held_out, rng)] = None
        if len(found) == count:
            break
    return list(found)


def factbook() -> str:
    """The introductions to all countries."""
    files = sorted(fetch("factbook").glob("*/*.json"))
    introductions = (read_json(file).get("Introduction", {}).get("Background", {}).get("text", "") for file in files)
    return "\n\n".join(filter(None, introductions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=400)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("prompts.txt", prompts(args.prompts, held_out=False)),
        ("held-out.txt", prompts(args.held_out, held_out=True)),
        ("factbook.txt", [factbook()]),
    ):
        write_whole(args.folder / name, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    main()
