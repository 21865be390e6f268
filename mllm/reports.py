"""Reports as JSON files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data.errors import InputError


def check_json_path(path: str | None) -> None:
    """Raise InputError if no file can be written at ``--json PATH``: before hours of work, not after."""
    if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        raise InputError(f"--json {path}: no such directory, or no name of a file in it")


def write_json(path: str, report: Any) -> None:
    """Write a report whole or not at all."""
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
