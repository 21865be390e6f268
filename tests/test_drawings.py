"""Drawings: what the index makes of the packages, what is composed of them, and the sources."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data import open_captioned, open_conversations, open_images, open_labeled
from data.benchmarks import build_benchmark
from data.benchmarks.base import SHORT_ANSWER
from data.drawings import index, lettering, pictures, scene
from data.drawings.captions import caption
from data.drawings.conversations import CATEGORIES, balanced_question
from data.drawings.describing import description_question, judge
from data.drawings.rendering import ANGLES, colors, extents, render
from data.drawings.scene import SceneConfig, make_scene
from data.drawings.words import colored, counted, plural, with_article, with_the
from data.errors import InputError
from data.materials import CACHE, MATERIALS
from mllm.cli import main
from tests import drawn


def forget():
    index.load_index.cache_clear()
    scene.stock.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Few drawings, rendered from packages that were written here; nothing is fetched."""
    folder = drawn.packages(tmp_path_factory.mktemp("materials"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(folder))
        forget()
        yield folder
    forget()


# ------------------------------------------------------------------------------------------------------------ index


def test_icons_of_all_artists_show_one_of_the_names():
    found = index.load_index()
    assert [name.text for name in found.names] == [label for label, *_ in drawn.NAMES]
    artists = {name.text: {d.artist for d in found.drawings if d.name == name} for name in found.names}
    assert artists["bus"] == {*index.ARTISTS, index.UNSEEN}
    assert artists["dog face"] == {*index.ARTISTS, index.UNSEEN, index.FLUENT_3D}
    assert len(found.drawings) == len(drawn.NAMES) * (len(index.ARTISTS) + 1) + 4
    apple = found.names[0]
    assert (apple.synonyms, apple.tags, apple.group, apple.kind) == (
        ("apple",),
        ("fruit", "food"),
        "food-drink",
        "food-fruit",
    )
    assert apple.answers == {"red apple", "apple"}
    assert found.names[1].synonyms == ("dog",)
    assert found.credits["noto"] == {"title": "Noto", "author": "Somebody", "license": "MIT"}
    assert found.credits.keys() == {drawing.artist for drawing in found.drawings}
    assert {name.text: d.color for name in found.names for d in found.drawings if d.name == name}["red apple"] == "red"


def test_splits_share_neither_artist_nor_name():
    found = {split: index.load_index().of(split) for split in index.SPLITS}
    assert {name.text for name in found["names"]} == set(drawn.UNSEEN_NAMES)
    assert not {name.text for name in found["train"]} & set(drawn.UNSEEN_NAMES)
    assert found["train"] == found["validation"]
    assert found["artist"].keys() == found["train"].keys()
    artists = {split: {d.artist for ds in drawings.values() for d in ds} for split, drawings in found.items()}
    assert artists["artist"] == {index.UNSEEN}
    assert index.UNSEEN not in artists["train"] | artists["names"]
    with pytest.raises(InputError, match="split='test': choose one of train"):
        index.load_index().of("test")


def test_share_alike_art_is_refused(tmp_path, monkeypatch):
    drawn.packages(tmp_path)
    file = tmp_path / f"iconify-{MATERIALS['iconify'].version}" / "json" / "noto.json"
    file.write_text(file.read_text().replace('"MIT"', '"CC-BY-SA-4.0"'))
    monkeypatch.setenv(CACHE, str(tmp_path))
    with pytest.raises(InputError, match=r"noto is under CC-BY-SA-4\.0"):
        index.load_index.__wrapped__()


def test_pictures_are_rendered_once_and_bad_ones_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(CACHE, str(tmp_path))
    asked = []

    def jobs():
        asked.append(1)
        svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{}</svg>'
        sources = (svg.format('<rect width="4" height="2"/>'), svg.format(""), "no picture", tmp_path / "none.png")
        return {}, [pictures.Job(source, {"n": n}) for n, source in enumerate(sources)]

    for _ in range(2):
        opened = pictures.open_pictures("few", jobs)
    assert [fact["n"] for fact in opened.facts] == [0]
    assert opened[0].size == tuple(opened.facts[0]["size"])
    assert asked == [1]
    assert "3 pictures cannot be rendered" in caplog.text


def test_the_extra_is_named_where_it_is_missing(monkeypatch, tmp_path):
    index.load_index()  # what is rendered already needs none
    for module in (pictures, lettering):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    lettering._font.cache_clear()
    with pytest.raises(InputError, match="fonts need an extra"):
        make_scene("train", 0, SceneConfig(64, 64, text=1))
    assert make_scene("train", 0, SceneConfig(64, 64, text=0)).image().size == (64, 64)
    monkeypatch.setenv(CACHE, str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'sparseformer-mllm\[drawings\]'"):
        pictures.open_pictures("few", lambda: ({}, []))


def test_what_is_computed_of_a_drawing():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="80">{}</svg>'
    image = render(svg.format('<rect x="4" y="4" width="10" height="40" fill="#d02020"/>'))
    width, height = image.size
    assert height / width == pytest.approx(4, rel=0.05)
    assert colors(image) == [("red", 1.0)]
    in_mm = render(svg.format('<rect width="99" height="99"/>').replace('"40"', '"40mm"').replace('"80"', '"80mm"'))
    assert in_mm.size == pytest.approx((256, 256), abs=8)
    upright = extents(image)[ANGLES.index(0)]
    assert upright == (pytest.approx(0.25, abs=0.02), pytest.approx(1, abs=0.02))
    turned = np.radians(24)
    expected = (np.cos(turned) / 4 + np.sin(turned), np.cos(turned) + np.sin(turned) / 4)
    assert extents(image)[0] == pytest.approx(expected, abs=0.03)
    for rgb, name in (("#fff", "white"), ("#101010", "black"), ("#ffd93b", "yellow"), ("#2a62d8", "blue")):
        assert colors(Image.new("RGBA", (8, 8), rgb)) == [(name, 1.0)]


# ----------------------------------------------------------------------------------------------------------- scenes


def test_scenes_are_a_function_of_seed_split_and_index():
    def digest(scene):
        return hashlib.sha256(scene.image().tobytes()).hexdigest()

    first = [digest(make_scene("train", number)) for number in range(4)]
    assert first == [digest(make_scene("train", number)) for number in range(4)]
    others = [make_scene("validation", 0), make_scene("train", 4), make_scene("train", 0, SceneConfig(seed=1))]
    assert len({*first, *map(digest, others)}) == 7


def test_ground_truth_is_what_is_drawn():
    scenes = [make_scene("train", number, SceneConfig(224, 300)) for number in range(60)]
    assert {len(each.things) for each in scenes} == set(range(1, 7))
    assert 5 < sum(each.text is not None for each in scenes) < 40
    turned = 0
    for each in scenes:
        assert each.image().size == (300, 224)
        mask = each.mask()
        assert mask.shape == (224, 300)
        alone = [scene.Scene((thing,), None, 224, 300, "train", 0) for thing in each.things]
        for thing, lonely in zip(each.things, alone, strict=True):
            rows, columns = np.nonzero(lonely.mask())
            found = (columns.min() / 300, rows.min() / 224, (columns.max() + 1) / 300, (rows.max() + 1) / 224)
            assert found == pytest.approx(thing.box, abs=0.02)
            turned += thing.angle != ANGLES.index(0)
        hidden = [1 - (mask == n).sum() / (lonely.mask() > 0).sum() for n, lonely in enumerate(alone, 1)]
        assert max(hidden) < 0.6
    assert turned > 20


def test_one_object_takes_every_drawing_in_its_turn():
    drawings = [d for ds in index.load_index().of("artist").values() for d in ds]
    scenes = [make_scene("artist", number, SceneConfig(objects=1)) for number in range(2 * len(drawings))]
    assert all(len(each.things) == 1 and each.text is None for each in scenes)
    shown = [each.things[0].drawing.number for each in scenes]
    assert sorted(shown[: len(drawings)]) == sorted(d.number for d in drawings)
    assert shown[: len(drawings)] == shown[len(drawings) :]


def test_names_are_the_most_common_ones():
    common = scene.stock("train", 3)
    assert [name.text for name in common.drawings] == ["grapes", "umbrella", "hammer"]


# ------------------------------------------------------------------------------------------------- words and captions


@pytest.mark.parametrize(
    ("text", "one", "several"),
    [
        ("umbrella", "an umbrella", "umbrellas"),
        ("unicorn", "a unicorn", "unicorns"),
        ("x-ray", "an x-ray", "x-rays"),
        ("grapes", "grapes", "grapes"),
        ("bread", "bread", "bread twice"),
        ("bowl with spoon", "a bowl with spoon", "bowls with spoon"),
        ("cactus", "a cactus", "cactuses"),
        ("computer mouse", "a computer mouse", "computer mice"),
        ("milky way", "the milky way", "milky way twice"),
    ],
)
def test_english(text, one, several):
    assert with_article(text) == one
    assert counted(2, text) in (several, f"two {several}", f"{several} twice")
    assert counted(1, text) == one


def test_more_english():
    assert plural("cherry") == "cherries"
    assert colored("orange", "cat") == "an orange cat"
    assert colored("red", "red apple") == "a red apple"


def test_captions_name_everything():
    for number in range(80):
        each = make_scene("train", number)
        words = caption(each).casefold()
        if len(each.things) > 1:
            for thing in each.things:
                assert any(text in words for text in (thing.name.text, plural(thing.name.text))), words
        if each.text and len(each.things) > 1:
            assert each.text.casefold() in words


# ------------------------------------------------------------------------------------------------------- questions


def questions(category, count=60, **config):
    """Scenes with a question of a category each."""
    return [balanced_question("train", number, SceneConfig(224, 224, **config), [category]) for number in range(count)]


def test_answers_fit_the_ground_truth():
    for each, asked in questions("exists"):
        named = [thing for thing in each.things if with_article(thing.name.text) in asked.question]
        assert bool(named) == (asked.answer == "yes"), asked
    for each, asked in questions("count"):
        counts = [sum(plural(t.name.text) in asked.question for t in each.things), len(each.things)]
        assert int(asked.answer) == counts["things" in asked.question], asked
    for each, asked in questions("read"):
        assert asked.answer == each.text
    for each, asked in questions("color"):
        about = each.things[asked.region - 1]
        assert (asked.answer if asked.choices else about.drawing.color) == about.drawing.color
    for each, asked in questions("at"):
        thing = each.things[asked.region - 1]
        assert asked.is_right(thing.name.text)
        outermost = {"left": min, "right": max}.get(asked.question.rstrip("?").split()[-1])
        if asked.template.startswith(("What is {side}", "Which thing is {side}")) and outermost:
            assert thing.center[0] == outermost(t.center[0] for t in each.things)
    for each, asked in questions("compare"):
        sizes = {
            with_the(t.name.text): max(b - a for a, b in zip(t.box[:2], t.box[2:], strict=True)) for t in each.things
        }
        one, other = sorted((text for text in sizes if text in asked.question), key=asked.question.index)
        assert ((sizes[one] > sizes[other]) == ("smaller" not in asked.question)) == (asked.answer == "yes")
    for _, asked in questions("relation"):
        assert asked.said.startswith("Yes" if asked.answer == "yes" else "No")
        hows = [
            [how for how in ("left of", "right of", "above", "below") if how in text]
            for text in (asked.said, asked.question)
        ]
        assert (hows[0] == hows[1]) == (asked.answer == "yes")


def test_yes_and_no_counts_and_categories_are_balanced():
    answers = Counter(asked.answer for _, asked in questions("exists", 200))
    assert set(answers) == {"yes", "no"}
    assert min(answers.values()) > 70
    counts = Counter(asked.answer for _, asked in questions("count", 200))
    assert set(counts) == set("1234")
    assert min(counts.values()) > 25


def test_negatives_share_no_word_with_what_is_there():
    for each, asked in questions("exists", 100):
        if asked.answer == "no":
            there = {word for t in each.things for text in (*t.name.answers, *t.name.tags) for word in text.split()}
            assert not there & set(asked.question.rstrip("?").casefold().split()[3:])


def test_synonyms_and_articles_are_right():
    asked = next(asked for _, asked in questions("name", 40) if asked.answer == "red apple")
    assert all(map(asked.is_right, ("red apple", "A red apple", "apple", "an apple")))
    assert not any(map(asked.is_right, ("green apple", "fruit", "")))


def test_conversations():
    source = open_conversations(["drawings:train:60:size=64:short=0.5"])
    shown, short = Counter(), 0
    for number in range(60):
        talk = source.load(number)
        assert talk["messages"][0]["content"][0] == {"type": "image"}
        assert [message["role"] for message in talk["messages"]] == ["user", "assistant"] * (len(talk["messages"]) // 2)
        texts = [part["text"] for message in talk["messages"] for part in message["content"] if part["type"] == "text"]
        assert source.words(number)[1:] == texts
        shown[len(talk["messages"]) // 2] += 1
        for asked, answer in zip(texts[::2], texts[1::2], strict=True):
            assert asked.endswith(SHORT_ANSWER) or answer.endswith(".")
            short += asked.endswith(SHORT_ANSWER)
    assert shown[4] > 30
    assert shown[1] < 20
    assert 30 < short < 150
    only = open_conversations(["drawings:train:20:categories=count+exists:descriptions=0:captions=0:short=1"])
    asked = [text for number in range(20) for text in only.words(number)[1::2]]
    fitting = [text.startswith(("How many", "Count", "Is ", "Are ", "Can", "Does")) for text in asked]
    assert sum(fitting) > 0.7 * len(asked)  # a few scenes have no such question


# ------------------------------------------------------------------------------------------------------- benchmark


def test_descriptions_are_judged_by_what_they_name():
    each = next(filter(None, map(two_things, range(200))))
    truth = description_question(each)
    assert truth.is_right(truth.answer)
    first, second = (thing.name.text for thing in each.things)
    assert judge(f"There are {plural(first)}.", truth) == (0.5, 0.0)
    assert judge(f"A {first} and a {second}.", truth) == (1.0, 0.0)
    assert judge(f"A {first}, a {second} and a hammer.", truth) == (1.0, 1 / 3)
    assert judge("", truth) == (0.0, 0.0)


def two_things(number):
    each = make_scene("train", number)
    names = {thing.name.text for thing in each.things}
    return each if len(names) == len(each.things) == 2 and "hammer" not in names else None


def test_the_benchmark_counts_right_answers_by_category(tmp_path):
    benchmark = build_benchmark("drawings", count=44, split="validation", size="64")
    asked = benchmark.read_questions(tmp_path, tmp_path)
    assert [each.category for each in asked[:11]] == [*CATEGORIES, "describe"]
    assert asked[0].load_image().size == (64, 64)
    assert benchmark.prompt(asked[0]).endswith(f"\n{SHORT_ANSWER}")
    assert benchmark.prompt(asked[10]) == "Describe the picture in detail."
    truths = benchmark.own_ground_truth(asked)
    result = benchmark.score([(truth, truth.value.answer) for truth in truths])
    assert result.overall == 100
    assert result.groups["describe"] == {
        "n": 4,
        "accuracy": 100,
        "text-only baseline": result.groups["describe"]["text-only baseline"],
        "named": 100,
        "invented": 0,
    }
    assert result.groups["exists"]["text-only baseline"] <= 75
    assert benchmark.score([(truth, "no idea") for truth in truths]).overall == 0


def test_stamps_are_named_by_the_words_of_their_captions(tmp_path):
    benchmark = build_benchmark("stamps", size="32")
    asked = benchmark.read_questions(tmp_path, tmp_path)
    assert {(each.category, each.fields["truth"].answer) for each in asked} == {
        ("photos", "A cat."),
        ("drawings", "A pie!"),
    }
    assert asked[0].load_image().size == (32, 32)
    (photo,) = build_benchmark("stamps", photos=True).read_questions(tmp_path, tmp_path)
    right = photo.fields["truth"].is_right
    assert all(map(right, ("cat", "a black cat", "cats", "cat with a hat")))
    assert not any(map(right, ("dog", "", "a", "cat food")))


def test_commands_ask_and_look_at_drawings(model_dir, tmp_path, capfd):
    out = tmp_path / "score.json"
    asked = ["--count", "11", "--split", "validation", "--json", str(out), "--max-new-tokens", "4"]
    assert main(["eval", "drawings", "--model", str(model_dir), *asked]) == 0
    assert list(json.loads(out.read_text())["groups"]) == [*CATEGORIES, "describe", "overall"]
    images = "drawings:artist:3:objects=2"
    assert main(["rois", "--model", str(model_dir), "--images", images, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    masks = [make_scene("artist", n, SceneConfig(32, 32, objects=2, text=0)).mask() > 0 for n in range(3)]
    assert found["area"] == pytest.approx(np.mean(masks))
    assert main(["rois", "--model", str(model_dir), "--images", "stamps:2"]) == 2
    assert "no option 'text'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [({"split": "train"}, "--split train"), ({"categories": "shape"}, "no 'shape'"), ({"objects": 9}, "objects=9")],
)
def test_mistakes_of_the_benchmark_are_named(options, words):
    with pytest.raises(InputError, match=words):
        build_benchmark("drawings", **options)


# ---------------------------------------------------------------------------------------------------------- sources


def test_sources():
    labeled = open_labeled("drawings:artist:size=64")
    assert len(labeled.dataset) == 6
    assert list(labeled.class_names) == [label for label, *_ in drawn.NAMES]
    shown = {labeled.class_names[labeled.dataset[number]["label"]] for number in range(6)}
    assert shown == {name.text for name in index.load_index().of("artist")}
    assert labeled.dataset[0]["image"].size == (64, 64)
    assert open_labeled("drawings:train:5", image_size=(48, 32)).dataset[0]["image"].size == (32, 48)
    captioned = open_captioned("drawings:train:10:objects=4:text=1:size=96")
    assert len(captioned) == 10
    item = captioned[3]
    assert item["image"].size == (96, 96)
    assert item["captions"] == [item["key"]]
    sizes = {open_images("drawings:validation:20")[number]["image"].size for number in range(20)}
    assert len(sizes) > 5
    assert all(min(size) * 4 / 3 + 1 >= 128 and max(size) <= 448 * 4 / 3 for size in sizes)


def test_cliparts_and_stamps_have_the_words_of_people():
    cliparts = open_captioned("cliparts:6:size=48")
    found = [cliparts[number] for number in range(6)]
    assert {item["key"] for item in found} == {"red fox", "red fox (animal)"}
    assert len({item["image"].tobytes() for item in found}) == 6
    stamps = open_captioned("stamps:")
    assert {stamps[number]["captions"][0] for number in range(len(stamps))} == {"A cat.", "A pie!"}
    image = stamps[0]["image"]
    assert image.size == (224, 224)
    assert image.getpixel((2, 2)) == (255, 255, 255)
    assert image.getpixel((112, 112)) == pytest.approx((160, 96, 32), abs=4)
    assert open_images("stamps:5:size=32")[4]["image"].size == (32, 32)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("stamps:all", "stamps are written stamps:"),
        ("cliparts:3:size=1", "size=1"),
        ("drawings:test:10", "split='test'"),
        ("drawings:train:many", "are written drawings:SPLIT"),
        ("drawings:train:1:colors=3", "no option 'colors'"),
        ("drawings:train:1:objects=7", "objects=7: choose at least 1"),
        ("drawings:train:1:size=8", "size=8"),
    ],
)
def test_mistakes_are_named(source, words):
    with pytest.raises(InputError, match=words):
        open_images(source)
