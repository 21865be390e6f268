"""The command line: what the user can fix is one line on stderr and exit code 2."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from data.errors import InputError, shorten, translated
from encoder import WeightsError
from mllm.cli import COMMANDS, describe, main
from tests import tiny


@pytest.fixture
def command(monkeypatch):
    """Let `mllm demo` be a command that does what the test wants, and keep what it was given."""

    def install(run) -> dict:
        given: dict = {}
        module = ModuleType("mllm.commands.demo")
        module.HELP = "A command of the test."

        def add_arguments(parser):
            parser.add_argument("recipe")
            parser.add_argument("overrides", nargs="*")
            parser.add_argument("--resume", action="store_true")

        def keep_and_run(args):
            given.update(vars(args))
            run()

        module.add_arguments = add_arguments
        module.run = keep_and_run
        monkeypatch.setitem(sys.modules, "mllm.commands.demo", module)
        return given

    return install


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("no such\n  thing"), "error: no such thing\n"),
        (WeightsError("missing: a, b"), "error: missing: a, b\n"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "error: x.png: No such file or directory\n"),
        (IsADirectoryError(21, "Is a directory", "x"), "error: x: Is a directory\n"),
    ],
)
def test_errors_of_the_user(command, capsys, error, line):
    def fail():
        raise error

    command(fail)
    assert main(["demo", "r.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_keeps_its_traceback(command, error):
    def fail():
        raise error

    command(fail)
    with pytest.raises(type(error), match="a bug"):
        main(["demo", "r.yaml"])


def test_interrupted(command):
    def interrupt():
        raise KeyboardInterrupt

    command(interrupt)
    assert main(["demo", "r.yaml"]) == 130


@pytest.mark.parametrize(
    "line",
    [
        "demo r.yaml a=1 b=2 --resume",
        "demo r.yaml --resume a=1 b=2",
        "demo --resume r.yaml a=1 b=2",
        "--local_rank=1 demo r.yaml a=1 b=2 --resume",
    ],
)
def test_flags_anywhere_and_the_launchers_rank(command, line):
    given = command(lambda: None)
    assert main(line.split()) == 0
    assert given == {"recipe": "r.yaml", "overrides": ["a=1", "b=2"], "resume": True}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: mllm {name}" in capsys.readouterr().out


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "} >= set(COMMANDS)


def test_look_draws(tmp_path, capsys, encoder_dir, model_dir):
    from PIL import Image

    image = tmp_path / "a.png"
    tiny.image(0, 50, 40).save(image)
    drawings = []
    for model in (encoder_dir, model_dir):
        out = tmp_path / f"{model.name}.png"
        assert main(["visualize", str(image), "--out", str(out), "--model", str(model)]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        with Image.open(out) as drawing:
            drawings.append(drawing.convert("RGB").tobytes())
    assert drawings[0] == drawings[1]  # the model's encoder is the one it was assembled from
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "encoder.png", "model.png"]

    given = ["visualize", str(image), "--out", str(out), "--model", str(encoder_dir), "--tokens"]
    assert main([*given, "9"]) == 0
    with Image.open(out) as drawing:
        assert drawing.convert("RGB").tobytes() != drawings[0]


def test_an_error_in_a_worker_process_is_its_own_line():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise InputError("a.jpg: is broken; leave it out")

    with pytest.raises(InputError) as caught:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert describe(caught.value) == "a.jpg: is broken; leave it out"


def test_a_library_s_error_becomes_one_line_that_names_the_file():
    with (
        pytest.raises(InputError, match=r"^w\.bin: first line; fetch it again$"),
        translated("w.bin", "fetch it again"),
    ):
        raise RuntimeError("\n first line\n second line")
    with pytest.raises(InputError, match=r"^w\.bin: KeyError$"), translated("w.bin"):
        raise KeyError
    with pytest.raises(InputError, match=r"^w\.bin: 'size' is missing$"), translated("w.bin"):
        raise KeyError("size")
    with pytest.raises(WeightsError, match=r"^w: No such file or directory$"), translated("w", error=WeightsError):
        raise FileNotFoundError(2, "No such file or directory")
    with pytest.raises(InputError, match=r"^names its fix$"), translated("w.bin"):
        raise InputError("names its fix")
    with pytest.raises(KeyboardInterrupt), translated("w.bin"):
        raise KeyboardInterrupt


def test_long_lines_keep_beginning_and_end():
    line = shorten("name: " + "x" * 5000 + "; fetch it again", 300)
    assert len(line) <= 300
    assert line.startswith("name: x")
    assert line.endswith("x; fetch it again")
