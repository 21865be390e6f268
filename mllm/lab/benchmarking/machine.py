"""The machine: what it is, how much memory is free, and how fast its matrix products are."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from mllm.lab.benchmarking.contender import Place
from mllm.lab.benchmarking.timing import Run

PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
SPARE = 0.9  # of the free memory: what is not counted (the allocator's gaps, the kernels' own buffers) needs some


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a reader needs to know to compare figures with his own."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "open_clip_torch")},
    }


def _cpu_model() -> str:
    """Linux tells it in /proc/cpuinfo only."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Bytes that can be had."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(SPARE * free)


def matrix_product(place: Place) -> tuple[Run, int]:
    """A square product, large enough to run at the machine's full speed, and its multiply-accumulates."""
    side = PRODUCT_SIDE.get(place.device.type, PRODUCT_SIDE["cuda"])
    left, right = (torch.randn(side, side, device=place.device, dtype=place.dtype) for _ in range(2))
    return lambda: left @ right, side**3
