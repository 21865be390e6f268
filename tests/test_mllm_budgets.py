"""A number of tokens and a size for each image, through processor, generation, chat, evaluation and training."""

from __future__ import annotations

import io
import json

import pytest
import torch
import transformers

from data import InputError
from data.sources import open_conversations
from mllm.cli import main
from mllm.commands.options import counts
from mllm.finetuning.budgets import ImageBudgets
from mllm.finetuning.data import Collator, EncodedConversations
from mllm.generation import answer, prepare, question
from mllm.loading import load_model
from mllm.processing import focus_rois
from mllm.prompts import encode_conversation
from mllm.serving.chat import Chat
from mllm.serving.terminal import converse
from tests import recipes, tiny

MOST = 9
GREEDY = {"max_new_tokens": 6, "do_sample": False}
TEXT = "USER: <image> What? ASSISTANT:"


@pytest.fixture(scope="module")
def loaded(elastic_dir):
    return load_model(elastic_dir, device="cpu")


def looked_at(conversation: dict, **options) -> dict:
    return {**conversation, **options}


# -------------------------------------------------------------------------------------------------------- processor


def test_the_processor_leaves_room_for_what_is_asked(loaded):
    model, processor = loaded
    for num_tokens, expected in ((None, [MOST, MOST]), (4, [4, 4]), ([3, 8], [3, 8])):
        images = [tiny.image(1), tiny.image(2)]
        batch = processor(images, [TEXT, TEXT], num_tokens=num_tokens, return_tensors="pt", padding=True)
        assert (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == expected
        logits = model(**batch).logits
        assert logits.isfinite().all()
    sized = processor(tiny.image(1, 90, 40), TEXT, image_size=60, num_tokens=3, return_tensors="pt")
    assert sized["image_sizes"].tolist() == [[40, 90]]
    assert model(**sized).logits.isfinite().all()
    assert processor._get_num_multimodal_tokens([(32, 32)], num_tokens=4).num_image_tokens == [4]


@pytest.mark.parametrize("count", [0, 1, MOST + 1])
def test_impossible_budgets_are_one_line(loaded, count):
    _, processor = loaded
    with pytest.raises(InputError, match=f"num_tokens={count}: choose at least 2 and at most {MOST}"):
        processor(tiny.image(1), TEXT, num_tokens=count)


def test_a_model_of_one_budget_says_so(model_dir):
    _, processor = load_model(model_dir, device="cpu")
    processor(tiny.image(1), TEXT, num_tokens=tiny.TOKENS)
    with pytest.raises(InputError, match="num_tokens=3: an image of this model always has 5"):
        processor(tiny.image(1), TEXT, num_tokens=3)


def test_the_budget_is_saved_with_the_processor(loaded, elastic_dir):
    _, processor = loaded
    saved = json.loads((elastic_dir / "processor_config.json").read_text())
    assert (saved["num_image_tokens"], saved["min_image_tokens"]) == (MOST, 2)
    assert transformers.AutoProcessor.from_pretrained(elastic_dir).min_image_tokens == processor.min_image_tokens == 2


# ------------------------------------------------------------------------------------------------------- generation


def test_an_answer_does_not_depend_on_its_batch(loaded):
    asked = [
        looked_at(question("Is it red?", [tiny.image(0)]), num_tokens=[3]),
        looked_at(question("Compare.", [tiny.image(1), tiny.image(2)]), num_tokens=[2, 9], image_size=48),
        looked_at(question("How many?", [tiny.image(3, 90, 31)]), image_size=40, focus_rois=[[[0, 0, 0.5, 0.5]]]),
        question("Say yes."),
    ]
    alone = [answer(*loaded, [each], max_new_tokens=6)[0] for each in asked]
    assert answer(*loaded, asked, max_new_tokens=6) == alone
    whole = [looked_at(each, num_tokens=[MOST] * len(each["images"])) for each in asked[:2]]
    assert answer(*loaded, whole, max_new_tokens=6) != alone[:2]


def test_a_short_budget_is_short_in_the_encoder(loaded):
    model, processor = loaded
    seen, first = [], model.model.vision_tower.cortex[0]
    hook = first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    answer(model, processor, [looked_at(question("Red?", [tiny.image(0)]), num_tokens=[3])], max_new_tokens=1)
    hook.remove()
    assert seen == [3]


def test_beams_with_several_budgets(loaded):
    model, processor = loaded
    asked = [looked_at(question("Compare.", [tiny.image(i), tiny.image(2)]), num_tokens=[3, 2 + i]) for i in (0, 4)]
    beams = model.generate(**prepare(processor, asked), max_new_tokens=4, num_beams=2, num_return_sequences=2)
    alone = model.generate(**prepare(processor, asked[1:]), max_new_tokens=4, num_beams=2, num_return_sequences=2)
    assert torch.equal(beams[-2:, -alone.shape[1] :], alone)


def test_pipeline_takes_a_budget(loaded, elastic_dir):
    ask = transformers.pipeline("image-text-to-text", model=str(elastic_dir))
    parts = [{"type": "image", "image": tiny.image(0)}, {"type": "text", "text": "Is it red?"}]
    messages = [{"role": "user", "content": parts}]
    more = {"return_full_text": False, "generate_kwargs": GREEDY}
    for count, size in ((3, 48), (MOST, 40)):
        look = {"num_tokens": count, "image_size": size}
        said = ask(text=messages, processor_kwargs=dict(look), **more)[0]["generated_text"]
        expected = question("Is it red?", [tiny.image(0)], **look)
        assert said.strip() == answer(*loaded, [expected], max_new_tokens=6)[0]


# ------------------------------------------------------------------------------------------------------------- chat


def session(chat: Chat, *lines: str) -> list[str]:
    out = io.StringIO()
    converse(chat, io.StringIO("".join(f"{line}\n" for line in lines)), out)
    return out.getvalue().splitlines()


def test_budgets_of_a_session(loaded, tmp_path, capfd):
    files = [str(tmp_path / f"{index}.png") for index in range(2)]
    for index, file in enumerate(files):
        tiny.image(index).save(file)
    chat = Chat(*loaded, max_new_tokens=6, num_tokens=5)
    lines = [f"/image {files[0]}", "Is it red?", "/tokens 3", f"/image {files[1]}", "/tokens 9 2", "Compare."]
    for box in ("/focus 0.5,0,1,0.5", "/focus 0,0,0.5,0.5", "/focus"):
        lines += [box, "Is it red?"]
    said = session(chat, *lines)
    assert chat.tokens == [3, 9]
    # without any cache of what was said before, the same conversation gets the same answers
    boxes = [None, None, [0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 0.5, 0.5], None]
    for turn, (words, box) in enumerate(zip(said, boxes, strict=True)):
        alone: dict = {"messages": chat.messages[: 2 * turn + 1], "images": [tiny.image(0), tiny.image(1)]}
        alone["num_tokens"] = [3, 9]
        if turn == 0:
            alone |= {"images": alone["images"][:1], "num_tokens": [5]}
        if box is not None:
            alone["focus_rois"] = [[], focus_rois(box)]
        assert words.strip() == answer(*loaded, [alone], max_new_tokens=6)[0], turn
    capfd.readouterr()
    session(chat, "/tokens", "/tokens many", "/tokens 40", "/tokens 3 7", "/focus 1,2,3", "/focus 0.5,0,0.2,1")
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 6
    assert "at most 9" in errors[2]
    assert "image=7" in errors[3]


@pytest.mark.parametrize("flags", [["--tokens", "3"], ["--image-size", "48"], ["--focus", "0,0,0.5,0.5"]])
def test_flags_of_chat(flags, elastic_dir, loaded, tmp_path, capfd):
    tiny.image(0).save(tmp_path / "0.png")
    command = ["chat", "--model", str(elastic_dir), "--image", str(tmp_path / "0.png"), "--prompt", "Is it red?"]
    assert main([*command, *flags, "--max-new-tokens", "6"]) == 0
    chat = Chat(*loaded, max_new_tokens=6)
    chat.show(str(tmp_path / "0.png"))
    if flags[0] == "--tokens":
        chat.set_tokens(3)
    elif flags[0] == "--focus":
        chat.set_focus([0, 0, 0.5, 0.5])
    else:
        chat.image_size = 48
    assert capfd.readouterr().out == f"{chat.ask('Is it red?')}\n"


# ------------------------------------------------------------------------------------------------- evaluation, costs


def test_a_curve_in_one_run(elastic_dir, tmp_path, capfd):
    command = ["eval", "synthetic", "--model", str(elastic_dir), "--count", "7", "--batch-size", "4"]
    out, figures = tmp_path / "out", tmp_path / "curve.json"
    assert main([*command, "--tokens", "3,9", "--image-size", "48", "--out", str(out), "--json", str(figures)]) == 0
    assert "3 tokens an image" in capfd.readouterr().out
    budgets = json.loads(figures.read_text())["budgets"]
    assert [each["tokens_per_image"] for each in budgets] == [3, 9]
    assert [each["image_size"] for each in budgets] == [48, 48]
    assert main([*command, "--tokens", "3", "--image-size", "48", "--json", str(tmp_path / "one.json")]) == 0
    alone = json.loads((tmp_path / "one.json").read_text())
    assert [each["text"] for each in alone["answers"]] == [each["text"] for each in budgets[0]["answers"]]
    assert json.loads((out / "tokens-9" / "result.json").read_text())["tokens_per_image"] == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["eval", "synthetic", "--tokens", "0"], "must be at least 1"),
        (["eval", "synthetic", "--tokens", "few"], "invalid"),
        (["eval", "synthetic", "--tokens", "4,99"], "num_tokens=99: choose at least 2 and at most 9"),
        (["chat", "--tokens", "99"], "num_tokens=99: choose at least 2 and at most 9"),
        (["chat", "--tokens", "x"], "invalid"),
        (["chat", "--focus", "here"], "focus here: give x1,y1,x2,y2"),
    ],
)
def test_impossible_budgets_on_the_command_line(flags, message, elastic_dir, capfd):
    try:
        code = main([*flags, "--model", str(elastic_dir), *(["--text-only"] if flags[0] == "chat" else [])])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    assert message in capfd.readouterr().err


def test_a_list_of_numbers():
    assert counts("4,16,64") == [4, 16, 64]


def test_what_a_short_budget_costs(elastic_dir, capfd):
    reports = []
    for flags in ([], ["--tokens", "3"]):
        assert main(["info", str(elastic_dir), "--json", *flags]) == 0
        reports.append(json.loads(capfd.readouterr().out))
    assert [report["visual_tokens"] for report in reports] == [MOST, 3]
    assert reports[1]["macs"]["encoder"]["total"] < reports[0]["macs"]["encoder"]["total"]
    assert main(["info", str(elastic_dir), "--tokens", "10"]) == 2
    assert "--tokens=10: choose at least 2 and at most 9" in capfd.readouterr().err


# --------------------------------------------------------------------------------------------------------- training


def test_budgets_are_drawn_for_each_image_and_again_in_each_epoch():
    budgets = ImageBudgets((4, 64), "uniform", (24, 48), seed=3)
    drawn = [budgets.draw(index, 2) for index in range(500)]
    assert drawn == [ImageBudgets((4, 64), "uniform", (24, 48), seed=3).draw(index, 2) for index in range(500)]
    tokens = torch.tensor([each["num_tokens"] for each in drawn]).double()
    assert tokens.min() == 4
    assert tokens.max() == 64
    assert abs(tokens.mean() - 34) < 3
    assert {each["image_size"] for each in drawn} <= set(range(24, 49))
    budgets.epoch.fill_(1)
    assert drawn != [budgets.draw(index, 2) for index in range(500)]
    logarithmic = ImageBudgets((4, 64), "log_uniform", seed=3)
    few = sum(logarithmic.draw(index, 1)["num_tokens"][0] < 16 for index in range(500))
    assert 200 < few < 300
    assert ImageBudgets().draw(0, 2) == {}
    parts = [ImageBudgets(focus=0.3, seed=3).draw(index, 1)["focus_rois"][0] for index in range(500)]
    assert 120 < sum(map(bool, parts)) < 180
    for rois in filter(None, parts):
        part, *quarters = torch.tensor(rois).view(-1, 2, 2)
        assert part.min() >= 0
        assert part.max() <= 1
        assert all(torch.allclose(quarter.diff(dim=0), part.diff(dim=0) / 2) for quarter in quarters)


def test_a_batch_of_several_budgets_trains_as_its_samples_do(loaded, data):
    model, processor = loaded
    conversations = open_conversations([data])
    budgets = ImageBudgets((2, MOST), size=(24, 48), focus=0.5, seed=1)
    encoded = EncodedConversations(conversations, processor, budgets=budgets)
    samples = [encoded[index] for index in range(4)]
    counts_ = [count for sample in samples for count in sample.get("num_tokens", torch.empty(0)).tolist()]
    assert len(set(counts_)) > 1
    losses = [model(**Collator(0)([sample])).loss for sample in samples]
    lengths = [(sample["labels"][1:] != -100).sum() for sample in samples]
    expected = sum(loss * length for loss, length in zip(losses, lengths, strict=True)) / sum(lengths)
    for packing in (False, True):
        together = model(**Collator(0, packing)(samples), use_cache=False).loss
        torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)


def test_what_is_trained_is_what_is_asked(loaded):
    _, processor = loaded
    asked = looked_at(question("Is it red?", [tiny.image(0)]), num_tokens=[4], image_size=40)
    talk = {**asked, "messages": [*asked["messages"], tiny.assistant("Yes.")]}
    trained, prompt = encode_conversation(processor, talk), prepare(processor, [asked])
    length = int((trained["labels"] == -100).sum())
    assert trained["input_ids"][:length].tolist() == prompt["input_ids"][0].tolist()
    for name in ("pixel_values", "image_sizes", "num_tokens"):
        assert torch.equal(trained[name], prompt[name])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_tokens": [8, 4]}, "image_tokens=[8, 4]: give [number], or [least, most]"),
        ({"image_tokens": [0]}, "image_tokens=0: choose at least 1"),
        ({"image_tokens": [4, 10]}, "image_tokens=10: choose at least 2 and at most 9"),
        ({"image_sizes": [0, 4]}, "image_sizes=0: choose at least 1"),
        ({"image_focus": 2.0}, "image_focus=2.0: choose at least 0 and at most 1"),
        ({"draws": "often"}, "draws: 'often' is none; it is one of uniform, log_uniform"),
    ],
)
def test_recipes_that_cannot_be(values, message, elastic_dir, data, tmp_path, capfd):
    recipe = {"stage": "lora", "model": str(elastic_dir), "data": [data], "output": str(tmp_path / "out")}
    path = recipes.write(tmp_path, {**recipe, "trainer": recipes.TRAINER}, **values)
    assert main(["finetune", str(path)]) == 2
    assert message in capfd.readouterr().err


def test_training_with_random_budgets(elastic_dir, data, tmp_path):
    recipe = {"stage": "full", "model": str(elastic_dir), "data": [data], "output": str(tmp_path / "out")}
    recipe |= {"image_tokens": [2, MOST], "image_sizes": [24, 48], "train_encoder": True, "trainer": recipes.TRAINER}
    assert main(["finetune", str(recipes.write(tmp_path, recipe))]) == 0
    assert load_model(tmp_path / "out", device="cpu")[1].min_image_tokens == 2
