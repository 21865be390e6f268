"""The chat command: one answer, a session driven by a pipe, and errors that name the fix."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys

import pytest
import torch

from data.conversations import load_conversations
from mllm.cli import main
from mllm.generation import PrefixCache, answer, question
from mllm.loading import load_model
from mllm.prompts import encode_conversation, render_prompt
from mllm.serving.chat import Chat, Words
from mllm.serving.terminal import converse
from tests import tiny


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model(model_dir, device="cpu")


@pytest.fixture
def chat(loaded) -> Chat:
    return Chat(*loaded, max_new_tokens=8)


@pytest.fixture(scope="module")
def image_files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for index in range(3):
        tiny.image(index).save(folder / f"{index}.png")
    return [str(folder / f"{index}.png") for index in range(3)]


def session(chat: Chat, *lines: str) -> str:
    """What a session of these lines writes to stdout."""
    out = io.StringIO()
    converse(chat, io.StringIO("".join(f"{line}\n" for line in lines)), out)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------- one answer


def test_only_the_answer_is_on_stdout(model_dir, loaded, image_files):
    """A process of its own: libraries may write to stdout when they are imported."""
    command = [sys.executable, "-m", "mllm", "chat", "--model", str(model_dir), "--image", image_files[0]]
    command += ["--prompt", "Is it red?", "--max-new-tokens", "8", "--device", "cpu", "--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    expected = answer(*loaded, [question("Is it red?", [tiny.image(0)])], max_new_tokens=8)[0]
    assert expected
    assert done.stdout == f"{expected}\n"


def test_several_images_in_one_question(model_dir, loaded, image_files, capfd):
    images = [argument for file in image_files for argument in ("--image", file)]
    command = ["chat", "--model", str(model_dir), *images, "--prompt", "Compare.", "--max-new-tokens", "8"]
    assert main(command) == 0
    three = question("Compare.", [tiny.image(index) for index in range(3)])
    assert capfd.readouterr().out == f"{answer(*loaded, [three], max_new_tokens=8)[0]}\n"


def test_an_answer_does_not_depend_on_its_batch(loaded):
    asked = [
        question("Is it red?", [tiny.image(0)]),
        question("How many squares are there in all of these?", [tiny.image(1), tiny.image(2)]),
        question("Say yes."),
    ]
    alone = [answer(*loaded, [each], max_new_tokens=8)[0] for each in asked]
    assert answer(*loaded, asked, max_new_tokens=8) == alone
    assert len(set(alone)) == 3


def test_chat_and_training_see_the_same_tokens(loaded):
    _, processor = loaded
    asked = question("Is it red?", [tiny.image(0)])
    talk = {**asked, "messages": [*asked["messages"], tiny.assistant("Yes.")]}
    trained = encode_conversation(processor, talk)
    length = int((trained["labels"] == -100).sum())
    prompt = processor(text=[render_prompt(processor, asked["messages"])], images=asked["images"], return_tensors="pt")
    assert prompt["input_ids"][0].tolist() == trained["input_ids"][:length].tolist()


# ---------------------------------------------------------------------------------------------------------- session


def test_session(chat, loaded, image_files, tmp_path, capfd):
    saved = tmp_path / "talk.json"
    out = session(
        chat,
        "hello?",
        f"/image {image_files[0]}",
        "Is it red?",
        "/image no/such.png",
        "And large?",
        f"/save {saved}",
        "/exit",
        "x",
    )
    first = answer(*loaded, [question("Is it red?", [tiny.image(0)])], max_new_tokens=8)[0]
    assert out.splitlines()[0].strip() == first
    assert len(out.splitlines()) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "/image FILE" in errors[0]
    assert "no/such.png" in errors[1]
    assert len(chat.messages) == 4
    conversation = load_conversations(saved)[0]
    assert conversation["messages"] == chat.messages
    assert [image.tobytes() for image in conversation["images"]] == [tiny.image(0).tobytes()]


def test_names_as_terminals_paste_them(chat, tmp_path, monkeypatch, capfd):
    """Quoted, escaped, as an address, with any letters; what is shown is the one file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "ein Bild (1) ü's #%20.png"
    tiny.image(3).save(file)
    escaped = re.sub(r"([ ()'#])", r"\\\1", str(file))
    names = [
        str(file),
        f'"{file}"',
        shlex.quote(str(file)),
        escaped,
        file.as_uri(),
        f"'{file.as_uri()}'",
        f"~/{file.name}",
    ]
    for name in names:
        session(chat, f"/image {name}")
    assert chat.files == [str(file)] * len(names)
    capfd.readouterr()
    session(chat, "/image 'no such.png'")
    assert "no such.png': there is no such image" in capfd.readouterr().err


def test_words_come_one_by_one(loaded):
    tokenizer = loaded[1].tokenizer
    words: list[str] = []
    streamer = Words(tokenizer, words.append)
    streamer.put(torch.tensor([tokenizer("USER: Is it red? ASSISTANT:")["input_ids"]]))
    for token in tokenizer("Yes, there is one.</s>", add_special_tokens=False)["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(words) == "Yes, there is one."
    assert len(words) >= 4
    assert words[0].strip() in ("Y", "Yes", "Yes,")  # transformers before 5.24 waits for whole words


def test_ctrl_c_stops_the_answer_and_not_the_session(chat, image_files, monkeypatch, capfd):
    ask = chat.ask
    monkeypatch.setattr(chat, "ask", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    session(chat, f"/image {image_files[0]}", "Is it red?", "/help")
    assert "stopped" in capfd.readouterr().err
    assert chat.messages == []
    assert ask("Is it red?")


def test_clear_forgets(chat, image_files, capfd):
    once = session(chat, f"/image {image_files[0]}", "Is it red?")
    session(chat, "And large?", "/clear")
    assert (chat.messages, chat.images, chat.files, chat.pending) == ([], [], [], 0)
    assert session(chat, f"/image {image_files[0]}", "Is it red?") == once
    assert session(chat, "/clear", "Is it red?") == ""
    assert "error: no image yet" in capfd.readouterr().err


def test_help_and_mistakes(chat, tmp_path, capfd):
    assert (
        session(chat, "/help", "/imgae x", "/image", f"/save {tmp_path}/x.json", "/save /no/such/dir/x.json", "") == ""
    )
    told = capfd.readouterr().err
    for part in ("/clear", "unknown command /imgae", "/image needs a file name", "nothing to save yet"):
        assert part in told


def test_lines_from_windows_and_bytes_that_are_no_text(model_dir, image_files, tmp_path):
    lines = [
        f"\ufeff/image\t{image_files[0]}".encode(),
        b"Is it red?",
        b"W\xe4s?",
        f"/save {tmp_path}/".encode(),
        b"\xe4",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "mllm", "chat", "--model", str(model_dir), "--device", "cpu", "--max-new-tokens", "2"],
        input=b"\r\n".join(lines),
        capture_output=True,
        check=True,
    )
    told = run.stderr.decode()
    assert len(run.stdout.splitlines()) == 1
    assert told.count(r"the text holds '\udce4', which is no character; fix it") == 2
    assert f"error: /save {tmp_path}/: Is a directory; name another file" in told
    assert not list(tmp_path.parent.glob(".*.partial"))


def test_earlier_turns_and_images_are_not_read_again(chat, loaded, image_files, monkeypatch):
    """Encoded images and prefilled tokens of each turn; the answers are those of reading it all from the start."""
    model, processor = loaded
    given: list[dict] = []
    encoded: list[int] = []
    encode = model.model.encode

    def counted(pixels, *more, **inputs):
        encoded.append(len(pixels))
        return encode(pixels, *more, **inputs)

    monkeypatch.setattr(model.model, "encode", counted)
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    turns = [([0], "Is it red?"), ([], "And large?"), ([1, 2], "Compare."), ([], "Why?")]
    lengths, answers, counts = [], [], []
    for new, text in turns:
        for index in new:
            chat.show(image_files[index])
        del given[:], encoded[:]
        answers.append(chat.ask(text))
        counts.append((sum(encoded), given[0]["input_ids"].shape[1]))
        prompt = render_prompt(processor, chat.messages[:-1])
        lengths.append(processor(text=[prompt], images=chat.images, return_tensors="pt")["input_ids"].shape[1])
    hook.remove()
    assert [image_files for image_files, _ in counts] == [1, 0, 2, 0]
    assert counts[0][1] == lengths[0]
    for (_, count), before, now in zip(counts[1:], lengths, lengths[1:], strict=False):
        assert count <= now - before  # at most the last answer and the new question

    images = chat.images
    for place, (_, text) in enumerate(turns):
        conversation = {"messages": chat.messages[: 2 * place + 1], "images": images[: 1 if place < 2 else 3]}
        assert conversation["messages"][-1]["content"][-1]["text"] == text
        assert answer(model, processor, [conversation], max_new_tokens=8) == [answers[place]]


def test_a_prefix_cache_of_something_else_is_not_used(loaded):
    """Another image at the same place, another text, an interrupted answer: all is read from the start."""
    cache = PrefixCache()
    for index, text in [(0, "Is it red?"), (1, "Is it red?"), (1, "And large?"), (0, "Is it red?")]:
        asked = question(text, [tiny.image(index)])
        assert answer(*loaded, [asked], 8, prefix_cache=cache) == answer(*loaded, [asked], 8)

    class Stop(Words):
        def put(self, value):
            if self.next_tokens_are_prompt:
                super().put(value)
            else:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(*loaded, [asked], 8, Stop(loaded[1].tokenizer, print), cache)
    assert cache.cache is None
    assert answer(*loaded, [asked], 8, prefix_cache=cache) == answer(*loaded, [asked], 8)


def test_text_only_must_be_asked_for(loaded):
    free = Chat(*loaded, max_new_tokens=4, text_only=True)
    assert session(free, "Say yes.").strip() == answer(*loaded, [question("Say yes.")], max_new_tokens=4)[0]


def test_a_conversation_that_is_too_long_goes_on_after_clear(chat, image_files, capfd):
    out = session(chat, f"/image {image_files[0]}", "star " * 600, "Is it red?")
    assert len(out.splitlines()) == 1
    assert "start a new conversation" in capfd.readouterr().err


# ----------------------------------------------------------------------------------------------------------- errors


def test_half_precision(model_dir):
    model, processor = load_model(model_dir, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert answer(model, processor, [question("Is it red?", [tiny.image(0)])], max_new_tokens=2)


def test_save_spares_a_file_of_someone_else_and_renews_its_own(chat, image_files, tmp_path, capsys):
    mine, theirs = tmp_path / "mine.json", tmp_path / "theirs.png"
    theirs.write_bytes(b"an image")
    session(
        chat, f"/image {image_files[0]}", "Is it red?", f"/save {mine}", "Sure?", f"/save {mine}", f"/save {theirs}"
    )
    assert len(load_conversations(mine)[0]["messages"]) == 4
    assert theirs.read_bytes() == b"an image"
    assert f"error: /save {theirs}: is there already; name another file" in capsys.readouterr().err


def test_streamed_answer_is_the_printed_one(chat, image_files):
    chat.show(str(image_files[0]))
    words: list[str] = []
    said = chat.ask("Is it red?", words.append)
    assert "".join(words) == said or not said
    words = []
    streamer = Words(chat.processor.tokenizer, words.append)
    for piece in ("", "  ", " it", " is"):
        streamer.on_finalized_text(piece)
    assert "".join(words) == "it is"


def test_saved_file_is_llavas(chat, image_files, tmp_path):
    session(chat, f"/image {image_files[0]}", f"/image {image_files[1]}", "Compare.", f"/save {tmp_path}/talk.json")
    (record,) = json.loads((tmp_path / "talk.json").read_text())
    assert record["image"] == image_files[:2]
    assert record["conversations"][0] == {"from": "human", "value": "<image>\n<image>\nCompare."}


def test_a_placeholder_in_words_is_asked_as_words_and_not_saved_as_an_image(chat, image_files, tmp_path, capfd):
    assert session(chat, f"/image {image_files[0]}", "What does <image> mean, or </s>?", f"/save {tmp_path}/talk.json")
    assert "message 1 has <image> in its words" in capfd.readouterr().err
    assert not (tmp_path / "talk.json").exists()
