"""Descriptions: what is said of a whole scene, and how much of a description is true."""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass

from data.drawings.asking import DrawnQuestion
from data.drawings.captions import all_counted, relation
from data.drawings.index import Name, load_index
from data.drawings.scene import Scene
from data.drawings.words import plural, sentence, verb, with_article, with_the
from data.synthetic.captions import place
from data.synthetic.vocabulary import listing, pick, shuffled

DESCRIBE = "describe"
"""The category of requests for a description."""
NAMED, INVENTED = 0.6, 0.15
"""A description names at least this fraction of the things, and at most this fraction of what it names is not there."""
SHORT = ("Describe the picture.", "What can you see?", "Give a short caption.")
LONG = ("Describe the picture in detail.", "What is in the picture, and where?", "Say all about the picture.")
_LONGEST = 6  # words of a name


@dataclass(frozen=True)
class Description(DrawnQuestion):
    """A request to describe a scene in which there are ``things``."""

    things: frozenset[Name] = frozenset()

    def is_right(self, text: str) -> bool:
        named, invented = judge(text, self)
        return named >= NAMED and invented <= INVENTED


def description_question(scene: Scene) -> Description:
    """The request for a detailed description, and one that is right."""
    rng = scene.stream("describe")
    answer, things = describe(scene, rng), frozenset(thing.name for thing in scene.things)
    return Description(DESCRIBE, LONG[0], answer, (), LONG[0], said=answer, things=things)


def describe(scene: Scene, rng: random.Random) -> str:
    """Says everything in a scene and where it is, in several sentences."""
    things = shuffled(rng, scene.things)
    one = len(things) == 1 and verb(things[0].name.text) == "is"
    first = pick(rng, ("The picture shows {}", "There {are} {}", "One can see {}"))
    sentences = [first.format(all_counted(scene, rng), are="is" if one else "are")]
    if len(things) == 1:
        sentences.append(f"it is {place(things[0])}")
    else:
        places = [f"{with_article(each.name.text)} {verb(each.name.text)} {place(each)}" for each in things]
        sentences.append(listing(places))
        how = relation(things[0], things[1])
        text, other = things[0].name.text, things[1].name.text
        if how and text != other:
            sentences.append(f"{with_the(text)} {verb(text)} {how} {with_the(other)}")
    colors = {thing.name.text: thing.drawing.color for thing in things if thing.drawing.color}
    of_color = [f"{with_the(text)} {verb(text)} {color}" for text, color in colors.items() if color not in text.split()]
    sentences += [listing(of_color[:3])] if of_color else []
    sentences += [f"It says {scene.text}"] if scene.text else []
    return " ".join(map(sentence, sentences))


def judge(text: str, truth: Description) -> tuple[float, float]:
    """How much of a scene a description names, and how much of what it names is not there, both in [0, 1].

    Only names of the index are looked for, the longest first; a tag of something that is there is not invented.
    """
    mentioned = mentions(text)
    named = [any(name.answers & _answers(other) for other in mentioned) for name in truth.things]
    there = {word for name in truth.things for word in (*name.answers, *name.tags)}
    invented = [not there & _answers(other) for other in mentioned]
    return sum(named) / len(named), sum(invented) / max(1, len(invented))


def mentions(text: str) -> list[frozenset[Name]]:
    """The names that a text mentions, in singular or plural; several where they share a synonym."""
    vocabulary, words = _vocabulary(), re.findall(r"[\w'-]+", text.casefold())
    found, start = list[frozenset[Name]](), 0
    while start < len(words):
        phrases = {end: " ".join(words[start:end]) for end in range(start + _LONGEST, start, -1)}
        end = next((end for end, phrase in phrases.items() if phrase in vocabulary), None)
        found += [vocabulary[phrases[end]]] if end else []
        start = min(end, len(words)) if end else start + 1
    return list(dict.fromkeys(found))


def _answers(names: frozenset[Name]) -> frozenset[str]:
    return frozenset().union(*(name.answers for name in names))


@functools.cache
def _vocabulary() -> dict[str, frozenset[Name]]:
    """Name or synonym, singular and plural → the names that it means."""
    found: dict[str, set[Name]] = {}
    for name in load_index().names:
        for text in name.answers:
            for form in (text, plural(text).casefold()):
                found.setdefault(form, set()).add(name)
    return {text: frozenset(names) for text, names in found.items()}
