"""The output directory of a run: one run at a time, and a finished one is kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from data.errors import InputError
from data.files import check_writable, is_cut_off, made_folder

logger = logging.getLogger(__name__)

CONFIGURATIONS = ("config.json", "adapter_config.json", "open_clip_config.json")  # every finished output has one
LOCK = ".lock"


def check_output_folder(output: str | Path, field: str = "output") -> None:
    """Raises InputError, naming the recipe's field, if a path cannot be a folder with files in it."""
    for place in (Path(output), *Path(output).parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{field}: {place} is a file; name a directory")
    check_writable(field, Path(output))


def is_whole(folder: Path) -> bool:
    """Whether all of a model was moved into its folder."""
    return any((folder / name).is_file() for name in CONFIGURATIONS) and not is_cut_off(folder)


def is_finished(folder: Path, resume: bool) -> bool:
    """Whether the output is complete, so that `--resume` has nothing left to do.

    Raises:
        InputError: it is complete, and `--resume` is not given: it would be lost.
    """
    if not is_whole(folder):
        return False
    if not resume:
        raise InputError(f"output: {folder} holds a finished model; name another directory, or delete it first")
    logger.info("%s is complete: nothing is left to train; name another output to train again", folder)
    return True


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; -1 if it has another name."""
    digits = checkpoint.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def remove_checkpoints(folder: Path) -> None:
    """Removes every `checkpoint-STEP/`, complete or not."""
    for checkpoint in folder.glob("checkpoint-*"):
        if step_of(checkpoint) >= 0:
            shutil.rmtree(checkpoint)


@contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Lets no second run write to a folder meanwhile; one that was made for it and is empty at the end is removed.

    The first process of a launch holds it for all. The system frees it when the process dies, however it does.
    """
    with made_folder(folder), ExitStack() as stack:
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
            stack.callback(lock.release)
            stack.callback((folder / LOCK).unlink, missing_ok=True)
        except Timeout as error:
            raise InputError(f"output: another run is writing to {folder}; wait for it, or name another") from error
        except NotImplementedError:
            logger.warning("%s: its file system has no locks; let no other run write there", folder)
        yield
