"""Samples that cannot be used: skipped, counted and named, over all DataLoader workers."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import weakref
from abc import abstractmethod
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import Dataset

from data.errors import InputError, shorten, translated

logger = logging.getLogger(__name__)

T = TypeVar("T", covariant=True)

_NAMED = 20  # samples that a report names
_LONGEST = 1000  # characters of a name or reason that are kept: a record stays one small write


class BadSamples:
    """The record of one dataset's bad samples, shared by every process that holds a copy of it.

    Each process logs a bad sample at once as a warning, when it first meets it, and appends it as one line of JSON to a
    file; ``count`` and ``report`` read that file, so in the main process they cover the DataLoader workers too, forked
    or spawned. Names identify samples: one that is met again in a later epoch or by another process counts once.
    Appending is atomic on local file systems. Safe to use from several threads.

    Args:
        path: where to keep the record, e.g. ``bad_samples.jsonl`` in a run's folder; what is already there counts too,
            and processes that name the same file share it. By default a temporary file that goes with this object.

    ``limit``, which may be set before worker processes start, is how many there may be.

    Raises:
        InputError: if ``path`` cannot be written.
    """

    limit: int | None = None

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            handle, name = tempfile.mkstemp(prefix="bad-samples-", suffix=".jsonl")
            os.close(handle)
            weakref.finalize(self, _remove, name, os.getpid())
        else:
            name = os.path.abspath(path)
            with translated(f"{path}: bad samples cannot be recorded here"):
                os.makedirs(os.path.dirname(name), exist_ok=True)
                open(name, "ab").close()
        self._open(name)

    def _open(self, path: str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._met: set[str] = set()  # names that this process has written
        self._reasons: dict[str, str] = {}  # what has been read of the file
        self._offset = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"path": str(self.path), "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["path"])
        self.limit = state["limit"]

    def add(self, name: str, reason: str) -> None:
        """Records and logs a bad sample, once for each name and process; both texts are put on one line.

        Raises:
            InputError: if that makes more than ``limit``.
        """
        name, reason = (" ".join(text.split())[:_LONGEST] for text in (name, reason))
        with self._lock:
            if name in self._met:
                return
            self._met.add(name)
            line = json.dumps({"name": name, "reason": reason}) + "\n"
            with open(self.path, "ab", buffering=0) as file:
                file.write(line.encode())
        logger.warning("skipped a bad sample: %s", _sentence(name, reason))
        if self.limit is not None and self.count > self.limit:
            raise InputError(too_many(self.count, self.limit, f"{self.path} lists them"))

    @property
    def samples(self) -> dict[str, str]:
        """Name → reason of every bad sample so far, of all processes, in the order in which they were recorded."""
        with self._lock:
            if self.path.exists():
                with open(self.path, "rb") as file:
                    file.seek(self._offset)
                    new = file.read()
                new = new[: new.rfind(b"\n") + 1]
                self._offset += len(new)
                for line in new.splitlines():
                    record = json.loads(line)
                    self._reasons.setdefault(record["name"], record["reason"])
            return dict(self._reasons)

    @property
    def count(self) -> int:
        """Number of different bad samples so far, of all processes."""
        return len(self.samples)

    def report(self) -> list[str]:
        """Lines for the end of a run: the total and the first twenty names with their reasons; [] if all was well."""
        samples = self.samples
        if not samples:
            return []
        lines = [f"{len(samples)} bad sample{'s were' if len(samples) > 1 else ' was'} skipped:"]
        lines += [f"  {_sentence(name, reason)}" for name, reason in list(samples.items())[:_NAMED]]
        if len(samples) > _NAMED:
            lines.append(f"  and {len(samples) - _NAMED} more")
        return lines


class SkippingDataset(Dataset[T]):
    """A map-style dataset that hands out the next good sample in place of a bad one.

    Subclasses define ``__len__`` and ``load``. The replacement depends on the data alone, so every process, rank and
    run sees the same one. ``bad`` holds what was skipped.
    """

    def __init__(self, bad: BadSamples | None = None) -> None:
        self.bad = bad or BadSamples()
        self._known: set[int] = set()  # bad indices, so that a long run of them is tried once only

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> T:
        """Sample ``index`` itself, 0 <= index < len(self). Raises InputError if it is bad."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call sample ``index`` in the report."""

    def __getitem__(self, index: int) -> T:
        """Sample ``index``, or else the next good one, round the end if need be.

        Raises:
            IndexError: outside of the dataset.
            InputError: if no sample is good.
        """
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"sample {index} of {length}")
        for step in range(length):
            candidate = (index + step) % length
            if candidate in self._known:
                continue
            try:
                return self.load(candidate)
            except InputError as error:
                self._known.add(candidate)
                self.bad.add(self.name(candidate), str(error))
        first, reason = next(iter(self.bad.samples.items()))
        raise InputError(f"none of the {length} samples is good; the first bad one: {_sentence(first, reason)}")


class EachOnce(Dataset[T | None]):
    """The samples of a `SkippingDataset`, each once: a bad one is recorded in ``dataset.bad`` and is None here.

    For measuring, where a replacement would count twice.
    """

    def __init__(self, dataset: SkippingDataset[T]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> T | None:
        try:
            return self.dataset.load(index)
        except InputError as error:
            self.dataset.bad.add(self.dataset.name(index), str(error))
            return None


def too_many(count: int, limit: int, where: str) -> str:
    """What to say where more samples are bad than may be; ``where`` they are listed."""
    return f"{count} samples are bad, more than the {limit} that max_bad_samples allows; {where}; fix them, or raise it"


def _sentence(name: str, reason: str) -> str:
    """The two as one line, without saying the name twice."""
    return shorten(reason if name in reason else f"{name}: {reason}")


def _remove(path: str, owner: int) -> None:
    # A forked worker holds a copy of the object; its end must not take the file away from the main process.
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)
