"""Scenes: the same everywhere, never shared by two splits, true in words, and not to be guessed."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data import InputError
from data.synthetic import objects
from data.synthetic.asking import SceneQuestion
from data.synthetic.captions import CLASS_NAMES, TEMPLATES, TEXT_NAMES, caption, captions, text_phrase
from data.synthetic.datasets import (
    SceneCaptions,
    SceneConversations,
    SceneImages,
    SceneQuestions,
    SceneTexts,
    SceneTurns,
    ZeroShotScenes,
)
from data.synthetic.draw import OUTLINE, _distance
from data.synthetic.font import GLYPHS
from data.synthetic.questions import CATEGORIES, make_questions, text_only_baseline
from data.synthetic.scene import Scene, SceneConfig, content_split, make_scene
from data.synthetic.sentences import scene_sentences
from data.synthetic.vocabulary import COLORS, SHAPES, SPLITS, WORDS


def digest(scene: Scene) -> str:
    return hashlib.blake2b(scene.pixels().tobytes() + scene.mask().tobytes(), digest_size=8).hexdigest()


@pytest.mark.parametrize(
    ("split", "index", "size", "expected"),
    [
        ("train", 0, (64, 64), "94c4edb9de9e7f0a"),
        ("train", 12345, (64, 96), "b3a071e18c7e8753"),
        ("validation", 7, (96, 64), "e4770faf4cd7ef30"),
        ("test", 3, (224, 224), "d183d48f486976bf"),
    ],
)
def test_images_are_the_same_on_every_machine(split, index, size, expected):
    scene = make_scene(split, index, SceneConfig(height=size[0], width=size[1]))
    assert scene.pixels().shape == (*size, 3)
    assert digest(scene) == expected


def test_scenes_depend_on_seed_split_and_index_alone():
    assert make_scene("train", 5) == make_scene("train", 5)
    others = [make_scene("train", 6), make_scene("test", 5), make_scene("train", 5, SceneConfig(seed=1))]
    assert all(digest(other) != digest(make_scene("train", 5)) for other in others)


def test_splits_never_share_a_scene():
    for split in SPLITS:
        for seed in range(3):
            for index in range(40):
                scene = make_scene(split, index, SceneConfig(seed=seed))
                assert content_split(scene) == split
                larger = make_scene(split, index, SceneConfig(seed=seed, height=128, width=128))
                assert larger == replace(scene, config=larger.config)
    zero_shot = ZeroShotScenes("validation", 128)
    assert {content_split(zero_shot.scene(index)) for index in range(128)} == {"validation"}


def test_small_objects_and_letters():
    small = SceneConfig(224, 224, text_probability=1.0, min_scale=0.3, max_scale=0.3)
    assert digest(make_scene("train", 0, small)) == "5024d5244bf1a089"
    heights = []
    for index in range(40):
        scene = make_scene("train", index, small)
        usual = make_scene("train", index, replace(small, min_scale=1.0, max_scale=1.0))
        assert (scene.text, len(scene.objects)) == (usual.text, len(usual.objects))
        heights.append((scene.text_box[3] - scene.text_box[1]) / (usual.text_box[3] - usual.text_box[1]))
        assert all(0.3 * 0.13 <= item.radius <= 0.3 * 0.22 for item in scene.objects)
        assert all((item.size == "large") == (item.radius > 0.3 * 0.17) for item in scene.objects)
        larger = replace(small, height=448, width=448)
        assert make_scene("train", index, larger) == replace(scene, config=larger)
        assert {*range(1, len(scene.objects) + 1), 255} <= set(np.unique(scene.mask()))
    assert heights == pytest.approx([0.3] * 40)


def test_scales_are_mixed():
    mixed = SceneConfig(min_scale=0.4, max_scale=1.0)
    scales = [make_scene("train", index, mixed).scale for index in range(300)]
    assert 0.4 <= min(scales) < 0.43
    assert 0.97 < max(scales) < 1.0
    assert 0.65 < sum(scales) / 300 < 0.75


def test_objects_are_visible_and_where_they_are_said_to_be():
    size = 96
    hidden = 0
    for index in range(250):
        scene = make_scene("train", index, SceneConfig(height=size, width=size))
        mask, pixels = scene.mask(), scene.pixels()
        for number, item in enumerate(scene.objects, start=1):
            (top, _, left, _), distance = _distance(item, size, size, size)
            whole = np.argwhere(distance <= 0)
            seen = mask == number
            assert seen.sum() >= 0.7 * len(whole)
            hidden += seen.sum() < len(whole)
            x1, y1, x2, y2 = (edge * size for edge in item.box)
            (row1, column1), (row2, column2) = whole.min(0), whole.max(0) + 1
            assert np.allclose((left + column1, top + row1, left + column2, top + row2), (x1, y1, x2, y2), atol=2)
            inside = np.zeros_like(seen)
            inside[top : top + len(distance), left : left + distance.shape[1]] = distance <= -OUTLINE * size - 0.5
            assert np.abs(np.median(pixels[seen & inside], axis=0) - item.rgb).max() <= 1
    assert hidden > 50  # some overlap there is


def test_crowded_scenes_are_laid_out_after_a_few_tries(monkeypatch):
    tries = Counter()
    layout = objects._layout

    def counted(*args):
        tries[index] += 1
        return layout(*args)

    monkeypatch.setattr(objects, "_layout", counted)
    for index in range(100):
        scene = make_scene("train", index, SceneConfig(min_objects=6, text_probability=1.0))
        assert min(item.radius for item in scene.objects) > 0.08
    assert max(tries.values()) <= 25


def test_text_is_never_hidden_and_stands_out():
    config = SceneConfig(text_probability=1.0)
    for index in range(60):
        scene = make_scene("train", index, config)
        assert scene.text is not None
        x1, y1, x2, y2 = (edge * 64 for edge in scene.text_box)
        plate = scene.mask() == 255
        assert plate.sum() >= (x2 - x1) * (y2 - y1)
        rows, columns = np.argwhere(plate).T
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a whole rectangle
        levels = scene.pixels()[plate].mean(-1)
        assert ((levels < 40) | (levels > 220)).mean() > 0.6
        assert levels.max() - levels.min() > 190


def test_shapes_differ_at_the_smallest_size():
    outlines, colored = {}, {}
    for shape in SHAPES:
        scene = ZeroShotScenes("train", 64).scene(SHAPES.index(shape))
        item = replace(scene.objects[0], anchor=(0.5, 0.5), radius=0.13, rotation=2)
        outlines[shape] = replace(scene, objects=(item,)).mask() == 1
        assert 13 <= np.ptp(np.argwhere(outlines[shape]), axis=0).max() + 1 <= 18
        (top, _, left, _), distance = _distance(item, 64, 64, 64)
        colored[shape] = np.zeros((64, 64), bool)
        colored[shape][top : top + len(distance), left : left + distance.shape[1]] = distance <= -OUTLINE * 64
    for first, second in itertools.combinations(SHAPES, 2):
        for areas, most in ((outlines, 0.9), (colored, 0.85)):  # inside the outline no two shapes are much alike
            common = (areas[first] & areas[second]).sum() / (areas[first] | areas[second]).sum()
            assert common < most, (first, second)


def test_letters_differ():
    assert set("".join(WORDS)) <= set(GLYPHS)
    for first, second in itertools.combinations(GLYPHS, 2):
        assert (GLYPHS[first] != GLYPHS[second]).sum() >= 2, (first, second)


def test_numbers_of_objects_and_texts():
    scenes = [make_scene("train", index) for index in range(1200)]
    counts = Counter(len(scene.objects) for scene in scenes)
    assert set(counts) == {1, 2, 3, 4, 5, 6}
    assert max(counts.values()) < 1.3 * min(counts.values())
    assert 0.25 < sum(scene.text is not None for scene in scenes) / 1200 < 0.35
    few = SceneConfig(min_objects=2, max_objects=2, text_probability=0)
    assert all(len(make_scene("train", index, few).objects) == 2 for index in range(20))


@pytest.mark.parametrize(("height", "width"), [(32, 200), (150, 40), (33, 47)])
def test_any_image_size(height, width):
    config = SceneConfig(height=height, width=width, min_objects=6, text_probability=1.0)
    for index in range(10):
        scene = make_scene("test", index, config)
        assert scene.image().size == (width, height)
        assert scene.mask().shape == (height, width)
        assert set(np.unique(scene.mask())) >= {1, 2, 3, 4, 5, 6, 255}
        assert all(0 <= edge <= 1 for item in scene.objects for edge in item.box)


AMOUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
NAMED = re.compile(rf"(?:(\w+) (?:small|large) )?\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})(e?s)?\b")


def test_captions_name_everything():
    lengths, starts = [], set()
    for index in range(120):
        scene = make_scene("train", index)
        for variant, sentence in enumerate([caption(scene), *captions(scene), caption(scene, 3), caption(scene, 99)]):
            lengths.append(len(sentence.split()))
            starts.add(" ".join(sentence.split()[:2]) if variant else "")
            if scene.text is not None:
                assert scene.text in sentence
            named: Counter[tuple[str, str]] = Counter()
            for amount, color, shape, several in NAMED.findall(sentence):
                named[color, shape] += AMOUNTS[amount] if several else 1
            assert named == Counter((o.color, o.shape) for o in scene.objects), sentence
    assert max(lengths) <= 45
    assert len(starts) > 20
    assert len({caption(make_scene("train", 3), rng=random.Random(i)) for i in range(40)}) > 12


def fits(scene: Scene, words: str) -> list:
    """The objects that "large red circles", "red object" or "leftmost object" can mean, judged by the words alone."""
    words = words.removeprefix("a ").removeprefix("an ")
    place = {"leftmost object": (0, 1), "rightmost object": (0, -1), "object nearest to the top": (1, 1)}
    place["object nearest to the bottom"] = (1, -1)
    if words in place:
        axis, sign = place[words]
        return [min(scene.objects, key=lambda o: sign * o.center[axis])]
    known = {*COLORS, *SHAPES, "large", "small"}
    wanted = [word if word in known else word.removesuffix("s").removesuffix("e") for word in words.split()]
    wanted = [
        "circle" if w == "circl" else "square" if w == "squar" else "triangle" if w == "triangl" else w for w in wanted
    ]
    assert set(wanted) <= {*known, "object", "objects", "anything"}, words
    return [o for o in scene.objects if all(w in (o.color, o.shape, o.size) for w in wanted if w in known)]


def one(scene: Scene, words: str):
    objects = fits(scene, words)
    assert len(objects) == 1, f"{words} is ambiguous"
    return objects[0]


def truth(scene: Scene, question: str) -> str:
    """The answer from the words of the question and the objects."""
    if re.fullmatch(r"is anything written in the picture\?|is there any text\?|is there something to read\?", question):
        return "yes" if scene.text else "no"
    if re.fullmatch(r"wh(at|ich) (word|number) .*|what does the text say\?|what is written in the picture\?", question):
        return scene.text.lower()
    if m := re.fullmatch(r"(?:is there anything|is any object) (\w+)\?", question):
        return "yes" if fits(scene, m[1]) else "no"
    if m := re.fullmatch(r"(?:is there|can you see|does the picture show) (an? .+)\?", question):
        return "yes" if fits(scene, m[1]) else "no"
    if m := re.fullmatch(
        r"(?:how many|count the) (.+?)(?: are there\?| can you see\?| are in the picture\?|\.)", question
    ):
        return str(len(fits(scene, m[1])))
    if m := re.fullmatch(r"how many objects are (\w+)\?", question):
        return str(len(fits(scene, m[1])))
    if question == "what is the number of objects?":
        return str(len(scene.objects))
    if m := re.fullmatch(r"(?:what|which) (colour|shape) (?:is|does) the (.+?)(?: have)?\?", question):
        return getattr(one(scene, m[2]), m[1].replace("colour", "color"))
    if m := re.fullmatch(r"(?:where is|in which corner is|where can you see) the (.+)\?", question):
        x, y = one(scene, m[1]).center
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
    if m := re.fullmatch(r"is the (.+) on the left or on the right\?", question):
        return "left" if one(scene, m[1]).center[0] < 0.5 else "right"
    if m := re.fullmatch(r"is the (.+) at the top or at the bottom\?", question):
        return "top" if one(scene, m[1]).center[1] < 0.5 else "bottom"
    if m := re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+)\?", question):
        (x1, y1), (x2, y2) = one(scene, m[1]).center, one(scene, m[3]).center
        return "yes" if {"left of": x1 < x2, "right of": x1 > x2, "above": y1 < y2, "below": y1 > y2}[m[2]] else "no"
    if m := re.fullmatch(r"are there (more|fewer) (.+) than (.+)\?", question):
        first, second = len(fits(scene, m[2])), len(fits(scene, m[3]))
        return "yes" if (first > second if m[1] == "more" else first < second) else "no"
    if m := re.fullmatch(r"is the (.+) (larger|bigger|smaller) than the (.+)\?", question):
        sizes = one(scene, m[1]).size, one(scene, m[3]).size
        return "yes" if sizes == (("small", "large") if m[2] == "smaller" else ("large", "small")) else "no"
    if m := re.fullmatch(r"do the (.+) and the (.+) have the same (size|colour)\?", question):
        attribute = m[3].replace("colour", "color")
        return "yes" if getattr(one(scene, m[1]), attribute) == getattr(one(scene, m[2]), attribute) else "no"
    if m := re.fullmatch(r"is the (.+) (?:large or small|small or large)\?", question):
        return one(scene, m[1]).size
    raise AssertionError(f"unknown question: {question}")


def test_answers_are_true_and_questions_unambiguous():
    kinds: Counter[str] = Counter()
    for index in range(400):
        scene = make_scene("train", index)
        asked = make_questions(scene)
        assert len({q.question for q in asked}) == len(asked) >= 4
        for q in asked:
            assert q.answer == truth(scene, q.question), q
            assert q.answer in q.choices
            kinds[q.category] += 1
    assert set(kinds) == set(CATEGORIES)


LIMITS = {"exists": 0.58, "count": 0.27, "color": 0.23, "shape": 0.23, "position": 0.52, "compare": 0.58, "read": 0.15}


def test_no_kind_can_be_answered_without_looking():
    known, asked = SceneQuestions("train", 2800).questions(), SceneQuestions("validation", 1400).questions()
    assert Counter(q.category for q in asked) == dict.fromkeys(CATEGORIES, 200)
    for guess in (text_only_baseline(asked, known), text_only_baseline(known)):
        assert set(guess) == set(CATEGORIES)
        assert {kind: value for kind, value in guess.items() if value > LIMITS[kind]} == {}


def test_conversations_cannot_be_guessed_either():
    conversations = SceneConversations("train", 1200)
    asked = [q for index in range(1200) for q in conversations.questions(index)]
    guess = text_only_baseline(asked)
    assert {kind: value for kind, value in guess.items() if value > LIMITS[kind]} == {}
    shares = Counter(q.category for q in asked)
    assert min(shares.values()) > 0.03 * len(asked)


def test_text_only_baseline_by_hand():
    def q(question: str, answer: str, template: str = "t", kind: str = "count") -> SceneQuestion:
        return SceneQuestion(kind, question, answer, ("1", "2", "3"), template)

    known = [q("a", "1"), q("a", "1"), q("b", "2"), q("c", "1")]
    # per kind and per template everything is "1": 1 of 4; per wording a -> 1, b -> 2, c -> 1, the new d -> 1: 2 of 4
    asked = [q("a", "1"), q("b", "2"), q("c", "3"), q("d", "2")]
    assert text_only_baseline(asked, known) == {"count": 0.5}
    assert text_only_baseline([q("a", "2", kind="read")], known) == {"read": 0.0}


def test_lists_say_what_everything_is():
    dataset = SceneConversations("train", 60, asked=SceneTurns(lists=1.0))
    first = Counter()
    for index in range(60):
        [(request, answer)] = dataset.turns(index)
        assert request == "List everything."
        scene, (number, listing) = dataset.scene(index), answer.removesuffix(".").split(": ")
        assert number == str(len(scene.objects))
        items = [item.split() for item in listing.split(", ")]
        texts = [words for words in items if words[0] in ("word", "number")]
        assert [words[1].upper() for words in texts] == ([scene.text] if scene.text else [])
        listed = [words for words in items if words not in texts]
        first.update(words[0] in SHAPES for words in listed)
        wanted = [sorted((o.shape, o.color, o.size, *o.quadrant.split())) for o in scene.objects]
        assert sorted(map(sorted, listed)) == sorted(wanted)
        assert all(words[2] in ("small", "large") for words in listed)
    assert 0.4 < first[True] / first.total() < 0.6
    mixed = SceneConversations("train", 400, asked=SceneTurns(lists=0.3))
    assert 90 < sum(mixed.turns(index)[0][0] == "List everything." for index in range(400)) < 150


def test_descriptions_that_nothing_was_asked_before():
    asked = SceneTurns(lists=0.3, captions=0.3, descriptions=0.0)
    turns = [SceneConversations("train", 400, asked=asked).turns(index) for index in range(400)]
    alone = [answer for [(request, answer), *others] in turns if request == "Describe the picture." and not others]
    assert 90 < len(alone) < 150
    assert 90 < sum(each[0][0] == "List everything." for each in turns) < 150
    with pytest.raises(InputError, match=r"captions=0\.6, lists=0\.5"):
        SceneTurns(captions=0.6, lists=0.5)


def test_questions_of_some_kinds_alone():
    dataset = SceneConversations(
        "train", 200, SceneConfig(max_objects=2), asked=SceneTurns(categories=["color", "read"])
    )
    kinds = [{question.category for question in dataset.questions(index)} for index in range(200)]
    assert sum(each <= {"color", "read"} for each in kinds) > 190  # where there is neither, all kinds are asked
    words = SceneConversations("train", 40, SceneConfig(max_objects=2), asked=SceneTurns(categories=["color.words"]))
    asked = [words.questions(index) for index in range(40)]
    questions = [question for each in asked if {q.category for q in each} == {"color"} for question in each]
    assert len(questions) > 20
    assert all(re.search(r"the (small |large )?\w+( have)?\?$", question.question) for question in questions)
    assert not any("most" in question.question or "nearest" in question.question for question in questions)
    absent = SceneConversations("train", 40, asked=SceneTurns(categories=["absent"]))
    for index in range(40):
        looks = {value for o in absent.scene(index).objects for value in (o.color, o.shape)}
        for question in absent.questions(index):
            assert question.answer == "none"
            assert not looks & set(question.question.rstrip("?").split())
    with pytest.raises(InputError, match=r"'smell'.*exists, count.*color\.words"):
        SceneTurns(categories=["smell"])


def test_conversation_items():
    dataset = pickle.loads(pickle.dumps(SceneConversations("train", 40, asked=SceneTurns(3, descriptions=0.5))))
    described = 0
    for index in range(40):
        item = dataset[index]
        assert [image.mode for image in item["images"]] == ["RGB"]
        assert [m["role"] for m in item["messages"]] == ["user", "assistant"] * 3
        assert [part["type"] for m in item["messages"] for part in m["content"]] == ["image"] + ["text"] * 6
        texts = [m["content"][-1]["text"] for m in item["messages"]]
        scene = dataset.scene(index)
        *turns, (last, answer) = zip(texts[::2], texts[1::2], strict=True)
        assert all(said == truth(scene, question) for question, said in turns)
        if last == "Describe the picture.":
            described += 1
        else:
            assert answer == truth(scene, last)
    assert 8 < described < 32
    assert dataset[3]["id"] == "scene-train-3"


def test_question_items():
    dataset = SceneQuestions("validation", 28, SceneConfig(height=48, width=48), start=7)
    items = [dataset[index] for index in range(28)]
    assert [item["category"] for item in items] == list(CATEGORIES) * 4
    assert len({item["question_id"] for item in items}) == 28
    for index, item in enumerate(items):
        assert item["image"].size == (48, 48)
        assert item["answer"] == truth(dataset.scene(index), item["question"])
        assert item["question"] == dataset.question(index).question
    assert np.array_equal(np.asarray(items[4]["image"]), dataset.scene(4).pixels())


def test_image_caption_and_zero_shot_items():
    images, pairs = SceneImages("train", 5, start=2), SceneCaptions("train", 7)
    assert np.array_equal(np.asarray(images[0]["image"]), np.asarray(pairs[2]["image"]))
    assert pairs[-1] == {"image": pairs[6]["image"], "captions": pairs[6]["captions"], "key": pairs[6]["key"]}
    with pytest.raises(IndexError):
        pairs[7]
    zero_shot = ZeroShotScenes("test", 130)
    assert len(CLASS_NAMES) == 64
    assert Counter(zero_shot[index]["label"] for index in range(64)) == dict.fromkeys(range(64), 1)
    for index in (0, 63, 129):
        scene = zero_shot.scene(index)
        assert CLASS_NAMES[zero_shot[index]["label"]] == scene.objects[0].name
        assert (len(scene.objects), scene.text) == (1, None)
    assert all(template.format("red circle").count("red circle") == 1 for template in TEMPLATES)
    texts = SceneTexts("test", 50)
    assert [texts[index]["label"] for index in (0, 20, 21, 49)] == [0, 20, 0, 7]
    for index, name in enumerate(TEXT_NAMES):
        scene = texts.scene(index)
        assert scene.objects == ()
        assert name == text_phrase(scene)
        assert content_split(scene) == "test"
        assert set(np.unique(scene.mask())) == {0, 255}


def test_kinds_of_questions_come_up_evenly_in_short_conversations():
    for turns in (1, 2, 4):
        dataset = SceneConversations("train", 600, asked=SceneTurns(turns))
        kinds = Counter(question.category for index in range(len(dataset)) for question in dataset.questions(index))
        assert min(kinds[kind] for kind in CATEGORIES) > 0.3 * kinds.total() / len(CATEGORIES)
        assert max(kinds.values()) < 1.5 * kinds.total() / len(CATEGORIES)


def test_sentences():
    sentences = list(scene_sentences("train", 300))
    assert sentences == list(scene_sentences("train", 300))
    assert len(set(sentences)) > 290
    assert not any("?" in sentence for sentence in sentences)
    told = judged = 0
    for index, sentence in enumerate(sentences):
        scene = make_scene("train", index)
        for shape, color in re.findall(r"the (\w+) is (\w+)\.", sentence):
            if color in COLORS:
                told += 1
                assert [item.color for item in scene.objects if item.shape == shape] == [color]
        looks = {value for item in scene.objects for value in (item.color, item.shape)}
        said = re.findall(r"\b(yes|no|none)(?:,| is) (?:[^.]* )?(\w+)\.", sentence)
        assert all((word in looks) == (answer == "yes") for answer, word in said)
        judged += len(said)
    assert told > 20
    assert judged > 20


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"height": 8}, "height"),
        ({"width": 10**6}, "width"),
        ({"min_objects": 4, "max_objects": 3}, "min_objects"),
        ({"max_objects": 9}, "max_objects"),
        ({"text_probability": 1.5}, "text_probability"),
        ({"min_scale": 0.01}, "min_scale"),
        ({"min_scale": 0.6, "max_scale": 0.5}, "max_scale"),
        ({"max_scale": 1.5}, "max_scale"),
    ],
)
def test_contradictory_configurations(arguments, field):
    with pytest.raises(InputError, match=field):
        SceneConfig(**arguments)


def test_wrong_arguments():
    with pytest.raises(InputError, match="split"):
        make_scene("dev", 0)
    with pytest.raises(InputError, match="index"):
        make_scene("train", -1)
    with pytest.raises(InputError, match="count"):
        SceneImages("train", 0)
    with pytest.raises(InputError, match="read"):
        SceneQuestions("test", 7, SceneConfig(text_probability=0))
    with pytest.raises(InputError, match="questions=0"):
        SceneTurns(questions=0)
    with pytest.raises(InputError, match="lists=2"):
        SceneTurns(lists=2)
    with pytest.raises(InputError, match="split"):
        list(scene_sentences("dev", 1))


def test_extreme_configurations_still_have_questions():
    lonely = SceneQuestions("test", 14, SceneConfig(max_objects=1, text_probability=1.0))
    assert [lonely.question(index).answer for index in range(14)]
    assert all(len(lonely.scene(index).objects) == 1 for index in range(14))
    full = SceneConversations("test", 10, SceneConfig(min_objects=6, text_probability=0.0))
    assert all(len(full.turns(index)) == 4 for index in range(10))
