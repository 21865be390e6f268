"""Files in and out: what cannot be read is one line that names the file and the fix; writing is whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data.errors import InputError, reason, shorten, translated

MOST_BYTES = 2**32  # of a file that is read whole; the largest sets of conversations take a quarter of it
PARTIAL = ".partial"  # the folder in a folder in which its files are made
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE = 2**20  # bytes; what is left of a disk on which torch could not write a file


def check_file(path: str | os.PathLike[str], noun: str = "file", most: int | None = None) -> None:
    """Raise InputError unless a path leads to a regular file, of at most ``most`` bytes; ``noun`` is what it should be.

    Everything that a user names and that is opened for reading goes through here: a pipe that nobody writes to would
    be waited for, and /dev/zero never ends.
    """
    with reading(path, noun):
        status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a directory; name {_with_article(noun)}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is a pipe or a device; write what it gives to {_with_article(noun)}, and name that")
    if most is not None and status.st_size > most:
        raise InputError(f"{path}: has {status.st_size:,} bytes; {_with_article(noun)} has at most {most:,}")


@contextmanager
def reading(path: str | os.PathLike[str], noun: str = "file") -> Iterator[None]:
    """Turn what reading a UTF-8 file raises into an InputError; ``noun`` is what should be there."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such {noun}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no name of a file, or no text
        raise InputError(f"{path}: cannot be read ({reason(error)}); name {_with_article(noun)}") from error


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def read_text(path: str | os.PathLike[str]) -> str:
    """A UTF-8 file as text, a byte order mark left out. Raises InputError if it cannot be read."""
    check_file(path, most=MOST_BYTES)
    with reading(path):
        return Path(path).read_text(encoding="utf-8-sig")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds. Raises InputError if it cannot be read."""
    text = read_text(path)
    with translated(f"{path}: is no JSON", "fetch it again or fix it there"):
        return json.loads(text)


def read_records(path: str | os.PathLike[str], noun: str = "file") -> Iterator[tuple[str, Any]]:
    """Yields (where it stands, for messages; the item) of each of a JSON list, which is read whole, or of JSON lines.

    Raises:
        InputError: it cannot be read, is no JSON, or holds nothing.
    """
    check_file(path, noun)
    with reading(path, noun), open(path, encoding="utf-8-sig") as file:
        first = next((character for character in iter(lambda: file.read(1), "") if not character.isspace()), "")
        items = read_json(path) if first == "[" else None
        if not first or items == []:
            raise InputError(f"{path}: is empty; name {_with_article(noun)} that holds at least one record")
        if items is not None:
            yield from ((f"{path}: item {number}", item) for number, item in enumerate(items, 1))
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                with translated(f"{path}: line {number} is no JSON", "fix or drop the line"):
                    item = json.loads(line)
                yield f"{path}: line {number}", item


def check_name(field: str, name: str) -> None:
    """Raise InputError, naming the field, unless a name can become that of a file, on any system.

    Every name that a user gives and that a path is made of goes through here: one with ``../`` in it leads elsewhere.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{field}: {shorten(repr(name), 60)} becomes a file's name; take up to 64 letters, digits, dots, dashes "
            "and underscores, no dot first"
        )


def csv_rows(
    text: str, path: str | os.PathLike[str], separator: str = ",", quoted: bool = True
) -> list[tuple[int, list[str]]]:
    """The rows of a table that are not empty, with the numbers of their last lines.

    Raises:
        InputError: a quotation mark is not closed, or stands where none may.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may hold an image
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        return [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is no row of a table ({error}); fix or drop it") from error


def check_output(flag: str, path: str | os.PathLike[str] | None) -> None:
    """Raise InputError, naming the flag, unless a file can be written there; None is no file, and none is wanted."""
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a directory; name a file in it")
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise InputError(f"{flag} {path}: cannot be written to; name another place")
        return
    folder = _target(path).parent
    if not folder.is_dir():
        raise InputError(f"{flag} {path}: no such directory: {folder}")
    check_writable(flag, path)


def check_writable(flag: str, path: Path) -> None:
    """Raise InputError, naming the flag, if the nearest folder above a path that is to be made cannot be written to."""
    folder = nearest_folder(_target(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path}: {folder} cannot be written to; name another place")


def nearest_folder(path: Path) -> Path:
    """The path itself if it is a folder, or else the nearest one above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file as `write_whole` does."""
    return write_whole(path, json_bytes(content, indent=1))


def json_bytes(content: Any, indent: int | None = None) -> bytes:
    """JSON as UTF-8, with a line break at its end. Half a surrogate pair, which UTF-8 lacks, stays escaped."""
    return (json.dumps(content, ensure_ascii=False, indent=indent) + "\n").encode(errors="backslashreplace")


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all; it keeps its permissions, a new one has those of the umask.

    What a link leads to is written, and the link stays. A device or a pipe takes the bytes: a file never replaces it.
    """
    stream = _own_stream(path)
    if stream is not None:
        sys.stdout.flush()
        with open(stream, "wb", closefd=False) as file:
            file.write(content)
        return path
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return path
    target = _target(path)
    partial_file = target.with_name(f".{target.name}.partial")
    try:
        partial_file.unlink(missing_ok=True)
        partial_file.write_bytes(content)
        if target.exists():
            partial_file.chmod(stat.S_IMODE(target.stat().st_mode))
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
    return path


def _own_stream(path: Path) -> int | None:
    """stdout or stderr, if a path leads there, as /dev/stdout does: behind ``>`` that is a file, and not ours alone."""
    for stream in (1, 2):
        with suppress(OSError):  # there is no such file yet, or the stream is closed
            if os.path.samestat(os.stat(path), os.fstat(stream)):
                return stream
    return None


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def check_new_folder(what: str, folder: Path) -> None:
    """Raise InputError, which ``what`` opens, if something is there, but for what a killed `whole_folder` left."""
    if folder.exists() and not is_cut_off(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{what}: exists already and is no empty folder; choose another place or remove it")


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and those above it; what was new and is empty in the end is removed again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for place in made:
                place.rmdir()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder inside ``folder`` to fill, and in the end moves what is in it to its place, JSON last.

    So an interruption leaves the files of before, or a folder without the configuration by which it is known. After an
    error nothing is moved. `is_cut_off` tells whether an earlier one was killed.

    Raises:
        InputError: the disk is full.
    """
    folder = _target(folder)
    partial = folder / PARTIAL
    with named_when_full(folder), made_folder(folder):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # room for another try
            raise
        entries = sorted(partial.iterdir(), key=lambda entry: entry.suffix == ".json")
        for entry in entries:
            if entry.suffix == ".json":
                (folder / entry.name).unlink(missing_ok=True)
        for entry in entries:
            if entry.is_file() and not entry.is_symlink():
                entry.chmod(partial.stat().st_mode & 0o666)  # safetensors lets nobody but the writer read
            entry.replace(folder / entry.name)
        partial.rmdir()


def is_cut_off(folder: Path) -> bool:
    """Whether a `whole_folder` was killed there before all of its files were in their places."""
    return (folder / PARTIAL).exists()


@contextmanager
def named_when_full(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Says in one line that the disk of a folder is full: safetensors and torch have errors of their own for that.

    Raises:
        InputError: it is.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = getattr(error, "errno", None) in _FULL
        if isinstance(error, SafetensorError):
            full = f"os error {errno.ENOSPC}" in str(error)
        elif isinstance(error, RuntimeError):  # of torch, which does not say why it could not write
            full = shutil.disk_usage(nearest_folder(Path(folder))).free < _LITTLE
        if not full:
            raise
        raise InputError(f"{folder}: the disk is full; make room and start again, a training with --resume") from error
