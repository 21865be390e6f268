"""The small model that comes with the package."""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError


def embedded_dir() -> Path:
    """Finds the directory of the embedded model, which answers questions about generated images.

    Raises:
        InputError: this copy of the package comes without it.
    """
    directory = Path(__file__).parent / "embedded"
    if not (directory / "config.json").is_file():
        raise InputError(f"there is no embedded model in {directory}; name a model directory with --model DIR")
    return directory
