"""Questions for the place of an object: its box, or a point on it. Asked only where they are named as categories."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from data.messages import Place
from data.places import HIT, find_places, overlap, write_place
from data.synthetic.asking import SceneQuestion, worded
from data.synthetic.objects import SceneObject
from data.synthetic.referring import choose
from data.synthetic.scene import Scene
from data.synthetic.vocabulary import pick

if TYPE_CHECKING:
    import numpy as np

BOX, POINT = "box", "point"
LOCATING = (BOX, POINT)
_CANDIDATES = 200  # boxes of which the one that hits most is the best guess
_RING = 0.66  # of a ring's radius lies the middle of its band; its center is not on it


@dataclass(frozen=True)
class Target:
    """What a place is asked of: an object of a scene."""

    scene: Scene
    item: SceneObject

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool: where the object is seen."""
        return self.scene.mask() == self.scene.region(self.item)

    def is_on(self, point: Place) -> bool:
        height, width = self.mask.shape
        return bool(self.mask[min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)])

    def is_hit(self, text: str, category: str) -> bool:
        """Whether the first place in an answer is a box that overlaps enough, or a point on the object itself."""
        places = find_places(text)[:1]
        if category == BOX:
            return any(overlap(place, self.item.box) >= HIT for place in places)
        return any(len(place) == 2 and self.is_on(place) for place in places)


def box(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    subject = choose(scene, rng, avoid="")
    if subject is None:
        return None
    item, words = subject
    template = pick(rng, ("give the box of the {thing}.", "where is the {thing}? give its box.", "box the {thing}."))
    question = worded(BOX, template, write_place(item.box), (), scene.region(item), thing=words)
    return replace(question, target=Target(scene, item))


def point(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    subject = choose(scene, rng, avoid="")
    if subject is None:
        return None
    item, words = subject
    target = Target(scene, item)
    (x, y), shorter = item.center, min(scene.config.height, scene.config.width)
    across, down = (_RING * item.radius * shorter / side for side in (scene.config.width, scene.config.height))
    around = ((x, y - down), (x + across, y), (x, y + down), (x - across, y))
    places = [place for place in (item.center, *around) if target.is_on(place)]
    if not places:
        return None
    template = pick(
        rng, ("point at the {thing}.", "where is the {thing}? give a point.", "give a point on the {thing}.")
    )
    return replace(worded(POINT, template, write_place(places[0]), (), scene.region(item), thing=words), target=target)


def best_guess(targets: Sequence[Target], category: str) -> str:
    """The one place that hits most targets, as an answer: the best guess without the image."""
    import numpy as np

    if category == BOX:
        boxes = [target.item.box for target in targets]
        hits = [sum(overlap(guess, each) >= HIT for each in boxes) for guess in boxes[:_CANDIDATES]]
        return write_place(boxes[hits.index(max(hits))])
    masks = np.sum([target.mask for target in targets], axis=0)
    row, column = np.unravel_index(masks.argmax(), masks.shape)
    return write_place(((column + 0.5) / masks.shape[1], (row + 0.5) / masks.shape[0]))
