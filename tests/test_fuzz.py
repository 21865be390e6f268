"""A short run of `tests.fuzz`; a long one is ``python -m tests.fuzz --cases 500 --seed SEED``."""

from __future__ import annotations

import os
import subprocess
import sys


def test_malformed_input_is_one_line_and_leaves_nothing_half_written():
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases", "60", "--seed", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert run.stdout.splitlines()[-1].startswith("60 cases")
