"""Lists of a scene's objects, in which all words of an object but the first are looked up behind those before.

In "heart red small top left, blue ring large top right" each next word belongs to the object that the last ones name.
That is the simplest form of what questions ask for, and learned first it opens the way to them: docs/log.md has
figures.
"""

from __future__ import annotations

import random

from data.scenes.scene import Scene
from data.scenes.vocabulary import pick, shuffled

LIST = "List the objects."
ORDERS = (("shape", "colour", "size", "quadrant"), ("colour", "shape", "size", "quadrant"))


def list_objects(scene: Scene, rng: random.Random) -> str:
    """All objects in random order, each with its shape or its colour first: ``"heart red small top left, ..."``."""
    items = [" ".join(getattr(item, name) for name in pick(rng, ORDERS)) for item in shuffled(rng, scene.objects)]
    return ", ".join(items) + "."
