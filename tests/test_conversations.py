"""LLaVA's instruction format: structure checked up front, pictures and words read on request."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from data import BadSamples, InputError, load_conversations

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 3), RED).save(folder / "red.png")
    Image.new("RGB", (5, 3), BLUE).save(folder / "sub" / "blue.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def turns(*values: str) -> list[dict[str, str]]:
    """Human and gpt in turn."""
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def sample(*values: str, **fields) -> dict:
    return {"id": "a", **fields, "conversations": turns(*values)}


def write(tmp_path: Path, samples: object, name: str = "c.json") -> Path:
    (tmp_path / name).write_text(json.dumps(samples), encoding="utf-8")
    return tmp_path / name


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


IMAGE = {"type": "image"}


def contents(conversation: dict) -> list[list[dict[str, str]]]:
    return [message["content"] for message in conversation["messages"]]


def test_one_picture_and_several_turns(tmp_path, pictures):
    path = write(tmp_path, [sample("<image>\nWhat is it?", "Red.", "Sure?", "Yes.", image="red.png")])
    conversations = load_conversations(path, pictures)
    assert len(conversations) == 1
    (conversation,) = (conversations[index] for index in range(1))
    assert conversation["id"] == "a"
    assert [(image.mode, image.getpixel((0, 0))) for image in conversation["images"]] == [("RGB", RED)]
    assert [message["role"] for message in conversation["messages"]] == ["user", "assistant", "user", "assistant"]
    assert contents(conversation) == [[IMAGE, text("What is it?")], [text("Red.")], [text("Sure?")], [text("Yes.")]]


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("<image>\nWhat?", [IMAGE, text("What?")]),
        ("What?\n<image>", [IMAGE, text("What?")]),  # LLaVA puts a single picture in front
        ("Say what <image> is.", [IMAGE, text("Say what  is.")]),
        ("<image>", [IMAGE]),
        ("  keep my spaces \n", None),
    ],
)
def test_placeholder_of_one_picture(tmp_path, pictures, value, parts):
    fields = {"image": "red.png"} if parts else {}
    conversations = load_conversations(write(tmp_path, [sample(value, "ok", **fields)]), pictures)
    assert contents(conversations[0])[0] == (parts or [text(value)])


def test_several_pictures_stay_in_their_places(tmp_path, pictures):
    both = ["red.png", "sub/blue.png"]
    path = write(
        tmp_path,
        [
            sample("<image>\n<image>\nCompare.", "ok", image=both),
            sample("Is <image> like <image>?", "ok", image=both),
            sample("First:\n<image>", "red", "Now?\n<image>", "blue", image=both),
        ],
    )
    conversations = load_conversations(path, pictures)
    first, second, third = (conversations[index] for index in range(3))
    assert contents(first)[0] == [IMAGE, IMAGE, text("Compare.")]
    assert contents(second)[0] == [text("Is "), IMAGE, text(" like "), IMAGE, text("?")]
    assert contents(third)[::2] == [[IMAGE, text("First:")], [IMAGE, text("Now?")]]
    for conversation in (first, second, third):
        assert [image.getpixel((0, 0)) for image in conversation["images"]] == [RED, BLUE]


def test_text_only_system_and_leading_answer(tmp_path):
    system = {"id": 7, "conversations": [{"from": "system", "value": "Be brief."}, *turns("Hello", "Hi")]}
    leading = {"image": None, "conversations": turns("Hello", "Hi", "Go on", "So")[1:]}
    conversations = load_conversations(write(tmp_path, [system, leading]))
    assert conversations[0]["images"] == conversations[1]["images"] == []
    assert [message["role"] for message in conversations[0]["messages"]] == ["system", "user", "assistant"]
    assert (conversations[0]["id"], conversations[1]["id"]) == ("7", "1")
    assert contents(conversations[1]) == [[text("Go on")], [text("So")]]


def test_paths_of_pictures(tmp_path, pictures):
    names = ["../pictures/red.png", str(pictures / "sub" / "blue.png")]
    path = write(pictures / "sub", [sample("<image>", "red", image=name) for name in names])
    inside = load_conversations(path, pictures / "sub")
    path = write(pictures, [sample("<image>", "red", image="red.png")])
    beside = load_conversations(path)  # pictures are looked for beside the file
    assert beside[0]["images"][0].getpixel((0, 0)) == RED
    assert inside.bad.count == 0
    assert inside[1]["images"][0].getpixel((0, 0)) == BLUE


def test_bad_samples_are_replaced_counted_and_named(tmp_path, pictures):
    samples = [
        sample("<image>", "gone", image="gone.png") | {"id": "gone"},
        sample("<image>", "broken", image="broken.png") | {"id": "broken"},
        sample("<image>", "red", image="red.png") | {"id": "red"},
        sample("", "silent") | {"id": "silent"},
    ]
    conversations = load_conversations(write(tmp_path, samples), pictures, bad=BadSamples(tmp_path / "bad.jsonl"))
    loader = DataLoader(conversations, batch_size=1, num_workers=2, collate_fn=lambda batch: batch[0]["id"])
    assert list(loader) == ["red", "red", "red", "red"]
    report = "\n".join(conversations.bad.report())
    assert report.startswith("3 bad samples were skipped:")
    assert f"c.json: sample 0 (id 'gone'): {pictures}/gone.png: there is no such picture" in report
    assert f"c.json: sample 1 (id 'broken'): {pictures}/broken.png: is no picture" in report
    assert "c.json: sample 3 (id 'silent'): conversations[0].value is empty" in report


def swap(field: str, value: object) -> dict:
    return sample("<image>\nWhat?", "It.", image="red.png") | {field: value}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", "sample 1 is no object"),
        (swap("conversations", []), r"sample 1 \(id 'a'\): conversations is missing, empty or no list"),
        (swap("conversations", "text"), "conversations is missing, empty or no list"),
        ({"id": 3}, r"sample 1 \(id 3\): conversations is missing"),
        ({}, "sample 1: conversations is missing"),
        (swap("conversations", ["text"]), r"conversations\[0\].from is None; give one of system, human, gpt"),
        (swap("conversations", [{"from": "user", "value": "x"}]), r"conversations\[0\].from is 'user'; give one of"),
        (swap("conversations", [{"from": "human"}]), r"conversations\[0\].value is no text"),
        (swap("conversations", turns("<image>")), "has no answer of 'gpt'"),
        (swap("conversations", [*turns("<image>", "a"), *turns("b", "c")[1:]]), r"\[2\].from is 'gpt' twice in a row"),
        (swap("conversations", [*turns("<image>", "a"), {"from": "system", "value": "b"}]), "'system' after the first"),
        (
            swap("conversations", turns("What?", "<image>")),
            r"conversations\[1\].value has <image> in the words of 'gpt'",
        ),
        (swap("image", ["red.png", "red.png"]), "image names 2 pictures for 1 <image>; match them"),
        (swap("image", None), "image names 0 pictures for 1 <image>"),
        (swap("conversations", turns("What?", "It.")), "image names 1 pictures for 0 <image>"),
        (swap("image", 3), "image is neither a file name nor a list"),
        (swap("image", [None]), "image is neither a file name nor a list"),
    ],
)
@pytest.mark.parametrize("name", ["c.json", "c.jsonl"])
def test_structure_is_checked_when_opened(tmp_path, pictures, bad, message, name):
    good = sample("Hello", "Hi")
    (tmp_path / name).write_text(
        "\n".join(map(json.dumps, (good, bad))) if name == "c.jsonl" else json.dumps([good, bad])
    )
    with pytest.raises(InputError, match=message) as caught:
        load_conversations(tmp_path / name, pictures)
    assert str(caught.value).startswith(f"{tmp_path}/{name}: sample 1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no list of conversations"),
        (b'{"id": 1}', "is no list of conversations; give a JSON list, or name the file .jsonl"),
        (b"[]", "holds no conversation"),
        (b"[", "is no JSON"),
        (b"[1 2]", "sample 0 is no object"),
        (b'[{"conversations": }]', r"is no JSON \(Expecting value: line 1 column 20"),
        (json.dumps([sample("a", "b")])[:-1].encode(), "is cut off or lacks a comma"),
        (json.dumps([sample("a", "b")]).encode() + b"x", "goes on after its list ended"),
        (json.dumps([sample("a", "b")]).encode()[:-1] + b",]", "is no JSON"),
        (b'["\xff"]', r"is not UTF-8 \(byte 2\)"),
        (b"[" * 200_000, "is nested too deeply"),
    ],
)
def test_broken_files(tmp_path, content, message):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_conversations(tmp_path / "c.json")


def test_missing_files(tmp_path, pictures):
    with pytest.raises(InputError, match=r"gone.json: there is no such file of conversations"):
        load_conversations(tmp_path / "gone.json")
    with pytest.raises(InputError, match=r"gone: there is no such folder of pictures"):
        load_conversations(write(tmp_path, [sample("a", "b")]), tmp_path / "gone")
    with pytest.raises(InputError, match="is a directory; name a file of conversations"):
        load_conversations(pictures)
    (tmp_path / "c.jsonl").write_text('{"id": 1\n')
    with pytest.raises(InputError, match="line 1 is no JSON"):
        load_conversations(tmp_path / "c.jsonl")
    path = write(tmp_path, [sample("<image>", "b", image=f"{number}.png") for number in range(300)])
    with pytest.raises(
        InputError, match=r"none of its pictures is there, e.g. .*/pictures/0.png; check the picture fo"
    ):
        load_conversations(path, pictures)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_samples_are_found_by_their_bytes(tmp_path, start, ascii_only, indent):
    """Offsets are bytes, also where characters take two to four of them."""
    samples = [sample(f"{number} größer 漢字 😀?", "ja") | {"id": str(number)} for number in range(5)]
    (tmp_path / "c.json").write_text(
        start + json.dumps(samples, ensure_ascii=ascii_only, indent=indent) + "\n", "utf-8"
    )
    lines = "\n\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in samples)
    (tmp_path / "c.jsonl").write_text(start + lines, "utf-8")
    for name in ("c.json", "c.jsonl"):
        conversations = load_conversations(tmp_path / name)
        assert [conversations.record(index) for index in range(len(conversations))] == samples
        assert contents(conversations[4])[0] == [text("4 größer 漢字 😀?")]


def test_changed_file_is_noticed(tmp_path):
    path = write(tmp_path, [sample("a", "b"), sample("c", "d")])
    conversations = load_conversations(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="has changed since it was opened"):
        conversations[1]


def test_large_file_is_quick_and_small(tmp_path):
    """665,000 samples must open in about a minute: 10,000 in less than two seconds, and 16 bytes of memory each."""
    path = write(tmp_path, [sample("How are you? " * 20, "Well. " * 60, "And you?", "I see.") for _ in range(10_000)])
    begun = time.process_time()
    conversations = load_conversations(path)
    assert time.process_time() - begun < 2
    assert conversations.spans.nbytes == 160_000
    assert conversations[9_999]["id"] == "a"
