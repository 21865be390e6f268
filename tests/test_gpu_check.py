"""scripts/gpu_check.sh on the CPU, so that it works the first time that there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.sh"


def check(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PATH": path,
            "VIRTUAL_ENV": sys.prefix,
            "OUT": str(out),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
    )


@pytest.mark.launch
def test_a_dry_run_reports_every_part_and_goes_on_where_it_was(tmp_path):
    parts = ("tests", "encoder", "zero")
    begun = check(tmp_path, "--dry-run", "encoder")
    assert begun.returncode == 1, begun.stderr  # there are parts left
    encoder = (tmp_path / "encoder.json").read_bytes()
    done = check(tmp_path, "--dry-run", *parts)
    reports = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in parts}
    assert all(report["code"] == 0 for report in reports.values()), done.stderr
    assert (tmp_path / "encoder.json").read_bytes() == encoder
    zero = {(row["stage"], row["zero"]): row for row in reports["zero"]["report"]["rows"]}
    assert set(zero) == {("lora", 2), ("lora", 3), ("full", 2)}
    assert all(row["code"] == 0 and row["estimate"] > 0 for row in zero.values())
    page = (tmp_path / "page.md").read_text()
    titles = ("Parts", "Tests marked gpu", "mllm bench encoder", "ZeRO")
    assert all(f"\n## {title}\n" in page for title in titles)


def test_a_part_that_is_none(tmp_path):
    wrong = check(tmp_path, "--dry-run", "speed")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: no part speed; parts: kernels tests encoder")


def test_without_a_gpu(tmp_path):
    wrong = check(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: there is no GPU that torch can use; try --dry-run\n"
