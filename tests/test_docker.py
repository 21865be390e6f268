"""The Dockerfile does what the documents say: it cannot be built in the tests, so its commands are compared."""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from pathlib import Path

from mllm.commands import serve

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().splitlines()
README, SERVING = ((ROOT / name).read_text() for name in ("README.md", "docs/serving.md"))


def of(word: str) -> list[str]:
    """What stands behind an instruction."""
    return [line.removeprefix(f"{word} ") for line in LINES if line.startswith(f"{word} ")]


def test_it_installs_as_the_documents_do():
    (install,) = [command for command in of("RUN") if "-e" in command.split()]
    assert install in SERVING
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\w+", install.partition("[")[2])) <= set(extras)


def test_it_serves_as_the_documents_do():
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    program, command, *words = json.loads(of("CMD")[0])
    assert (program, command) == ("mllm", "serve")
    given = parser.parse_args(words)
    assert given.host not in serve.LOOPBACK  # others reach it, so it starts with a key only
    assert of("EXPOSE") == [str(given.port)]


def test_the_readme_builds_and_runs_it():
    told = [line.removeprefix("$ ").partition("  ")[0] for line in README.splitlines() if line.startswith("$ docker ")]
    written = [line.removeprefix("#   ").partition("  ")[0] for line in LINES if line.startswith("#   docker ")]
    assert told == written
    assert len(told) == 3
    arguments = {line.partition("=")[0] for line in of("ARG")}
    assert {name for line in told for name in re.findall(r"--build-arg (\w+)", line)} <= arguments
