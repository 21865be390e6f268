"""Fetching a list of files over HTTP and from a hub, both on this machine: resumed, checked, unpacked, once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests import loopback

ROOT = Path(__file__).parents[1]
HOST = "files.example"


def archive(**files: str) -> bytes:
    """A zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, text in files.items():
            made.writestr(name.replace("__", "/"), text)
    return content.getvalue()


@pytest.fixture
def server(tmp_path):
    with loopback.serving(tmp_path / "served") as server:
        server.folder.mkdir()
        yield server


@pytest.fixture
def fetch(tmp_path, server):
    """Runs the command on a list, with this machine in place of all others."""

    def run(entries: dict, *more: str, code: int = 0) -> subprocess.CompletedProcess:
        (tmp_path / "list.yaml").write_text(yaml.safe_dump(entries))
        command = [sys.executable, str(ROOT / "scripts/reproduce/download.py"), str(tmp_path / "list.yaml"), *more]
        here = {"MIRROR": server.url, "HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1", "RETRY_SECONDS": "0"}
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **here},
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def serve(server: loopback.Server, path: str, content: bytes) -> str:
    """Puts a file on the server; gives its sum."""
    file = server.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_once_from_where_it_was_interrupted_and_checked(server, fetch, tmp_path):
    content = bytes(range(256)) * 1000
    digest = serve(server, f"{HOST}/a/data.bin", content)
    entries = {"data": {"to": "sub/data.bin", "address": f"https://{HOST}/a/data.bin", "bytes": len(content)}}
    server.cut[f"/{HOST}/a/data.bin"] = 100_000
    fetch(entries)
    assert server.requests == [f"/{HOST}/a/data.bin", f"/{HOST}/a/data.bin@100000"]
    assert (tmp_path / "out/sub/data.bin").read_bytes() == content
    known = json.loads((tmp_path / "out/lock.json").read_text())
    assert (known["data"]["sha256"], known["data"]["bytes"]) == (digest, len(content))
    fetch(entries)
    assert len(server.requests) == 2
    (tmp_path / "out/sub/data.bin").write_bytes(b"short")
    assert "data.bin: has 5 bytes instead of 256,000; delete it" in fetch(entries, code=2).stderr
    assert os.listdir(tmp_path / "out/.downloading") == []


@pytest.mark.parametrize("wrong", [{"bytes": 4}, {"sha256": "0" * 64}, {"md5": "0" * 32}])
def test_another_file_than_the_list_says_is_refused(wrong, server, fetch, tmp_path):
    serve(server, f"{HOST}/f", b"five!")
    entry = {"to": "f", "address": f"https://{HOST}/f"}
    error = fetch({"f": entry | wrong}, code=2).stderr
    assert "as the list says" in error
    assert not (tmp_path / "out/f").exists()


def test_another_file_than_the_first_time_is_refused(server, fetch, tmp_path):
    entries = {"f": {"to": "f", "address": f"https://{HOST}/f"}}
    serve(server, f"{HOST}/f", b"five!")
    fetch(entries)
    (tmp_path / "out/f").unlink()
    serve(server, f"{HOST}/f", b"other")
    assert f"as {tmp_path}/out/lock.json says" in fetch(entries, code=2).stderr
    serve(server, f"{HOST}/f", b"five!")
    fetch(entries)
    assert (tmp_path / "out/f").read_bytes() == b"five!"


def test_a_part_of_an_archive_and_a_link_to_it(server, fetch, tmp_path):
    serve(
        server,
        f"{HOST}/a.zip",
        archive(top__images__1="one", top__images__2="two", top__rest="rest", __MACOSX__x="junk"),
    )
    address = f"https://{HOST}/a.zip"
    entries = {
        "images": {"to": "in/images", "address": address, "part": "top/images"},
        "rest": {"to": "rest.txt", "address": address, "part": "top/rest"},
        "all": {"to": "all", "address": address, "part": "."},
        "again": {"to": "other/images", "link": "in/images"},
    }
    fetch(entries)
    out = tmp_path / "out"
    assert {file.name: file.read_text() for file in (out / "in/images").iterdir()} == {"1": "one", "2": "two"}
    assert (out / "rest.txt").read_text() == "rest"
    assert sorted(os.listdir(out / "all/top")) == ["images", "rest"]
    assert os.readlink(out / "other/images") == "../in/images"
    assert (out / "other/images/1").read_text() == "one"
    assert "no lost in the archive" in fetch({"x": {"to": "x", "address": address, "part": "lost"}}, code=2).stderr
    serve(server, f"{HOST}/page.zip", b"<html>sign in</html>")
    page = {"to": "y", "address": f"https://{HOST}/page.zip", "part": "."}
    assert "y: the archive cannot be unpacked: File is not a zip file" in fetch({"y": page}, code=2).stderr
    assert not (out / "y").exists()


def test_files_of_a_hub(server, fetch, tmp_path):
    digest = serve(server, "hub/datasets/owner/texts/talk.json", b"[]")
    for name in ("config.json", "weights.bin", "README.md"):
        serve(server, f"hub/models/owner/model/{name}", name.encode())
    entries = {
        "talk": {"to": "t/talk.json", "hub": "owner/texts", "kind": "dataset", "file": "talk.json"},
        "model": {"to": "weights/model", "hub": "owner/model", "files": ["*.json", "*.bin"]},
    }
    fetch(entries)
    assert (tmp_path / "out/t/talk.json").read_bytes() == b"[]"
    assert sorted(os.listdir(tmp_path / "out/weights/model")) == ["config.json", "weights.bin"]
    known = json.loads((tmp_path / "out/lock.json").read_text())
    assert known["talk"]["revision"] == known["model"]["revision"] == loopback.COMMIT
    assert known["talk"]["sha256"] == digest
    asked = len(server.requests)
    fetch(entries)
    assert len(server.requests) == asked
    (tmp_path / "out/weights/model").rename(tmp_path / "away")
    serve(server, "hub/models/owner/model/weights.bin", b"others")
    assert "model: weights.bin of owner/model is not that of" in fetch(entries, code=2).stderr


def test_what_is_there_is_taken_and_a_dry_run_fetches_nothing(server, fetch, tmp_path):
    (tmp_path / "out/images").mkdir(parents=True)
    address = f"https://{HOST}/gone.zip"
    entries = {
        "images": {"to": "images", "address": address, "part": "."},
        "large": {"to": "large", "address": address, "part": ".", "bytes": 5 * 10**9},
        "heard": {"to": "heard", "address": address, "about": 2.5},
        "unknown": {"to": "unknown", "address": address},
    }
    told = fetch(entries, "--dry-run").stdout
    for words in (
        "there  images",
        "5.00 GB  large",
        "about 2.5 GB  heard",
        "?  unknown",
        "to fetch: 8 GB, and 1 files",
    ):
        assert words in told
    assert server.requests == []
    assert "it is taken as it is" in fetch(entries, "im*").stderr
    assert "lost: " in fetch(entries, "lost", code=2).stderr
    assert "large" not in fetch(entries, "--dry-run", "--without", "l*").stdout.replace("largest", "")
    assert f"{server.url}/{HOST}/gone.zip: the server answers 404" in fetch(entries, "heard", code=2).stderr
    assert "takes 2000000.0 GB" in fetch({"x": {"to": "x", "address": address, "bytes": 2 * 10**15}}, code=2).stderr
    assert "x: give an address, or hub" in fetch({"x": {"to": "x"}}, code=2).stderr


@pytest.mark.parametrize("name", ["llava15.yaml", "imagenet.yaml"])
def test_the_lists_are_lists(name, fetch):
    fetch(yaml.safe_load((ROOT / "scripts/reproduce" / name).read_text()), "--dry-run")
