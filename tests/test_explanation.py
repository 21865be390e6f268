"""Where a model looked for an answer: in Python, on the command line, in a session, and whether it is true."""

from __future__ import annotations

import io
import json

import pytest
import torch
import transformers
from PIL import Image

from data import InputError
from data.synthetic.datasets import SceneQuestions
from data.synthetic.questions import CATEGORIES
from data.synthetic.scene import SceneConfig, make_scene
from encoder.image_processing import SparseFormerImageProcessor, seen_box
from encoder.visualize import draw_heat
from mllm import explain
from mllm.cli import main
from mllm.explanation import Reading, draw, occlusion, split_words
from mllm.generation import answer, question
from mllm.lab.looking import attention, chance, contrast, gradient, weights_on_objects, zeroing
from mllm.loading import load_model
from mllm.serving.chat import Chat
from mllm.serving.terminal import converse
from tests import tiny
from tests.shapes import EXAMPLES, MODEL

SCENE = EXAMPLES / "scene-1.png"


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model(model_dir, device="cpu")


@pytest.fixture(scope="module")
def embedded():
    return load_model(MODEL, device="cpu")


def check(explanation, images: list[Image.Image], tokens: int, resolution: int = 64) -> None:
    """Shapes and sums."""
    words = len(explanation.words)
    assert words == len(explanation.answer.split()) > 0
    totals = torch.zeros(words)
    for index, image in enumerate(images):
        weights, pixels = explanation.token_weights[index], explanation.pixel_weights[index]
        height, width = pixels.shape[1:]
        assert max(height, width) == resolution
        assert abs(height / width - image.height / image.width) < 1 / resolution
        assert weights.shape == (words, tokens)
        assert explanation.rois[index].shape == (tokens, 4)
        assert weights.min() >= 0
        assert pixels.min() >= 0
        torch.testing.assert_close(pixels.sum(dim=(1, 2)), torch.ones(tokens))
        torch.testing.assert_close(explanation.heat(index).sum(dim=(1, 2)), weights.sum(dim=1))
        totals += weights.sum(dim=1)
    torch.testing.assert_close(totals, torch.ones(words))


@pytest.mark.parametrize("weigh", [occlusion, zeroing, gradient, contrast, attention], ids=lambda weigh: weigh.__name__)
def test_two_images(loaded, weigh):
    images = [tiny.image(0), tiny.image(1, 30, 50)]
    talk = question("Compare.", images)
    found = explain(*loaded, talk, "a red one", resolution=40, weigh=weigh)
    check(found, images, tiny.TOKENS, 40)
    again = explain(*loaded, talk, "a red one", resolution=40, weigh=weigh)
    assert all(
        torch.equal(first, second) for first, second in zip(found.token_weights, again.token_weights, strict=True)
    )
    drawn = draw(found, images)
    assert drawn.height > 2 * 288
    assert drawn.width > 4 * 200


def test_the_models_own_answer_and_later_turns(loaded):
    talk = question("Is it red?", [tiny.image(0)])
    said = answer(*loaded, [talk], max_new_tokens=8)[0]
    found = explain(*loaded, talk, max_new_tokens=8)
    assert found.answer == said
    check(found, talk["images"], tiny.TOKENS)
    talk["messages"] += [tiny.assistant("Yes."), tiny.user("And large?")]
    assert explain(*loaded, talk, "It is large.").words == ["It", "is", "large."]


def test_occlusion_is_what_leaving_a_token_out_does(embedded):
    """By hand: the rows of a batch with the token's embedding where no one can attend to it."""
    model, processor = embedded
    scene = make_scene("test", 3)
    found = explain(model, processor, question("how many objects are there?", [scene.image()]), "2")
    assert found.token_weights[0].shape == (1, 16)

    def lazy(model: torch.nn.Module, reading: Reading) -> torch.Tensor:
        whole = reading.log_probability(model, reading.embeddings[None])
        rows = []
        for place in reading.places.tolist():
            mask = torch.ones(1, len(reading.embeddings))
            mask[0, place] = 0
            noise = reading.embeddings.clone()
            noise[place] = 100 * torch.randn(noise.shape[1])
            rows.append(whole - reading.log_probability(model, noise[None], mask))
        return torch.cat(rows).T.clamp(min=0)

    with torch.no_grad():
        slow = explain(model, processor, question("how many objects are there?", [scene.image()]), "2", weigh=lazy)
    torch.testing.assert_close(slow.token_weights[0], found.token_weights[0], atol=1e-4, rtol=1e-3)


def test_words_are_tokens_between_blanks(tokenizer_dirs, kind):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_dirs / kind)
    ids = tokenizer("Yes, there is one.", add_special_tokens=False)["input_ids"]
    words, members = split_words(tokenizer, ids)
    assert words == ["Yes,", "there", "is", "one."]
    assert members.sum(dim=0).tolist() == [1] * len(ids)
    for word, row in zip(words, members, strict=True):
        assert tokenizer.decode([token for token, belongs in zip(ids, row, strict=True) if belongs]).strip() == word


@pytest.mark.parametrize(
    ("strategy", "projector", "tokens"),
    [("full", "linear", 17), ("default", "linear", 16), ("default", "pixel_shuffle", 4)],
)
def test_a_dense_tower_has_cells(tmp_path, clip_dir, language_model_dir, strategy, projector, tokens):
    options = {"projector": projector, "vision_feature_select_strategy": strategy}
    loaded = load_model(tiny.model(tmp_path / "model", clip_dir, language_model_dir, **options))
    image = tiny.image(0, 32, 32)
    found = explain(*loaded, question("Is it red?", [image]), "Yes.", resolution=8)
    check(found, [image], tokens, 8)
    side = int((tokens - tokens % 2) ** 0.5)
    cells = found.pixel_weights[0][tokens % 2 :]
    expected = (
        torch.eye(side * side)
        .view(side * side, side, side)
        .repeat_interleave(8 // side, 1)
        .repeat_interleave(8 // side, 2)
    )
    torch.testing.assert_close(cells, expected / (8 // side) ** 2)
    if strategy == "full":  # the class token's weight is spread over the image
        assert found.rois[0][0].tolist() == [0, 0, 1, 1]
        torch.testing.assert_close(found.pixel_weights[0][0], torch.full((8, 8), 1 / 64))


def test_what_cannot_be_explained(tmp_path, loaded, encoder_dir, language_model_dir):
    talk = question("Is it red?", [tiny.image(0)])
    with pytest.raises(InputError, match="no image"):
        explain(*loaded, question("Say yes."), "Yes.")
    with pytest.raises(InputError, match="no words"):
        explain(*loaded, talk, " ")
    mixed = tiny.model(
        tmp_path, encoder_dir, language_model_dir, projector="resampler", projector_options={"queries": 5}
    )
    with pytest.raises(InputError, match="'resampler'"):
        explain(*load_model(mixed), talk, "Yes.")


# ------------------------------------------------------------------------------------------------------ coordinates


def test_the_seen_part_of_an_image():
    cropped = SparseFormerImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    assert seen_box(cropped, 200, 100) == (0.25, 0, 0.75, 1)
    assert seen_box(cropped, 100, 400) == (0, 0.375, 1, 0.625)
    squashed = SparseFormerImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    assert seen_box(squashed, 200, 100) == (0, 0, 1, 1)
    margin = SparseFormerImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 20, "width": 20})
    assert seen_box(margin, 100, 100) == (0.25, 0.25, 0.75, 0.75)


def test_weights_lie_in_what_is_seen_of_the_whole_image(loaded):
    image = tiny.image(0, 128, 32)
    found = explain(*loaded, question("Is it red?", [image]), "Yes.")
    seen = found.pixel_weights[0][:, :, 24:40]  # the middle quarter, of 64 columns
    assert found.rois[0][0].tolist() == [0.375, 0, 0.625, 1]
    assert seen[0].sum() == pytest.approx(1)
    assert seen.sum(dim=(1, 2)).min() > 0.75  # points are spread a little


# ---------------------------------------------------------------------------------------------------------- pictures


def test_a_panel_is_light_where_the_heat_is():
    heat = torch.zeros(8, 8)
    heat[2:4, 4:6] = 1
    image = Image.new("RGB", (64, 64), (200, 200, 200))
    sheet = draw_heat(image, torch.tensor([[0, 0, 1, 1]]), [(heat, "first"), (heat, "second")], panel=100).convert("L")
    left = sheet.width // 2 + 4 + 8  # of the second panel's image, margins of 8 pixels
    light = [sheet.getpixel((left + x, 8 + 22 + 8 + y)) for x, y in ((62, 37), (20, 80), (20, 37), (62, 80))]
    assert light[0] > 150
    assert max(light[1:]) < 80


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (300, 2)])
def test_thin_images_are_drawn_too(loaded, size):
    image = Image.new("L", size, 100)
    found = explain(*loaded, question("Is it red?", [image]), "Yes.")
    torch.testing.assert_close(found.heat().sum(), torch.tensor(1.0))
    assert min(draw(found, [image]).size) > 20


def test_of_many_words_those_are_drawn_that_depend_most_on_the_image(loaded):
    image = tiny.image(0)
    few, many = (explain(*loaded, question("Is it red?", [image]), "red " * count) for count in (15, 40))
    assert draw(few, [image]).size == draw(many, [image]).size


def test_chat_shows_where_it_looked(tmp_path, capsys):
    asked = ["chat", "--image", str(SCENE), "--prompt", "how many objects are there?"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert main([*asked, "--show", str(tmp_path / "shown.png")]) == 0
    assert capsys.readouterr().out == said
    with Image.open(tmp_path / "shown.png") as drawn:
        assert drawn.width > 2 * 288
    assert [file.name for file in tmp_path.iterdir()] == ["shown.png"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["--prompt", "what?", "--image", str(SCENE), "--show", "no/such/a.png"],
            "--show no/such/a.png: no such directory",
        ),
        (["--image", str(SCENE), "--show", "a.png"], "--show needs --image and --prompt"),
        (["--prompt", "what?", "--text-only", "--show", "a.png"], "--show needs --image and --prompt"),
    ],
)
def test_mistakes_are_one_line(given, words, capsys):
    assert main(["chat", *given]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert words in told.err


def test_show_in_a_session(loaded, tmp_path, capsys):
    file, theirs = tmp_path / "shown.png", tmp_path / "theirs.png"
    tiny.image(0).save(tmp_path / "image.png")
    theirs.write_bytes(b"an image")
    chat = Chat(*loaded, max_new_tokens=8)
    image = f"/image {tmp_path / 'image.png'}"
    lines = [f"/show {file}", image, "Is it red?", image, f"/show {file}", f"/show {theirs}", "/show /no/such/a.png"]
    converse(chat, io.StringIO("".join(f"{line}\n" for line in [*lines, f"/show {file}"])), io.StringIO())
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [line.partition(";")[0] for line in told] == [
        "error: there is no answer yet in which to show where the model looked",
        f"error: /show {theirs}: is there already",
        "error: /show /no/such/a.png: No such file or directory",
    ]
    with Image.open(file) as drawn:
        assert drawn.height < 2 * 288  # one image belongs to the question, the other to the next
    assert theirs.read_bytes() == b"an image"


# ------------------------------------------------------------------------------------------------------- measurement


def test_questions_know_what_they_are_about():
    scenes, seen = SceneQuestions("test", 280, SceneConfig()), set()
    for index in range(len(scenes)):
        asked, scene = scenes.question(index), scenes.scene(index)
        if asked.region is None:
            assert asked.category not in ("color", "shape", "read")
            continue
        assert (scene.mask() == asked.region).any()
        seen.add(asked.category)
        if asked.category == "read":
            assert asked.region == 255
            continue
        item = scene.objects[asked.region - 1]
        if asked.category in ("color", "shape"):
            assert getattr(item, asked.category) == asked.answer
        elif asked.category == "compare":
            assert item.size == asked.answer
        else:
            assert asked.answer in item.quadrant
    assert seen == set(CATEGORIES) - {"exists", "count"}


def test_answers_depend_on_what_they_are_about(embedded):
    """The mean of 60 questions has a standard error of about two points."""
    found = weights_on_objects(*embedded, "test", 60, weighs={"occlusion": occlusion, "chance": chance})
    row = found["all"]
    assert row["questions"] == 60
    assert sum(each["questions"] for each in found.values()) == 3 * 60
    assert found["right"]["questions"] > 30
    assert row["occlusion"]["inside"] > 1.5 * row["area"]
    assert row["occlusion"]["inside"] > row["chance"]["inside"]


def test_the_measurement_as_a_command(tmp_path, capsys):
    out = tmp_path / "looked.json"
    assert main(["rois", "--model", str(MODEL), "--count", "2", "--answers", "5", "--json", str(out)]) == 0
    answers = json.loads(out.read_text())["answers"]
    assert answers["all"]["questions"] == 5
    assert "heaviest pixel" in capsys.readouterr().out


def test_chance_are_random(loaded):
    talk = question("Is it red?", [tiny.image(0)])
    first, second = (explain(*loaded, talk, "Yes.", weigh=chance).token_weights[0] for _ in range(2))
    assert not torch.equal(first, second)
