"""The output directory of a run: one run at a time, a finished one is kept, and a full disk is called that."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from data.errors import InputError
from data.files import check_writable, is_cut_off, made_folder

logger = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

CONFIGURATIONS = ("config.json", "adapter_config.json", "open_clip_config.json")  # every finished output has one
LOCK = ".lock"


def check_output_folder(output: str | Path, field: str = "output") -> None:
    """Raise InputError, naming the recipe's field, if a path cannot be a folder with files in it."""
    for place in (Path(output), *Path(output).parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{field}: {place} is a file; name a directory")
    check_writable(field, Path(output))


def is_whole(folder: Path) -> bool:
    """Whether all of a model was moved into its folder."""
    return any((folder / name).is_file() for name in CONFIGURATIONS) and not is_cut_off(folder)


def is_finished(output: str | Path, resume: bool) -> bool:
    """Whether the output is complete, so that `--resume` has nothing left to do. What it left behind is removed.

    Raises:
        InputError: it is complete, and `--resume` is not given: it would be lost.
    """
    folder = Path(output)
    if not is_whole(folder):
        return False
    if not resume:
        raise InputError(f"output: {folder} holds a finished model; name another directory, or delete it first")
    logger.info("%s is complete: nothing is left to train; name another output to train again", folder)
    if os.environ.get("RANK", "0") == "0":
        remove_checkpoints(folder)
    return True


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; -1 if it has another name."""
    digits = checkpoint.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def remove_checkpoints(folder: str | Path) -> None:
    """Remove every `checkpoint-STEP/`, complete or not."""
    for checkpoint in Path(folder).glob("checkpoint-*"):
        if step_of(checkpoint) >= 0:
            shutil.rmtree(checkpoint)


def output_lock(run: Callable[Given, Result]) -> Callable[Given, Result]:
    """For functions whose first argument is a recipe with an `output`: no second run may write there meanwhile.

    The first process of a launch holds the lock for all. The system frees it when the process dies, however it does.
    """

    @functools.wraps(run)
    def locked(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        recipe: Any = args[0]
        with ExitStack() as stack:
            if os.environ.get("RANK", "0") == "0":
                stack.enter_context(_locked(Path(recipe.output)))
            return run(*args, **kwargs)

    return locked


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; folders that were made for it and are empty at the end are removed."""
    check_output_folder(folder)
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


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Around what prepares a run: if it fails, what it has written into the output is removed, and nothing else."""
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except BaseException:
        if os.environ.get("RANK", "0") == "0" and folder.is_dir():
            for new in set(folder.iterdir()) - before:
                shutil.rmtree(new) if new.is_dir() and not new.is_symlink() else new.unlink()
        raise
