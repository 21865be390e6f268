"""Pictures with alpha, thousands in one file: rendered once for a machine, then read by any number of processes.

`PICTURES` below the folder of `data.materials` holds WebP after WebP, `INDEX` beside it where each begins and what is
known of it.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import track

from data.drawings.rendering import Unrenderable, colors, encode, extents, render
from data.errors import InputError
from data.files import check_writable, json_bytes, named_when_full, read_json
from data.materials import CACHE, materials_folder

logger = logging.getLogger(__name__)

INDEX, PICTURES = "index.json", "pictures.webp"
FORMAT = 2  # counts up when what is rendered changes


@dataclass(frozen=True)
class Job:
    """A picture to be rendered: an SVG's text or an image's path, and what is known of it."""

    source: str | Path
    facts: dict[str, Any]


class Pictures:
    """The pictures of a folder that `open_pictures` made.

    Attributes:
        about: what was said of all of them.
        facts: of each: what its `Job` knew, "size" (width and height), "colors" and "extents" (`rendering`).
    """

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / INDEX)
        self.about: dict[str, Any] = index["about"]
        self.facts: list[dict[str, Any]] = index["pictures"]
        self.ends: list[int] = index["ends"]
        with open(folder / PICTURES, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, number: int) -> Image.Image:
        """Decodes a picture, RGBA, without empty margins."""
        start = self.ends[number - 1] if number else 0
        return Image.open(io.BytesIO(self.data[start : self.ends[number]])).convert("RGBA")


def open_pictures(name: str, jobs: Callable[[], tuple[dict[str, Any], Sequence[Job]]]) -> Pictures:
    """Opens pictures by name; the first time on a machine they are rendered, in as many threads as there are cores.

    Args:
        name: of the folder in the cache; with a version in it, if what it holds has one.
        jobs: gives what is to be said of all pictures, and the pictures; called only where they are to be rendered.

    Raises:
        InputError: what is needed is neither here nor can be fetched, or not installed.
    """
    root = materials_folder()
    folder = root / f"{name}-{FORMAT}"
    if not folder.is_dir():
        if find_spec("resvg_py") is None:
            raise InputError(f"{name}: rendering needs an extra: pip install 'sparseformer-mllm[drawings]'")
        check_writable(CACHE, root)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder.name}.lock"), named_when_full(root):
            if not folder.is_dir():  # nobody else has made it meanwhile
                with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=root) as temporary:
                    _render_all(Path(temporary) / "new", name, *jobs())
                    (Path(temporary) / "new").replace(folder)
    return Pictures(folder)


def _render_all(folder: Path, name: str, about: dict[str, Any], jobs: Sequence[Job]) -> None:
    logger.info("%s: rendering %d pictures, once for this machine", name, len(jobs))
    folder.mkdir()
    facts, ends, bad = list[dict[str, Any]](), list[int](), 0
    console = Console(stderr=True)
    with open(folder / PICTURES, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as threads:
        done = track(threads.map(_rendered, jobs), name, len(jobs), console=console, disable=not console.is_terminal)
        for job, rendered in zip(jobs, done, strict=True):
            if rendered is None:
                bad += 1
                continue
            found, encoded = rendered
            file.write(encoded)
            facts.append({**job.facts, **found})
            ends.append(file.tell())
    if bad:
        logger.warning("%s: %d pictures cannot be rendered or are empty; they are left out", name, bad)
    (folder / INDEX).write_bytes(json_bytes({"about": about, "pictures": facts, "ends": ends}))


def _rendered(job: Job) -> tuple[dict[str, Any], bytes] | None:
    try:
        image = render(job.source)
    except Unrenderable:
        return None
    return {"size": image.size, "colors": colors(image), "extents": extents(image)}, encode(image)
