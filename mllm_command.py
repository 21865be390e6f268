"""Where the console script `mllm` starts: outside the package, which sees by this module that it need not hurry."""

from __future__ import annotations


def main() -> int:
    """Run the command line; returns its exit code."""
    from mllm.cli import main as run

    return run()
