"""Benchmarks: the files that their users have, in; prompts, scores and what is handed in, out. No model, no torch.

One file each, chosen by name: `build_benchmark("vqav2")`; `BENCHMARKS` are all.
"""

from __future__ import annotations

from data.benchmarks.base import (
    BENCHMARKS,
    Answer,
    Benchmark,
    Question,
    Result,
    Truth,
    build_benchmark,
    register_benchmark,
)
from data.benchmarks.gqa import GQA
from data.benchmarks.mmbench import MMBench
from data.benchmarks.mme import MME
from data.benchmarks.pairing import merge, pair, read_answers
from data.benchmarks.pope import POPE
from data.benchmarks.scienceqa import ScienceQA
from data.benchmarks.synthetic import Scenes
from data.benchmarks.textvqa import TextVQA
from data.benchmarks.vqav2 import VQAv2

__all__ = [
    "BENCHMARKS",
    "GQA",
    "MME",
    "POPE",
    "Answer",
    "Benchmark",
    "MMBench",
    "Question",
    "Result",
    "Scenes",
    "ScienceQA",
    "TextVQA",
    "Truth",
    "VQAv2",
    "build_benchmark",
    "merge",
    "pair",
    "read_answers",
    "register_benchmark",
]
