"""LLaVA's instruction format and its variants: which samples are read, and that each bad one is skipped by name."""

from __future__ import annotations

import base64
import json
import pickle
import re
import time
from pathlib import Path

import datasets
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from data import BadSamples, InputError, load_conversations
from tests.benchmark_files import turns

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def image_folder(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 3), RED).save(folder / "red.png")
    Image.new("RGB", (5, 3), BLUE).save(folder / "sub" / "blue.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


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


def test_one_image_and_several_turns(tmp_path, image_folder):
    path = write(tmp_path, [sample("<image>\nWhat is it?", "Red.", "Sure?", "Yes.", image="red.png")])
    conversations = load_conversations(path, image_folder)
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
        ("What?\n<image>", [IMAGE, text("What?")]),  # LLaVA puts a single image in front
        ("Say what <image> is.", [IMAGE, text("Say what  is.")]),
        ("<image>", [IMAGE]),
        ("  keep my spaces \n", None),
    ],
)
def test_placeholder_of_one_image(tmp_path, image_folder, value, parts):
    fields = {"image": "red.png"} if parts else {}
    conversations = load_conversations(write(tmp_path, [sample(value, "ok", **fields)]), image_folder)
    assert contents(conversations[0])[0] == (parts or [text(value)])


def test_several_images_stay_in_their_places(tmp_path, image_folder):
    both = ["red.png", "sub/blue.png"]
    path = write(
        tmp_path,
        [
            sample("<image>\n<image>\nCompare.", "ok", image=both),
            sample("Is <image> like <image>?", "ok", image=both),
            sample("First:\n<image>", "red", "Now?\n<image>", "blue", image=both),
        ],
    )
    conversations = load_conversations(path, image_folder)
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


def test_paths_of_images(tmp_path, image_folder):
    names = ["../images/red.png", str(image_folder / "sub" / "blue.png")]
    path = write(image_folder / "sub", [sample("<image>", "red", image=name) for name in names])
    inside = load_conversations(path, image_folder / "sub")
    path = write(image_folder, [sample("<image>", "red", image="red.png")])
    beside = load_conversations(path)  # images are looked for beside the file
    assert beside[0]["images"][0].getpixel((0, 0)) == RED
    assert inside.bad.count == 0
    assert inside[1]["images"][0].getpixel((0, 0)) == BLUE


def test_bad_samples_are_replaced_counted_and_named(tmp_path, image_folder, monkeypatch):
    monkeypatch.chdir(image_folder)  # long paths would be shortened
    samples = [
        sample("<image>", "gone", image="gone.png") | {"id": "gone"},
        sample("<image>", "broken", image="broken.png") | {"id": "broken"},
        sample("<image>", "red", image="red.png") | {"id": "red"},
        sample("", "silent") | {"id": "silent"},
    ]
    conversations = load_conversations(write(tmp_path, samples), ".", bad=BadSamples(tmp_path / "bad.jsonl"))
    loader = DataLoader(conversations, batch_size=1, num_workers=2, collate_fn=lambda batch: batch[0]["id"])
    assert list(loader) == ["red", "red", "red", "red"]
    report = "\n".join(conversations.bad.report())
    assert report.startswith("3 bad samples were skipped:")
    assert "c.json: sample 0 (id 'gone'): gone.png: there is no such image" in report
    assert "c.json: sample 1 (id 'broken'): broken.png: is no image" in report
    assert "c.json: sample 3 (id 'silent'): conversations[0].value is empty" in report


SYSTEM_TURNS = [{"from": "system", "value": "Be long."}, *turns("<image>", "b")]


def swap(field: str, value: object) -> dict:
    return sample("<image>\nWhat?", "It.", image="red.png") | {field: value}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", "sample 1: is no object"),
        (swap("conversations", []), r"sample 1 \(id 'a'\): conversations is missing"),
        (swap("conversations", "text"), "conversations is missing"),
        ({"id": 3}, r"sample 1 \(id 3\): conversations is missing"),
        ({}, "sample 1: conversations is missing"),
        (swap("conversations", ["text"]), r"conversations\[0\].from is None"),
        (swap("conversations", [{"from": "user", "value": "x"}]), r"conversations\[0\].from is 'user'"),
        (swap("conversations", [{"from": "human"}]), r"conversations\[0\].value is no text"),
        (swap("conversations", turns("<image>")), "has no answer of 'gpt'"),
        (swap("conversations", [*turns("<image>", "a"), *turns("b", "c")[1:]]), r"\[2\].from is 'gpt' twice in a row"),
        (swap("conversations", [*turns("<image>", "a"), {"from": "system", "value": "b"}]), "'system' after the first"),
        (swap("conversations", turns("What?", "<image>")), r"\[1\].value has <image> in the words of 'gpt'"),
        (swap("image", ["red.png", "red.png"]), "image names 2 images for 1 <image>"),
        (swap("image", None), "image names 0 images for 1 <image>"),
        (swap("conversations", turns("What?", "It.")), "image names 1 images for 0 <image>"),
        (swap("image", 3), "image is neither a file name nor a list"),
        (swap("image", [None]), "image is neither a file name nor a list"),
        (swap("image", ""), "image names 0 images for 1 <image>"),
        (swap("image", {"height": 3}), "image is neither a file name nor a list"),
        (swap("image", "http://there/a.png"), "http://there/a.png: is an address, and nothing is fetched"),
        (swap("image", "data:image/png;base64,AAAA"), "image of 3 bytes: is no image in a known format"),
        (swap("image", "data:oops"), "data:oops: .*; write it as data:image/png;base64"),
        (swap("images", ["sub/blue.png"]), "image and images do not name the same; keep one"),
        (swap("system", 3), "system is no text"),
        (swap("system", "Be brief.") | {"conversations": SYSTEM_TURNS}, r"\[0\].from is 'system' twice in a row"),
        (swap("conversations", [{"role": "tool", "content": "x"}]), r"\[0\].role is 'tool'"),
        (swap("conversations", [{"role": "user", "content": [{"type": "video"}]}]), "of type 'video' is not read"),
        # media that are not read
        (sample("<video>\nWhat?", "It.", video="a.mp4"), r"a.mp4: there is no such video"),
        (sample("<video>\nWhat?", "It.", video="a.mp4", image="red.png"), "video is no file name, or there are images"),
        (sample("<image>\nWhat?", "It.", videos=["a.mp4"]), "videos is not read"),
        (sample("<image>\nWhat?", "It.", image="red.png", audio="a.wav"), "audio is not read"),
        (sample("What is it?", "Red.", image_path="red.png"), "image_path is not read"),
        (sample("<video>\nWhat?", "It."), "<video> in the words of a human"),
        (sample("<|audio_1|> What?", "It."), r"<\|audio_1\|> in the words of a human is not read"),
        (sample("Image 1: <img>red.png</img> What?", "It."), "<img>red.png</img> in the words of a human is not re"),
        (sample("<image_1> What?", "It."), "<image_1> in the words of a human is not read"),
        ({"conversations": [turns("a")[0] | {"image": "red.png"}, turns("a", "b")[1]]}, r"\[0\].image is not read"),
    ],
)
@pytest.mark.parametrize("name", ["c.json", "c.jsonl"])
def test_one_bad_sample_is_skipped_and_named(tmp_path, image_folder, bad, message, name):
    good = sample("Hello", "Hi")
    (tmp_path / name).write_text(
        "\n".join(map(json.dumps, (good, bad))) if name == "c.jsonl" else json.dumps([good, bad])
    )
    conversations = load_conversations(tmp_path / name, image_folder)
    assert contents(conversations[1]) == contents(conversations[0]) == [[text("Hello")], [text("Hi")]]
    ((named, reason),) = conversations.bad.samples.items()
    assert named.startswith(f"{tmp_path}/{name}: sample 1")
    assert re.search(message, f"{named}: {reason}")
    assert len(reason) <= 300


def test_a_file_without_one_good_sample_is_refused(tmp_path):
    path = write(tmp_path, [sample("Hello"), {}])
    with pytest.raises(InputError, match=r"sample 0 \(id 'a'\): .* no answer of 'gpt' .* \(as are all of 2 samples\)"):
        load_conversations(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "is empty; name a file of conversations that holds"),
        (b'{"id": 1}', r"sample 0 \(id 1\): conversations is missing"),
        (b'{\n"id": 1}', "line 1 is no JSON"),
        (b"[]", "is empty; name a file of conversations that holds"),
        (b"[", "is no JSON"),
        (b"[1 2]", "is no JSON: Expecting ',' delimiter"),
        (b"[1, 2]", "sample 0: is no object"),
        (b'[{"conversations": }]', r"is no JSON: Expecting value: line 1 column 20"),
        (json.dumps([sample("a", "b")])[:-1].encode(), "is no JSON: Expecting ',' delimiter"),
        (json.dumps([sample("a", "b")]).encode() + b"x", "is no JSON: Extra data"),
        (json.dumps([sample("a", "b")]).encode()[:-1] + b",]", "is no JSON"),
        (b'["\xff"]', r"is not UTF-8 \(byte 2\)"),
        (b"[" * 200_000, "is no JSON: maximum recursion depth"),
        (b"[" + b"1" * 5000 + b"]", "is no JSON: Exceeds the limit"),
    ],
)
def test_broken_files(tmp_path, content, message):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_conversations(tmp_path / "c.json")


def test_a_file_none_of_whose_images_is_there_is_refused(tmp_path, image_folder):
    path = write(tmp_path, [sample("<image>", "b", image=f"{number}.png") for number in range(300)])
    with pytest.raises(InputError, match=r"none of its images is there, e.g. .*/images/0.png"):
        load_conversations(path, image_folder)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_samples_are_what_the_file_holds(tmp_path, start, ascii_only, indent):
    samples = [sample(f"{number} größer 漢字 😀?", "ja") | {"id": str(number)} for number in range(5)]
    (tmp_path / "c.json").write_text(
        start + json.dumps(samples, ensure_ascii=ascii_only, indent=indent) + "\n", "utf-8"
    )
    lines = "\n\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in samples)
    (tmp_path / "c.jsonl").write_text(start + lines, "utf-8")
    for name in ("c.json", "c.jsonl"):
        conversations = load_conversations(tmp_path / name)
        assert [conversations.records[index] for index in range(5)] == list(conversations.records) == samples
        assert contents(conversations[4])[0] == [text("4 größer 漢字 😀?")]


def test_samples_of_all_types_side_by_side(tmp_path, image_folder):
    """Arrow wants one type in a column; LLaVA's files have several."""
    samples = [
        sample("<image>", "a", image="red.png") | {"id": 3, "model": ""},
        sample("<image><image>", "b", image=["red.png", "red.png"], model=3, box=[1, 0.5]),
        sample("c", "d", box={"left": None}) | {"id": None},
        "no object",
    ]
    conversations = load_conversations(write(tmp_path, samples), image_folder)
    assert [conversations.records[index] for index in range(4)] == samples
    assert list(conversations.faults) == [3]
    assert [len(conversations[index]["images"]) for index in range(3)] == [1, 2, 0]


def test_a_file_is_indexed_once_until_it_changes(tmp_path, monkeypatch):
    """Later processes find its samples in the cache of `datasets`, and those that have it open keep what they have."""
    path = write(tmp_path, [sample("a", "b"), sample("c", "d")])
    conversations = load_conversations(path)
    with monkeypatch.context() as patch:
        patch.setattr("data.records.read_records", None)
        assert len(load_conversations(path)) == 2
        assert pickle.loads(pickle.dumps(conversations))[1]["id"] == "a"
    write(tmp_path, [sample("e", "f")])
    assert len(load_conversations(path)) == 1
    assert contents(conversations[1])[0] == [text("c")]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(InputError, match=r"c.json: cannot be kept in .*/cache: .*; set HF_DATASETS_CACHE"):
        load_conversations(write(tmp_path, [sample("a", "b")]))


def test_large_file_is_quick_and_small(tmp_path):
    """665,000 samples must be opened in about a minute, and at once after that."""
    path = write(tmp_path, [sample("How are you? " * 20, "Well. " * 60, "And you?", "I see.") for _ in range(10_000)])
    for most in (2.0, 0.2):
        begun = time.process_time()
        conversations = load_conversations(path)
        assert time.process_time() - begun < most
    assert len(pickle.dumps(conversations)) < 10_000
    assert conversations[9_999]["id"] == "a"


PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
ASKED = [[IMAGE, text("What?")], [text("It.")]]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (sample("<image>\nWhat?", "It.", images=["red.png"]), ASKED),
        (sample("What?", "It.", images="red.png"), ASKED),
        (sample("<image>\nWhat?", "It.", image={"path": "red.png", "bytes": None}, images=None), ASKED),
        (sample("<image>\nWhat?", "It.", image="sub\\..\\red.png"), ASKED),
        ({"image": "red.png", "messages": [{"role": "user", "content": PARTS}, turns("", "It.")[1]]}, ASKED),
        (
            {
                "conversation": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "red.png"}}, PARTS[1]]},
                    {"role": "assistant", "content": "It."},
                ]
            },
            ASKED,
        ),
        (sample("<image>\nWhat?", "It.", image="red.png", image_url="http://there/red.png", video=None), ASKED),
        (
            sample("What?", "It.", image="red.png", system="Be brief.")
            | {"conversations": turns("<image>What?", "It.")},
            [[text("Be brief.")], *ASKED],
        ),
        (
            sample("What?", "<video> is a tag, as <img> is.", system=""),
            [[text("What?")], [text("<video> is a tag, as <img> is.")]],
        ),
    ],
)
def test_forms_that_are_read(tmp_path, image_folder, record, expected):
    conversations = load_conversations(write(tmp_path, [record]), image_folder)
    conversation = conversations[0]
    assert contents(conversation) == expected
    assert len(conversation["images"]) == sum(part == IMAGE for parts in expected for part in parts)
    assert all(image.getpixel((0, 0)) == RED for image in conversation["images"])
    assert conversations.bad.count == 0


def test_images_in_other_spellings_and_in_the_sample_itself(tmp_path, image_folder):
    (image_folder / "cafe\u0301 #%20.png").write_bytes((image_folder / "red.png").read_bytes())
    encoded = base64.b64encode((image_folder / "red.png").read_bytes()).decode()
    names = ["caf\u00e9 #%20.png", f"data:image/png;base64,{encoded}", encoded, {"bytes": encoded}]
    names += [(image_folder / "cafe\u0301 #%20.png").as_uri(), f"file:{image_folder}/red.png"]
    asked = [sample("<image>", "a", image=name) for name in (names[:1], *names)]
    conversations = load_conversations(write(tmp_path, asked), image_folder)
    assert [conversations[index]["images"][0].getpixel((0, 0)) for index in range(7)] == [RED] * 7
    assert conversations.bad.count == 0


@pytest.mark.parametrize("kind", ["parquet", "saved", "column of structs"])
def test_tables(tmp_path, image_folder, kind):
    """Images within a table or beside it; a bad row is skipped and named."""
    asked = [turns("<image>\nWhat?", "It."), turns("<image>\nWhat?", "It."), turns("Hello", "Hi"), turns("Hello")]
    images = [str(image_folder / "red.png"), str(image_folder / "broken.png"), None, None]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "conversations": datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
        }
    )
    rows = datasets.Dataset.from_dict({"image": images, "conversations": asked}, features)
    if kind == "saved":
        rows.save_to_disk(tmp_path / "table")
        source = f"datasets:{tmp_path}/table"
    elif kind == "parquet":
        rows.to_parquet(tmp_path / "table.parquet")  # the images go with it
        source = str(tmp_path / "table.parquet")
    else:
        columns = [{key: [turn[key] for turn in each] for key in ("from", "value")} for each in asked]
        names = [name and Path(name).name for name in images]
        datasets.Dataset.from_dict({"images": names, "messages": columns}).to_parquet(image_folder / "table.parquet")
        source = f"datasets:{image_folder}/table.parquet:train"
    conversations = load_conversations(source)
    assert [contents(conversations[index])[-1] for index in range(4)] == [
        [text("It.")],
        [text("Hi")],
        [text("Hi")],
        [text("It.")],
    ]
    assert conversations[0]["images"][0].getpixel((0, 0)) == RED
    assert [name.removeprefix(source) for name in conversations.bad.samples] == [": sample 1", ": sample 3"]
    assert conversations.words(0) == ["<image>\nWhat?", "It."]


def test_tables_without_conversations(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t.parquet: has no column conversations or messages .*, but text"):
        load_conversations(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_conversations(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="there is no such file"):
        load_conversations(tmp_path / "gone.parquet")


def test_images_within_the_messages_of_a_table(tmp_path, image_folder):
    part = {"type": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    features = datasets.Features({"messages": datasets.List({"role": datasets.Value("string"), "content": [part]})})
    asked = [{"type": "image", "text": None, "image": str(image_folder / "red.png")}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": "It."}]}]
    datasets.Dataset.from_dict({"messages": [messages]}, features).to_parquet(tmp_path / "t.parquet")
    conversation = load_conversations(tmp_path / "t.parquet")[0]
    assert contents(conversation) == ASKED
    assert conversation["images"][0].getpixel((0, 0)) == RED
