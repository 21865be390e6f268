#!/usr/bin/env python
"""The drawings among the examples, and their questions: python scripts/examples.py [--out examples]

Scenes and questions are the first ones of their kind, not chosen by what a model says of them. The photos are in
examples/ already; their questions are kept.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from data.benchmarks.base import SHORT_ANSWER
from data.drawings.conversations import iterate_questions
from data.drawings.describing import description_question
from data.drawings.scene import Scene, SceneConfig, make_scene
from data.files import read_json, write_json

SIDE = 320
# Of each image: what it is, the split, its number of things, whether something is written, and what is asked.
SCENES = (
    ("An artist whom it has never seen.", "artist", 1, False, ("name", "kind", "color")),
    ("The same artist, composed.", "artist", 3, False, ("exists", "at", "where")),
    ("More of them.", "artist", 4, False, ("count", "relation")),
    ("With something to read, which is the hardest.", "artist", 2, True, ("read", "exists")),
    ("A thing whose name it has never been told.", "names", 1, False, ("name", "color")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("examples"), metavar="DIR")
    out: Path = parser.parse_args().out
    file = out / "questions.json"
    known = read_json(file) if file.exists() else []
    items: list[dict[str, Any]] = []
    for number, (about, split, things, text, categories) in enumerate(SCENES, 1):
        scene = find(split, things, text, number)
        name = f"drawing-{number}.png"
        scene.image().save(out / name, optimize=True)
        for category in categories:
            question = next(iterate_questions(scene, scene.stream("examples"), [category]), None)
            if question is not None:
                asked = f"{question.question}\n{SHORT_ANSWER}"
                accepted = sorted(question.accepted - {question.answer.casefold()})
                items.append({"image": name, "question": asked, "answer": question.answer, "accepted": accepted})
        asked = description_question(scene)
        items.append({"image": name, "question": asked.question, "answer": "", "note": f"there: {asked.answer}"})
        next(item for item in items if item["image"] == name)["about"] = about
    photos = [item for item in known if not item["image"].startswith("drawing-")]
    write_json(file, [*items, *photos])


def find(split: str, things: int, text: bool, seed: int) -> Scene:
    """The first scene of so many things, each with a name of its own, in which something is written or not."""
    config = SceneConfig(SIDE, SIDE, things, float(text), seed=seed)
    scenes = (make_scene(split, index, config) for index in itertools.count())
    return next(
        scene
        for scene in scenes
        if len(scene.things) == len({thing.name for thing in scene.things}) == things and bool(scene.text) == text
    )


if __name__ == "__main__":
    main()
