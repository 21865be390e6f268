"""Which process of a launch this is, as it is known before torch is imported; then `accelerate.PartialState` knows."""

from __future__ import annotations

import os


def launch_rank(variable: str = "RANK") -> int | None:
    """Returns the rank that a launcher (deepspeed, torchrun) gave this process; None without a launcher.

    Args:
        variable: "RANK" among all processes, "LOCAL_RANK" among those of this machine.
    """
    return int(os.environ[variable]) if {variable, "WORLD_SIZE"} <= os.environ.keys() else None
