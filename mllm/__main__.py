"""`python -m mllm`, which is also what the deepspeed launcher starts with `--module mllm`."""

from __future__ import annotations

import sys

from mllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
