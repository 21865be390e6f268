"""`mllm chat` at a terminal: lines edited in a real one (a pty), images drawn in it, and what programs read instead."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import re
import select
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm.cli import main
from mllm.generation import answer, question
from mllm.loading import load_model
from mllm.serving import chat, inline
from mllm.serving.chat import Chat
from mllm.serving.terminal import converse, unknown_letters
from tests import loopback, tiny
from tests.served import data_url
from tests.shapes import MODEL

PNG = b"\x89PNG\r\n\x1a\n"
KITTY, SIXEL, NEITHER = b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c", b"\x1b[?62;4;22c", b"\x1b[?6c"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, encoder_dir, bpe_language_model_dir):
    directory = tiny.model(tmp_path_factory.mktemp("terminal") / "model", encoder_dir, bpe_language_model_dir)
    return directory, *load_model(directory, "cpu")


# ------------------------------------------------------------------------------------------------------ the session


class Terminal:
    """A process with a terminal, which says that it draws images as kitty does; what it has written is `seen`."""

    def __init__(self, run) -> None:
        self.child, self.master = pty.fork()
        if not self.child:  # pragma: no cover
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
            try:
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
                run()
            finally:
                os._exit(0)
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, wanted: bytes) -> bytes:
        """Waits until this is written, and returns everything up to there, which is forgotten then."""
        end = time.monotonic() + 60
        while wanted not in self.seen:
            assert select.select([self.master], [], [], max(0, end - time.monotonic()))[0], self.seen[-2000:]
            told = os.read(self.master, 2**16)
            self.seen += told
            if inline.QUESTION in told:
                os.write(self.master, KITTY)
            if b"\x1b[6n" in told:  # where the cursor is
                os.write(self.master, b"\x1b[1;1R")
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def close(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        os.close(self.master)


def test_a_session(loaded, tmp_path, monkeypatch):
    """Completion, pasted lines, Ctrl-C, drawing, history: what a person does."""
    _, model, processor = loaded
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm-256color")
    tiny.image(0).save(tmp_path / "a picture.png")
    talk = Chat(model, processor, max_new_tokens=16)

    def slow(*_) -> None:
        if talk.messages:  # from the second answer on
            os.write(2, b"[step]")
            time.sleep(0.1)

    def run() -> None:
        model.register_forward_pre_hook(slow)
        converse(talk, sys.stdin, sys.stdout, stats=True)

    terminal = Terminal(run)
    try:
        terminal.expect(b"Ask about an image")
        terminal.expect(b">")
        terminal.type(f"/im\t {tmp_path}/a\t\r")
        terminal.expect(b"shown:")
        terminal.type("\x1b[200~Is it\nred?\x1b[201~\r")
        terminal.expect(b" image tokens, first token ")
        terminal.type("/show\r")
        assert b"draws no images" not in terminal.expect(b"\x1b_Ga=T,f=100")
        terminal.expect(b"\x1b\\\n".replace(b"\n", b"\r\n"))
        terminal.type("Go on and on.\r")
        terminal.expect(b"Go on and on.")
        for _ in range(8):
            terminal.expect(b"[step]")
        terminal.type("\x03")
        terminal.expect(b"stopped")
        terminal.type(f"/save {tmp_path}/talk.json\r")
        terminal.expect(b"saved:")
        terminal.type("/exit\r")
    finally:
        terminal.close()
    (record,) = json.loads((tmp_path / "talk.json").read_text())
    said = [turn["value"] for turn in record["conversations"]]
    assert said[0] == "<image>\nIs it\nred?"
    assert said[1] == answer(model, processor, [question("Is it\nred?", [tiny.image(0)])], 16)[0]
    assert said[2] == "Go on and on."
    assert len(said) == 4  # and what there was of the last answer
    turns = [tiny.user("Is it\nred?", 1), tiny.assistant(said[1]), tiny.user("Go on and on.")]
    assert said[3] != answer(model, processor, [{"messages": turns, "images": [tiny.image(0)]}], 16)[0]
    history = tmp_path / ".cache" / "sparseformer-mllm" / "history"
    assert "+Go on and on." in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(("reply", "way"), [(KITTY, "kitty"), (SIXEL, "sixel"), (NEITHER, None), (b"", None)])
def test_a_terminal_is_asked_what_it_draws(reply, way, monkeypatch):
    master, slave = pty.openpty()
    monkeypatch.setattr(inline, "SECONDS", 5 if reply else 0.05)

    def reply_once() -> None:
        if os.read(master, 1024).startswith(b"\x1b_G") and reply:
            os.write(master, reply)

    other = threading.Thread(target=reply_once)
    other.start()
    with open(slave, "rb", buffering=0) as keyboard, open(os.dup(slave), "wb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stdin", keyboard)
        monkeypatch.setattr(sys, "stdout", screen)
        found = inline.find_way({})
        monkeypatch.undo()
    other.join()
    os.close(master)
    assert (found and found.__name__) == way


def test_iterm2_is_known_by_its_name():
    assert inline.find_way({"TERM_PROGRAM": "iTerm.app"}) is inline.iterm2
    assert inline.find_way({}) is None  # no terminal at all


def test_drawings_are_the_image():
    image = tiny.image(0, 97, 51)
    kitty = inline.kitty(image)
    pieces = re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty)
    assert len(pieces) > 1
    assert [head for head, _ in pieces] == [b"a=T,f=100,m=1", *[b"m=1"] * (len(pieces) - 2), b"m=0"]
    (iterm,) = re.findall(rb"size=\d+:([^\x07]*)\x07", inline.iterm2(image))
    for text in (b"".join(text for _, text in pieces), iterm):
        assert Image.open(io.BytesIO(base64.b64decode(text))).tobytes() == image.tobytes()
    few = image.quantize(16).convert("RGB")
    assert np.abs(decoded(inline.sixel(few)).astype(int) - np.asarray(few)).max() <= 3  # colors are in percent


def decoded(sixels: bytes) -> np.ndarray:
    """What a terminal makes of sixels."""
    width, height = map(int, re.match(rb'\x1bPq"1;1;(\d+);(\d+)', sixels).groups())
    colors = {
        int(m[1]): [int(each) * 255 / 100 for each in m[2].split(b";")]
        for m in re.finditer(rb"#(\d+);2;([\d;]+)", sixels)
    }
    pixels = np.zeros((height + 6, width, 3), np.uint8)
    body = re.sub(rb"#\d+;2;[\d;]+", b"", sixels.split(b"q", 1)[1].removesuffix(b"\x1b\\\n"))
    x, y, color = 0, 0, None
    for token in re.finditer(rb"#(\d+)|!(\d+)(.)|([$-])|([?-~])", body.partition(b"%d" % height)[2]):
        if token[1]:
            color = colors[int(token[1])]
        elif token[4] == b"-":
            x, y = 0, y + 6
        elif token[4]:
            x = 0
        else:
            count, bits = (int(token[2]), token[3]) if token[2] else (1, token[5])
            for row in range(6):
                if (ord(bits) - 63) >> row & 1:
                    pixels[y + row, x : x + count] = color
            x += count
    return pixels[:height]


# --------------------------------------------------------------------------------------------------------- programs


def told(capfd, *arguments: str) -> str:
    assert main(["chat", *arguments, "--device", "cpu"]) == 0
    return capfd.readouterr().out


def test_json_for_programs(loaded, tmp_path, capfd):
    directory, model, processor = loaded
    tiny.image(0).save(tmp_path / "0.png")
    given = ["--model", str(directory), "--max-new-tokens", "8", "--image", str(tmp_path / "0.png"), "--json"]
    record = json.loads(told(capfd, *given, "--prompt", "Is it red?", "--system", "Be brief."))
    asked = question("Is it red?", [tiny.image(0)])
    asked["messages"] = [tiny.system("Be brief."), *asked["messages"]]
    assert record["answer"] == answer(model, processor, [asked], 8)[0]
    assert record["stats"]["image_tokens"] == tiny.TOKENS
    assert record["stats"]["tokens"] == 8
    assert record["stats"]["tokens_per_second"] > 0


def test_a_seed_draws_the_same_words_again(loaded, tmp_path, capfd):
    directory, *_ = loaded
    tiny.image(0).save(tmp_path / "0.png")
    given = [
        "--model",
        str(directory),
        "--max-new-tokens",
        "8",
        "--image",
        str(tmp_path / "0.png"),
        "--prompt",
        "Is it?",
    ]
    hot = [*given, "--temperature", "1.5", "--top-p", "0.9"]
    answers = [told(capfd, *hot, "--seed", seed) for seed in ("1", "1", "2")]
    assert answers[0] == answers[1] != answers[2]
    assert main(["chat", *given, "--temperature", "-1"]) == 2
    assert "--temperature=-1" in capfd.readouterr().err


def test_images_from_anywhere(loaded, tmp_path, capfd, monkeypatch):
    """A file, the standard input, an address, a data URL: one image, one answer."""
    directory, *_ = loaded
    file = tmp_path / "0.png"
    tiny.image(0).save(file)
    given = ["--model", str(directory), "--max-new-tokens", "8", "--prompt", "Is it red?", "--image"]
    expected = told(capfd, *given, str(file))
    assert told(capfd, *given, data_url(tiny.image(0))) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert told(capfd, *given, "-") == expected
    with loopback.serving(tmp_path) as server:
        assert told(capfd, *given, f"{server.url}/0.png") == expected
        for address, wrong in [("none.png", "Not Found"), ("0.png", "more than 100 bytes")]:
            monkeypatch.setattr(chat, "MOST_BYTES", 100)
            assert main(["chat", *given, f"{server.url}/{address}"]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert wrong in line
    assert main(["chat", *given[:-3], "--image", "-"]) == 2
    assert "ask with --prompt" in capfd.readouterr().err


def test_a_session_keeps_images_that_are_no_files(loaded, tmp_path, capsys):
    _, model, processor = loaded
    tiny.image(0).save(tmp_path / "0.png")
    talk, out = Chat(model, processor, max_new_tokens=4), io.StringIO()
    with loopback.serving(tmp_path) as server:
        lines = [f"/image {server.url}/0.png", "Is it red?", f"/save {tmp_path}/talk.json", "/show"]
        with pytest.MonkeyPatch.context() as here:
            here.chdir(tmp_path)
            converse(talk, io.StringIO("\n".join(lines)), out, as_json=True)
    assert json.loads(out.getvalue())["question"] == "Is it red?"
    (record,) = json.loads((tmp_path / "talk.json").read_text())
    assert base64.b64decode(record["image"][0].partition(",")[2]).startswith(PNG)
    assert Path(tmp_path / "looked-1.png").read_bytes().startswith(PNG)
    assert "saved: looked-1.png, since this terminal draws no images" in capsys.readouterr().err


def test_a_language_that_the_model_was_not_made_for():
    tokenizer = load_model(MODEL, "cpu")[1].tokenizer
    assert unknown_letters(tokenizer, "what colour is it? größer") == ""
    assert unknown_letters(tokenizer, "Какого цвета?") == "Какогцвет"
    assert unknown_letters(tokenizer, "12 + 3 = ?") == ""
