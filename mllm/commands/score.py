"""`mllm score`: score given answers; all of it is in `data.benchmarks`, which needs no torch."""

from __future__ import annotations

from data.benchmarks.__main__ import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
