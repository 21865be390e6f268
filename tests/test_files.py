"""Writing: a file is whole, keeps its permissions, and takes the place of nothing that is no file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.errors import InputError
from data.files import check_name, check_output, write_whole
from mllm.cli import main


def score(folder: Path, out: str | Path) -> int:
    """The quickest command that writes a file: one right answer."""
    (folder / "answers.jsonl").write_text(json.dumps({"question_id": "1", "text": "yes"}) + "\n")
    (folder / "truth.json").write_text(json.dumps({"1": {"answer": "yes"}}))
    files = ["--answers", str(folder / "answers.jsonl"), "--annotations", str(folder / "truth.json")]
    return main(["score", "gqa", *files, "--json", str(out)])


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "kept").mkdir()
    link = tmp_path / "latest.json"
    link.symlink_to("kept/scores.json")  # which does not exist yet
    for _ in range(2):
        assert score(tmp_path, link) == 0
        assert link.is_symlink()
        assert json.loads((tmp_path / "kept/scores.json").read_text())["overall"] == 100
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["scores.json"]


def test_a_link_that_leads_nowhere_is_refused_before_anything_is_done(tmp_path, capsys):
    link = tmp_path / "latest.json"
    link.symlink_to("none/scores.json")
    assert score(tmp_path, link) == 2
    assert f"--json {link}: no such directory: {tmp_path / 'none'}" in capsys.readouterr().err
    assert link.is_symlink()


def test_a_pipe_takes_the_bytes_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    taken: list[str] = []
    reader = threading.Thread(target=lambda: taken.append(pipe.read_text()))
    reader.start()
    assert score(tmp_path, pipe) == 0
    reader.join(timeout=10)
    assert json.loads(taken[0])["overall"] == 100
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_terminal_takes_the_bytes_and_stays(tmp_path):
    ours, theirs = os.openpty()
    link = tmp_path / "out.json"
    link.symlink_to(os.ttyname(theirs))
    check_output("--json", link)
    write_whole(link, b"whole\n")
    assert os.read(ours, 100).split() == [b"whole"]
    assert stat.S_ISCHR(link.stat().st_mode)


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_stdout_in_a_file_holds_what_is_written_and_what_is_said(tmp_path, mode):
    code = (
        "import sys; from pathlib import Path; from data.files import write_whole; "
        "print('before'); write_whole(Path('/dev/stdout'), b'whole\\n'); print('after')"
    )
    with open(tmp_path / "out", mode) as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "out").read_text() == "before\nwhole\nafter\n"


def test_permissions_are_kept_and_new_ones_are_those_of_the_umask(tmp_path):
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    theirs.write_text("old")
    theirs.chmod(0o640)
    before = os.umask(0o002)
    try:
        for path in (ours, theirs):
            write_whole(path, b"new")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (ours, theirs)] == [0o664, 0o640]
    assert theirs.read_text() == "new"


@pytest.mark.parametrize(
    "command",
    [
        "check-data PIPE",
        "retrieve PIPE --model none",
        "train-clip PIPE",
        "visualize PIPE --out out.png",
        "score gqa --answers PIPE --annotations PIPE",
        "zeroshot . --classes PIPE --model none",
        "bootstrap {recipe} images=[webdataset:PIPE]",
        "bootstrap {recipe} images=[datasets:PIPE]",
        "bootstrap {recipe} images=[PIPE]",
        "bootstrap {recipe} images=[datasets:/dev/zero]",
    ],
)
def test_a_pipe_is_not_waited_for(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("PIPE")
    Path("recipe.yaml").write_text(
        "{output: out, teacher: none, images: [], held_out: 'synthetic:test:4', stages: [{steps: 1}]}"
    )
    assert main(command.format(recipe="recipe.yaml").split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "PIPE" in error or "/dev/zero" in error


@pytest.mark.parametrize("name", ["focusing", "stage-2_late.b", "_", "-", "a" * 64])
def test_names_of_files(name):
    check_name("name", name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a b", "a\n", "ü", "a:b", "a" * 65])
def test_what_leads_elsewhere_is_no_name_of_a_file(name):
    with pytest.raises(InputError, match=r"^stages: name: .* becomes a file's name; take up to 64 letters"):
        check_name("stages: name", name)
