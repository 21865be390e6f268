"""The package as pip installs it: four top-level packages, the command, the embedded model's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT = """
import data, encoder, mllm, projector, sys
for package in (data, encoder, mllm, projector):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
print(*sorted(encoder.PRESETS)[:1], *list(projector.PROJECTORS)[:2])
"""


def test_installed_packages_import_from_another_directory(tmp_path):
    target = tmp_path / "site"
    source = tmp_path / "source"  # a copy: building leaves folders beside the sources
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        package = name.partition("/")[0] in ("encoder", "projector", "data", "mllm")
        if package or name in ("pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", IMPORT, str(target)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["sparseformer_btsp_augreg_base", "linear", "mlp2x_gelu"]
    command = [sys.executable, str(target / "bin" / "mllm"), "--help"]
    told = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("usage: mllm")
    assert {"config.json", "model.safetensors"} <= {file.name for file in (target / "mllm" / "embedded").iterdir()}
    assert {"index.html", "main.js", "style.css"} <= {
        file.name for file in (target / "mllm" / "serving" / "page").iterdir()
    }
