"""Places in images: they refer to the original in data, training and answers, whatever the image processor cuts off."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, CLIPImageProcessor, SiglipImageProcessor

from data import BadSamples, InputError, load_conversations
from data.benchmarks import build_benchmark
from data.places import find_places, from_view, map_places, overlap, split_places, to_view, write_place
from data.synthetic.datasets import SceneConversations, SceneQuestions, SceneTurns
from data.synthetic.export import export_scenes
from data.synthetic.questions import CATEGORIES, make_questions, text_only_baseline
from data.synthetic.scene import SceneConfig, make_scene
from encoder import SparseFormerImageProcessor
from encoder.image_processing import seen_box, trimmed
from encoder.visualize import draw_places
from mllm.cli import main
from mllm.finetuning.data import EncodedConversations
from mllm.generation import answer, prepare, question
from mllm.loading import load_model
from mllm.prompts import encode_conversation
from mllm.serving.chat import Chat
from mllm.serving.terminal import converse
from mllm.templates import CHAT_TEMPLATES
from tests import tiny
from tests.benchmark_files import turns, write

# ------------------------------------------------------------------------------------------------- texts and figures


def test_places_of_a_text():
    text = "a [100, 0, 1000, 500], b [7, 8]; not [1,2], [1, 2, 3], [1, 2000] or [0.1, 0.2]"
    assert find_places(text) == [(0.1, 0.0, 1.0, 0.5), (0.007, 0.008)]
    assert find_places(text, (200, 50)) == [(20.0, 0.0, 200.0, 25.0), (pytest.approx(1.4), pytest.approx(0.4))]
    assert map_places(text, lambda place: place) == text
    parts = split_places(text, 3)
    assert "".join(part.get("text") or write_place(part["place"]) for part in parts) == text
    assert [part["image"] for part in parts if part["type"] == "place"] == [3, 3]
    assert split_places("") == [{"type": "text", "text": ""}]
    assert write_place((-0.2, 0.4996, 1.2, 0.5)) == "[0, 500, 1000, 500]"


def test_overlap_by_hand():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(2 / 6)
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert overlap((0, 0, 1, 1), (1, 1, 2, 2)) == overlap((0, 0, 1, 1), (2, 0, 3, 1)) == 0
    assert overlap((0.5, 0.5), (0, 0, 1, 1)) == overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_view_by_hand():
    view = (0.25, 0.0, 0.75, 1.0)
    assert to_view((0.25, 0.1, 0.5, 0.9), view) == (0.0, 0.1, 0.5, 0.9)
    assert to_view((0.0, 0.1, 0.6, 0.9), view) == pytest.approx((0.0, 0.1, 0.7, 0.9))  # clipped
    assert to_view((0.0, 0.1, 0.4, 0.9), view) is None  # its center is not seen
    assert to_view((0.8, 0.5), view) is None
    assert from_view((0.0, 0.1, 0.5, 0.9), view) == (0.25, 0.1, 0.5, 0.9)
    assert from_view((1.0, 1.0), view) == (0.75, 1.0)


# ------------------------------------------------------------------------------------ pixels through image processors

PROCESSORS = {
    "sparseformer": SparseFormerImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
    "resize and crop less": SparseFormerImageProcessor(),
    "crop of a larger one": SparseFormerImageProcessor(
        size={"shortest_edge": 75}, crop_size={"height": 64, "width": 64}
    ),
    "squash": SparseFormerImageProcessor(size={"height": 64, "width": 48}, do_center_crop=False),
    "as it is": SparseFormerImageProcessor(do_resize=False, do_center_crop=False),
    "crop alone": SparseFormerImageProcessor(do_resize=False, crop_size={"height": 80, "width": 90}),
    "larger crop": SparseFormerImageProcessor(size={"shortest_edge": 61}, crop_size={"height": 96, "width": 96}),
    "clip": CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
    "siglip": SiglipImageProcessor(size={"height": 64, "width": 64}),
    "dinov2": BitImageProcessor(size={"shortest_edge": 73}, crop_size={"height": 64, "width": 64}),
}


@pytest.mark.parametrize("size", [(333, 1000), (1000, 333), (97, 131), (131, 97), (64, 64), (65, 64), (3000, 20)])
@pytest.mark.parametrize("name", list(PROCESSORS))
def test_a_box_is_where_it_is_drawn_to_within_a_pixel(name, size):
    """Drawn in the original, found again in the pixels that the model gets, and back."""
    processor, (width, height), shorter = PROCESSORS[name], size, min(size)
    box = (
        int(width / 2 - 0.3 * shorter),
        int(height / 2 - 0.2 * shorter),
        int(width / 2 + 0.1 * shorter),
        int(height / 2 + 0.4 * shorter),
    )
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    values = processor(trimmed([Image.fromarray(image)], processor), return_tensors="pt")["pixel_values"][0][0]
    seen = (values > (values.max() + values.min()) / 2).numpy()
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)

    view = seen_box(processor, width, height)
    out = (seen.shape[1], seen.shape[0]) * 2
    place = tuple(value / side for value, side in zip(box, size * 2, strict=True))
    mapped = [value * side for value, side in zip(to_view(place, view), out, strict=True)]
    assert mapped == pytest.approx(found, abs=1)
    back = from_view(tuple(value / side for value, side in zip(found, out, strict=True)), view)
    pixel = max(size[axis] * (view[axis + 2] - view[axis]) / out[axis] for axis in (0, 1))  # of those seen
    clipped = from_view(to_view(place, view), view)
    for value, right, side in zip(back, clipped, size * 2, strict=True):
        assert value * side == pytest.approx(right * side, abs=max(pixel, 1))


# ----------------------------------------------------------------------------------------------------------- the data

OBJECTS = {"ref": ["a dog", "its ear"], "bbox": [[12, 8, 36, 24], [20, 16]]}


def record(said: str = "<ref-object> <bbox>, <ref-object> <bbox>.", asked: str = "<image>\nWhat?", **objects) -> dict:
    return {"id": "a", "image": "a.png", "conversations": turns(asked, said), "objects": {**OBJECTS, **objects}}


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny.image(0, width=48, height=32).save(tmp_path / "a.png")
    tiny.image(1, width=32, height=96).save(tmp_path / "b.png")
    return tmp_path


def test_objects_become_parts_in_fractions_of_their_images(folder):
    first = record()
    second = {
        "images": ["a.png", "b.png"],
        "messages": [
            {"role": "user", "content": "<image><image>In <bbox>?"},
            {"role": "assistant", "content": "<bbox><bbox> \n<bbox> & <html> <ref-object>"},
        ],
        "objects": {"ref": ["x"], "bbox": [[24, 16], [0, 24, 16, 96], [0, 0, 48.5, 32], [1, 1]], "image_id": [0, 1]},
    }
    third = {**record(bbox_type="norm1", bbox=[[0.5, 0, 1, 1], [1, 0.5]]), "image": "b.png"}
    plain = {"conversations": turns("What?", "None."), "objects": {"ref": [], "bbox": None}}
    fourth = {"conversations": turns("What is <bbox> in HTML?", "<bbox> is no tag.")}
    loaded = load_conversations(write(folder / "c.jsonl", [first, second, third, plain, fourth]))

    def said(index: int, turn: int = 1) -> list:
        parts = loaded[index]["messages"][turn]["content"]
        return [part.get("text") or (part.get("place"), part.get("image")) for part in parts]

    assert said(0) == ["a dog ", ((0.25, 0.25, 0.75, 0.75), 0), ", its ear ", ((20 / 48, 0.5), 0), "."]
    assert said(1, 0)[2:] == ["In ", ((0.5, 0.5), 0), "?"]
    assert said(1) == [((0, 0.25, 0.5, 1), 1), ((0, 0, 1, 1), 0), " \n", ((1 / 48, 1 / 32), 0), " & <html> x"]
    assert said(2)[1] == ((0.5, 0, 1, 1), 0)
    assert said(4) == ["<bbox> is no tag."]
    assert not loaded.bad.count


BAD = [
    ({"said": "<ref-object> <bbox>, <ref-object>."}, "2 boxes for 1 <bbox>"),
    ({"said": "<bbox><bbox><bbox> <ref-object><ref-object>"}, "2 boxes for 3 <bbox>"),
    ({"said": "<bbox> <bbox>"}, "2 names for 0 <ref-object>"),
    ({"ref": ["a <bbox>", "b"]}, "2 boxes for 3 <bbox>"),
    ({"bbox": [[30, 8, 49.5, 24], [1, 1]]}, "outside of its image of 48x32 pixels"),
    ({"bbox": [[-5, 8, 40, 24], [1, 1]]}, "outside of its image"),
    ({"bbox": [[0, 0, 0.5, 1.1], [1, 1]], "bbox_type": "norm1"}, "outside of 0 to 1"),
    ({"bbox": [[36, 8, 12, 24], [1, 1]]}, "ends before it begins"),
    ({"bbox": [[1, 1], [float("nan"), 1]]}, "not finite"),
    ({"bbox": [[1, 1], [1, 1, 2]]}, "no box and no point"),
    ({"bbox": [[1, 1], ["1", 1]]}, "no box and no point"),
    ({"bbox": "all"}, "objects: ref, bbox and image_id are lists"),
    ({"image_id": [0, 1]}, "in image 1, and there are 1"),
    ({"image_id": [-1, 0]}, "in image -1"),
    ({"bbox_type": "norm1000"}, "objects.bbox_type is 'norm1000'"),
]


def test_bad_objects_are_one_line_each_in_check_data_and_skipped_in_training(folder, capfd):
    good, odd = record(), {**record(), "objects": [[1, 2, 3, 4]]}
    path = write(folder / "c.jsonl", [good, *(record(**changes) for changes, _ in BAD), odd])
    assert main(["check-data", str(path), "--json", str(folder / "report.json"), "--show", "99"]) == 1
    report = json.loads((folder / "report.json").read_text())
    assert [(each["kind"], each["sample"]) for each in report["problems"]] == [
        ("objects", number) for number in range(1, len(BAD) + 2)
    ]
    for each, (changes, reason) in zip(report["problems"], BAD, strict=False):
        assert reason in each["reason"], changes
    assert "objects is not read" in report["problems"][-1]["reason"]
    printed = capfd.readouterr().out
    assert printed.count("\n  sample ") == len(BAD) + 1
    bad = BadSamples()
    loaded = load_conversations(path, bad=bad)
    assert {loaded[index]["id"] for index in range(len(loaded))} == {"a"}
    assert bad.count == len(BAD) + 1
    # what is known without opening images is known at once
    assert len(loaded.faults) == len(BAD) + 1 - sum("outside" in reason for _, reason in BAD)
    fast = main(["check-data", str(path), "--json", str(folder / "fast.json"), "--fast"])
    assert fast == 1
    assert json.loads((folder / "fast.json").read_text())["problems"] == report["problems"]


def test_objects_in_a_table(folder):
    import datasets

    rows = [{**record(), "image": str(folder / "a.png")}, {**record(), "image": str(folder / "a.png")}]
    datasets.Dataset.from_list(rows).to_parquet(folder / "c.parquet")
    loaded = load_conversations(folder / "c.parquet")
    assert loaded[1]["messages"][1]["content"][1]["place"] == (0.25, 0.25, 0.75, 0.75)


def test_boxes_are_of_the_image_as_it_is_opened(folder):
    """EXIF orientation 6: stored 32 x 96, opened 96 x 32."""
    image = Image.open(folder / "b.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    asked = {**record(bbox=[[48, 0, 96, 32], [96, 32]]), "image": "turned.jpg"}
    conversation = load_conversations(write(folder / "c.json", [asked]))[0]
    assert conversation["images"][0].size == (96, 32)
    assert conversation["messages"][1]["content"][1]["place"] == (0.5, 0, 1, 1)


# ----------------------------------------------------------------------------------------------------------- training


def rendered(processor, conversation) -> str:
    return processor.tokenizer.decode(encode_conversation(processor, conversation)["input_ids"])


def test_training_renders_places_in_what_is_seen(tokenizer_dirs, folder):
    """Images of 48x32 and 32x96 pixels, of which the middle 32x32 are seen."""
    processor = tiny.chat_processor(tokenizer_dirs, "bpe", CHAT_TEMPLATES["plain"])
    samples = [
        record(asked="<image>\nIn <bbox>?", said="<ref-object> <ref-object> <bbox>.", bbox=[[8, 8], [12, 8, 46, 24]]),
        record(bbox=[[1, 1, 8, 8], [20, 16]]),  # its center is cropped away
        {**record(bbox=[[0, 0, 47, 32], [20, 16]], image_id=[1]), "image": ["a.png", "b.png"]},
    ]
    samples[2]["conversations"][0]["value"] = "<image><image>\nWhat?"
    samples[2]["objects"]["bbox"][0] = [0, 24, 32, 64]
    bad = BadSamples()
    source = load_conversations(write(folder / "c.json", samples), bad=bad)
    assert "In [0, 250]? ASSISTANT: a dog its ear [125, 250, 1000, 750]." in rendered(processor, source[0])
    assert "a dog [0, 0, 1000, 1000], its ear [375, 500]." in rendered(processor, source[2])
    encoded = EncodedConversations(source, processor, bad=bad)
    assert torch.equal(encoded[1]["labels"], encoded[2]["labels"])  # the next good one
    ((name, reason),) = bad.samples.items()
    assert "sample 1" in name
    assert "[21, 31, 167, 250] lies outside of what the model sees of the image, [167, 0, 833, 1000]" in reason


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.fixture
def says(model_dir, monkeypatch):
    """The tiny model and its processor, and a list of what it says next; it sees the middle 32x32 pixels."""
    model, processor = load_model(model_dir, device="cpu")
    texts: list[str] = []

    def generate(input_ids, streamer=None, **_):
        said = processor.tokenizer(texts.pop(0), add_special_tokens=False, return_tensors="pt")["input_ids"]
        if streamer is not None:
            streamer.put(input_ids)
            for token in said[0]:
                streamer.put(token[None])
            streamer.end()
        return torch.cat((input_ids, said), dim=1)

    monkeypatch.setattr(model, "generate", generate)
    return SimpleNamespace(model=model, processor=processor, texts=texts)


WIDE, HIGH = tiny.image(0, width=64, height=32), tiny.image(1, width=32, height=64)


def test_answers_have_the_places_of_the_original(says):
    def ask(said: str, images: list) -> str:
        says.texts.append(said)
        return answer(says.model, says.processor, [question("Where?", images)])[0]

    said = "a [0, 0, 1000, 1000] b [500, 250], [1, 2, 3]"
    assert ask(said, [WIDE]) == "a [250, 0, 750, 1000] b [500, 250], [1, 2, 3]"
    assert ask(said, [HIGH]) == "a [0, 250, 1000, 750] b [500, 375], [1, 2, 3]"
    assert ask(said, [WIDE, HIGH]) == ask(said, [HIGH])  # of the last one
    assert ask(said, [tiny.image(0, width=32)]) == ask(said, []) == said


def test_questions_and_earlier_answers_are_put_into_what_is_seen(says):
    conversation = question("In [250, 0, 750, 1000] or [10, 20]?", [WIDE])
    conversation["messages"] += [tiny.assistant("[500, 500]"), tiny.user("And [0, 250, 1000, 750]?", images=1)]
    conversation["images"].append(HIGH)
    text = says.processor.tokenizer.decode(prepare(says.processor, [conversation])["input_ids"][0])
    for words in ("In [0, 0, 1000, 1000] or [10, 20]?", "[500, 500]", "And [0, 0, 1000, 1000]?"):
        assert words in text


def test_chat_streams_saves_and_draws_places_of_the_original(says, tmp_path, capfd):
    import io

    WIDE.save(tmp_path / "wide.png")
    chat, out = Chat(says.model, says.processor), io.StringIO()
    says.texts += ["It is [0, 0, 1000, 500] there [", "No."]
    lines = [
        f"/image {tmp_path / 'wide.png'}",
        "Where is [300, 0, 700, 1000]?",
        f"/save {tmp_path / 'talk.json'}",
        f"/show {tmp_path / 'drawn.png'}",
        "Sure?",
        f"/show {tmp_path / 'none.png'}",
    ]
    converse(chat, io.StringIO("".join(f"{line}\n" for line in lines)), out)
    assert out.getvalue() == "It is [250, 0, 750, 500] there [\nNo.\n"
    assert "error" not in capfd.readouterr().err
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))[:160, :320]  # five times as large
    plain = np.asarray(WIDE.resize((320, 160), Image.Resampling.NEAREST))
    assert (drawn[0, 80:241] != plain[0, 80:241]).any(axis=-1).all()
    assert np.array_equal(drawn[:, :78], plain[:, :78])
    assert np.array_equal(drawn[84:], plain[84:])
    without = np.asarray(Image.open(tmp_path / "none.png"))
    assert without.shape[0] < 160 + Image.open(tmp_path / "drawn.png").height
    assert not np.array_equal(without[:160, :320], drawn)
    parts = load_conversations(tmp_path / "talk.json")[0]["messages"][1]["content"]
    assert parts[1] == {"type": "place", "place": (0.25, 0, 0.75, 0.5), "image": 0}


def test_drawing_leaves_the_image_as_it_was():
    image = Image.new("L", (50, 40), 90)
    drawing = draw_places(image, [(-5, 3, 20, 90), (40, 30)])
    assert (drawing.size, drawing.mode) == ((50, 40), "RGB")
    assert image.getextrema() == (90, 90)
    assert drawing.getpixel((20, 10)) != (90, 90, 90) != drawing.getpixel((40, 30))
    assert drawing.getpixel((10, 20)) == (90, 90, 90)


# --------------------------------------------------------------------------------------------------- generated scenes


def test_boxes_and_points_are_asked_only_by_name():
    for index in range(40):
        assert {each.category for each in make_questions(make_scene("train", index))} <= {*CATEGORIES, "absent"}
    asked = SceneTurns(categories=["box", "point"], descriptions=0)
    conversations = SceneConversations("train", 60, SceneConfig(48, 96), asked=asked)
    seen = set()
    for index in range(60):
        scene = conversations.scene(index)
        for each in conversations.questions(index):
            seen.add(each.category)
            assert each.target is not None
            item = each.target.item
            assert each.region == scene.objects.index(item) + 1
            words = each.question.split("the ")[-1].split(".")[0].split("?")[0].removesuffix(" object").split()
            assert set(words) <= {item.size, item.color, item.shape}
            assert each.is_right(each.answer)
            (place,) = find_places(each.answer)
            if each.category == "box":
                assert place == pytest.approx(item.box, abs=0.001)
                assert not each.is_right(write_place((item.box[0], item.box[1], *item.center)))
            else:
                height, width = scene.mask().shape
                assert scene.mask()[int(place[1] * height), int(place[0] * width)] == each.region
                corner = (item.box[0] + 0.003, item.box[1] + 0.003)  # in the box, not on the object
                assert item.shape == "square" or not each.is_right(write_place(corner))
        message = conversations[index]["messages"][1]
        if conversations.questions(index):
            assert [part["type"] for part in message["content"]] == ["place"]
    assert seen == {"box", "point"}
    with pytest.raises(InputError, match="there is no 'boxes'"):
        SceneTurns(categories=["boxes"])


def test_the_guess_without_the_image_is_the_best_single_place():
    questions = SceneQuestions("test", 200, SceneConfig(48, 64), categories=["box", "point"]).questions()
    guess = text_only_baseline(questions)
    assert guess["box"] < 0.1
    assert 0.05 < guess["point"] < 0.4
    box, point = ([each for each in questions if each.category == name] for name in ("box", "point"))
    assert text_only_baseline([box[0]] * 3, [box[0], box[0], box[1]]) == {"box": 1.0}
    assert text_only_baseline([point[0]] * 3, [point[0], point[0], point[1]]) == {"point": 1.0}


def test_exported_scenes_are_read_as_they_were(tmp_path, capfd):
    command = ["synthetic", "--out", str(tmp_path / "s"), "--format", "llava", "--count", "12", "--size", "40x64"]
    assert main([*command, "--categories", "box+point+color"]) == 0
    loaded = load_conversations(capfd.readouterr().out.strip())
    asked = SceneTurns(descriptions=0, categories=["box", "point", "color"])
    scenes = SceneConversations("train", 12, SceneConfig(40, 64), asked=asked)
    for index in range(12):
        assert loaded[index]["messages"] == scenes[index]["messages"]
    with pytest.raises(InputError, match="belong to format llava"):
        export_scenes(tmp_path / "t", "folder", "train", 1, categories=["box"])


def test_benchmark_of_boxes_and_points(model_dir, tmp_path, capfd):
    out = tmp_path / "scores.json"
    command = ["eval", "synthetic", "--model", str(model_dir), "--count", "6", "--categories", "box+point"]
    assert main([*command, "--json", str(out), "--size", "32x64", "--objects", "1"]) == 0
    report = json.loads(out.read_text())
    assert [group["n"] for group in report["groups"].values()] == [3, 3, 6]
    assert "text-only baseline" in report["groups"]["point"]
    benchmark = build_benchmark("synthetic", count=12, categories="box", objects=1)
    asked = benchmark.read_questions(tmp_path, tmp_path)
    assert {len(each.fields["truth"].target.scene.objects) for each in asked} == {1}
    assert main(["eval", "synthetic", "--model", str(model_dir), "--categories", "boxes"]) == 2
    assert "there is no 'boxes'" in capfd.readouterr().err
