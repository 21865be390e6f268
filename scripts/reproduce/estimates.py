"""GPUs and hours of trainings: python scripts/reproduce/estimates.py MODEL-STAGE.json ..., by `mllm info --json`"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ZERO = {"projector": 2, "lora": 3, "full": 3}  # of scripts/STAGE.sh
GIB = 2**30


def main() -> None:
    """Prints a line for each."""
    total = 0.0
    for file in map(Path, sys.argv[1:]):
        model, _, stage = file.stem.partition("-")
        report = json.loads(file.read_text())
        memory = next(row for row in report["training"] if (row["stage"], row["zero"]) == (stage, ZERO[stage]))
        time, step = report["time"], report["step"]
        hours = next(row["hours"] for row in time["stages"] if row["stage"] == stage)
        total += hours
        smallest = f"of at least {memory['gpu_gib']} GB" if memory["gpu_gib"] else "larger than any"
        sys.stdout.write(
            f"{model}, stage {stage}: {step['gpus']} GPUs {smallest} ({memory['total'] / GIB:.0f} GiB each under ZeRO-"
            f"{ZERO[stage]}), {hours:.1f} hours for {time['count']:,} samples of {time['length']} tokens\n"
        )
    sys.stdout.write(f"trainings: {total:.1f} hours if a GPU computes {time['tflops']:g} TFLOPS; not measured\n")


if __name__ == "__main__":
    main()
