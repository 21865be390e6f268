"""Classes of zero-shot classification: every form of a class file, and folders matched by key, number or name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data.classes import ClassTable, match_classes, read_class_table
from data.errors import InputError
from data.sources import open_labeled
from mllm.cli import main
from tests import tiny

WNIDS = ["n01440764", "n01443537", "n01484850"]
WORDS = ["tench", "goldfish", "great white shark, man-eater"]


def table(path: Path, content: object) -> ClassTable:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_class_table(path)


def meant(given: ClassTable, names: list[str], numbered: bool = False) -> list[str]:
    """The words of each label."""
    classes = match_classes(given, names, numbered)
    return [classes.words[classes.of(label)] for label in range(len(names))]


def lines(separator: str) -> str:
    """Keys and words, in no order."""
    return "".join(f"{key}{separator}{words}\n" for key, words in list(zip(WNIDS, WORDS, strict=True))[::-1])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tab.txt", lines("\t")),
        ("heading.tsv", "wnid\twords\n" + lines("\t")),
        ("blank.txt", lines(" ")),
        ("index.json", {str(number): list(pair) for number, pair in enumerate(zip(WNIDS, WORDS, strict=True))}),
        ("keys.json", dict(zip(WNIDS, WORDS, strict=True))),
        ("heading.csv", "class_id,class_name\n" + lines(",").replace("great white shark, man-eater", f'"{WORDS[2]}"')),
        ("swapped.csv", "".join(f'"{words}",{key}\n' for key, words in zip(WNIDS, WORDS, strict=True))),
    ],
)  # fmt: skip
def test_keys_are_matched_and_never_their_places(tmp_path, name, content):
    given = table(tmp_path / name, content)
    assert meant(given, WNIDS) == WORDS
    assert meant(given, WNIDS[::2]) == WORDS[::2]
    with pytest.raises(InputError, match=r"'n09999999'.*is none of those given"):
        match_classes(given, [*WNIDS[:2], "n09999999"])
    classes = match_classes(given, None)
    assert classes.words[classes.of(WNIDS[1])] == WORDS[1]


@pytest.mark.parametrize("form", ["{}", "{:02}", "class_{}"])
def test_numbers_sort_as_numbers(tmp_path, form, caplog):
    names = [form.format(number) for number in range(12)]
    for number, name in enumerate(names):
        (tmp_path / "images" / name).mkdir(parents=True)
        tiny.image(number).save(tmp_path / "images" / name / "0.png")
    labeled = open_labeled(tmp_path / "images")
    images, found = labeled.dataset, labeled.class_names
    assert found == names
    words = [f"word{chr(97 + number)}" for number in range(12)]
    caplog.set_level(logging.INFO)
    assert meant(table(tmp_path / "names.txt", "\n".join(words)), found) == words
    assert f"names.txt: classes are matched by position: {names[0]} is 'worda', {names[1]} is 'wordb'" in caplog.text
    assert sorted(images[number]["label"] for number in range(12)) == list(range(12))


def test_numbers_are_looked_up(tmp_path):
    """A folder's number is a key where the file has keys, and else the class of that number, counted from 0 or 1."""
    given = table(tmp_path / "index.json", {str(number): f"word {number}" for number in (10, 2, 0, 1)})
    assert meant(given, ["2", "10"]) == ["word 2", "word 10"]
    assert match_classes(given, None).of(10) == 3
    with pytest.raises(InputError, match="'3'"):
        match_classes(given, ["0", "1", "2", "3"])
    plain = table(tmp_path / "plain.txt", "ant\n\nbee\ncat\n")
    assert meant(plain, ["0", "2"]) == ["ant", "cat"]
    assert meant(plain, ["1", "2", "3"]) == ["ant", "bee", "cat"]
    with pytest.raises(InputError, match="there are 3, the images have 2"):
        match_classes(plain, ["1", "2"])
    assert meant(table(tmp_path / "cut.txt", "2 bee\n1 ant\n"), ["1", "2"]) == ["ant", "bee"]
    assert match_classes(plain, None).of(2) == 2


def test_names_and_positions():
    assert match_classes(None, ["big_cat", "dog"]).words == ["big cat", "dog"]
    assert meant(ClassTable("f", [["dog", "cow", "Big cat"]]), ["big_cat", "dog"]) == ["Big cat", "dog"]
    assert meant(ClassTable("f", [["dog", "cow"]]), WNIDS[:2]) == ["dog", "cow"]
    hound = ClassTable("f", [["hound", "cow"]])
    assert meant(hound, ["dog", "cow"], numbered=True) == ["hound", "cow"]
    with pytest.raises(InputError, match=r"'dog', a label of the images, is none of those given; name all of them"):
        match_classes(hound, ["cow", "dog"])
    with pytest.raises(InputError, match=r"'dog'"):  # cow is the other one
        match_classes(hound, ["cow", "dog"], numbered=True)
    with pytest.raises(InputError, match=r"'blue'"):
        match_classes(ClassTable("f", [["red car", "blue car"]]), ["blue", "red"])
    textual = [f"class_{number}" for number in (0, 1, 10, 2)]
    with pytest.raises(InputError, match=r"'class_0'"):  # as `datasets` sorts folders: whose order is the file's?
        match_classes(ClassTable("f", [["a", "b", "c", "d"]]), textual, numbered=True)
    for label in (-1, 2, None, 0.5):
        with pytest.raises(InputError, match=r"no number from 0 to 1"):
            match_classes(hound, None).of(label)
    with pytest.raises(InputError, match=r"'cat', the label of an image, is none of the 2 classes"):
        match_classes(hound, None).of("cat")
    with pytest.raises(InputError, match="have no names; give a file"):
        match_classes(None, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty; write one class a line"),
        ("a.txt", "ant\nbee\nant\n", "lines 1 and 3 are the same class 'ant'"),
        ("a.txt", "0\tant\n1\n", "line 2 has 1 columns, line 1 has 2"),
        ("a.txt", "0\tant\n1\t \tb\n", "line 2 has 3 columns"),
        ("a.csv", "0,ant\n1,\n", "line 2 leaves a class or its key blank"),
        ("a.csv", '0,"ant\n1,bee', "line"),
        ("a.json", "[", "is no JSON"),
        ("a.json", [], "is empty"),
        ("a.json", ["ant", ""], "entry 2 leaves a class or its key blank"),
        ("a.json", ["ant", None], "entry 2 holds None; give a list of classes, or an object KEY: class"),
        ("a.json", {"0": {"name": "ant"}}, "entry '0' holds {'name': 'ant'}"),
        ("a.json", '{"0": NaN}', "entry '0' holds nan"),
        ("a.json", ["ant", "ant"], "are the same class 'ant'"),
    ],
)
def test_malformed_files(tmp_path, name, content, message):
    with pytest.raises(InputError) as caught:
        table(tmp_path / name, content)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_equal_words_of_two_keys_are_named(tmp_path, caplog):
    given = table(tmp_path / "a.txt", "n02012849\tcrane\nn03126707\tcrane\n")
    assert "2 classes are called 'crane'" in caplog.text
    assert match_classes(given, ["n03126707"]).of(0) == 1


@pytest.mark.parametrize("inner", ["train", "wnid"])
def test_one_folder_too_high_and_what_systems_leave(tmp_path, capsys, caplog, inner):
    for name in ("ant", "bee", "__MACOSX", "@eaDir"):
        (tmp_path / inner / name).mkdir(parents=True)
        tiny.image().save(tmp_path / inner / name / "0.png")
    if inner == "train":
        (tmp_path / "test").mkdir()
        tiny.image().save(tmp_path / "test" / "0.png")
    (tmp_path / inner / "cow").mkdir()
    labeled = open_labeled(tmp_path / inner)
    images = labeled.dataset
    assert labeled.class_names == ["ant", "bee", "cow"]
    assert len(images) == 2
    assert "1 of 3 folders of classes hold no image: cow" in caplog.text
    assert main(["zeroshot", str(tmp_path), "--model", "none"]) == 2
    assert f"are no classes but hold their folders; name e.g. {tmp_path}/" in capsys.readouterr().err
