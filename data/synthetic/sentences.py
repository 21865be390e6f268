"""Text about scenes, without images: what a language model learns to read and write before it learns to see."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from data.errors import InputError
from data.synthetic.captions import caption, place, text_phrase
from data.synthetic.scene import SPLITS, Scene, SceneConfig, make_scene
from data.synthetic.vocabulary import COLORS, SHAPES, below, count_word, pick, plural, shuffled, stream, with_article


def scene_sentences(split: str, count: int, config: SceneConfig | None = None, start: int = 0) -> Iterator[str]:
    """``count`` strings about scenes of ``split``: captions, and lists of facts.

    Nothing is rendered. Raises `InputError` for an unknown split.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    config = config or SceneConfig()
    for index in range(start, start + count):
        scene = make_scene(split, index, config)
        rng = stream("sentences", config.seed, split, index)
        yield caption(scene, rng=rng) if rng.random() < 0.6 else " ".join(_facts(scene, rng))


def _facts(scene: Scene, rng: random.Random) -> list[str]:
    """A few plain sentences, each true of the scene."""
    facts = []
    for item in scene.objects:
        others = [o for o in scene.objects if o is not item]
        facts.append(f"{with_article(item.phrase)} is {place(item)}.")
        if all(o.shape != item.shape for o in others):
            facts += [f"the {item.shape} is {item.color}.", f"the {item.shape} is {item.size}."]
        if all(o.color != item.color for o in others):
            facts += [f"the {item.color} object is a {item.shape}.", f"the {item.color} object is {place(item)}."]
        for other in others:
            if item.size == "large" and other.size == "small":
                facts.append(f"{with_article(item.name)} is larger than {with_article(other.name)}.")
            if other.center[0] - item.center[0] > 0.1:
                facts.append(f"{with_article(item.name)} is left of {with_article(other.name)}.")
            if other.center[1] - item.center[1] > 0.1:
                facts.append(f"{with_article(item.name)} is above {with_article(other.name)}.")
    # Yes, no and none are answers: LoRA teaches no words that the language model never wrote.
    shape, color = pick(rng, SHAPES), pick(rng, COLORS)
    if any(o.shape == shape for o in scene.objects):
        facts.append(f"yes, there is {with_article(shape)}.")
    else:
        facts += [f"no, there is no {shape}.", f"none is {with_article(shape)}."]
    if any(o.color == color for o in scene.objects):
        facts.append(f"yes, something is {color}.")
    else:
        facts += [f"no, nothing is {color}.", f"none is {color}."]
    for shape, number in Counter(o.shape for o in scene.objects).items():
        noun = shape if number == 1 else plural(shape)
        facts.append(f"there {'is' if number == 1 else 'are'} {count_word(number)} {noun}.")
    if scene.text is not None:
        # In lower case too, as answers have it.
        facts += [f"{text_phrase(scene)} is written.", f"the text says {scene.text.lower()}."]
    return shuffled(rng, facts)[: 2 + below(rng, 4)]
