"""Which process of a launch this is, as it is known before torch is imported; then `accelerate.PartialState` knows."""

from __future__ import annotations

import os


def launch_rank() -> int | None:
    """The rank that a launcher (deepspeed, torchrun) gave this process; None without a launcher."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else None
