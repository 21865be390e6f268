"""Benchmarks: the files that their users have, in; prompts, scores and what is submitted, out. No model, no torch.

One file each, chosen by name: `build_benchmark("vqav2")`; `BENCHMARKS` are all.
"""

from __future__ import annotations

from data.benchmarks.base import (
    BENCHMARKS,
    Answer,
    Benchmark,
    GroundTruth,
    Option,
    Question,
    Result,
    build_benchmark,
    register_benchmark,
)
from data.benchmarks.pairing import merge, pair, read_answers

__all__ = [
    "BENCHMARKS",
    "Answer",
    "Benchmark",
    "GroundTruth",
    "Option",
    "Question",
    "Result",
    "build_benchmark",
    "merge",
    "pair",
    "read_answers",
    "register_benchmark",
]
