"""What an evaluation has done so far, on disk, so that it can be interrupted at any moment and go on.

Questions are cut into batches by their order alone. A batch that is done is one line of JSON in the file of the process
that did it; one that was cut off by an interruption is asked again. So every question has one answer, and the same one
whether there were interruptions or not, and however many processes shared the work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from data.errors import InputError, translated
from data.files import check_file, json_bytes, write_json
from data.json_objects import read_object

SETTINGS = "settings.json"
_BEGUN = "the folder of an evaluation that was begun, or another one to ask again"


@dataclass(frozen=True)
class Batch:
    """A batch that is done. ``texts`` has None where ``errors`` (place in the batch → reason) tells why not."""

    batch: int
    seconds: float
    texts: list[str | None]
    errors: dict[str, str]


class Progress:
    """The record of one evaluation, in its output folder, which is made if need be.

    Args:
        rank: of this process, which has a file of its own to write.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.file = folder / f"progress-{rank}.jsonl"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note how the evaluation is done, or make sure that it was begun in the same way if it has any answers.

        Raises:
            InputError: it was begun with other settings; or the folder cannot be written.
        """
        path = self.folder / SETTINGS
        settings = json.loads(json.dumps(settings))
        if self.read():
            begun = read_object(path, _BEGUN)
            for name in dict.fromkeys((*begun, *settings)):
                if begun.get(name) != settings.get(name):
                    raise InputError(
                        f"--out {self.folder}: was begun with {name} {begun.get(name)!r}, now it is "
                        f"{settings.get(name)!r}; name another folder, or remove this one to ask again"
                    )
            return
        with translated(f"--out {self.folder}: cannot be written", "name another folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, settings)

    def begun_on(self) -> date | None:
        """The day that chat templates were told when it was begun, and are to be told again; None if it says none.

        Raises:
            InputError: the settings are missing or damaged.
        """
        path = self.folder / SETTINGS
        day = read_object(path, _BEGUN).get("date")
        with translated(f"{path}: date {day!r}", "remove the folder to ask again"):
            return None if day is None else date.fromisoformat(day)

    def read(self) -> dict[int, Batch]:
        """The batches that are done, by number, of all processes. Raises InputError for a line that is none."""
        done: dict[int, Batch] = {}
        for file in sorted(self.folder.glob("progress-*.jsonl")):
            check_file(file)
            for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
                try:
                    record = json.loads(line)
                except ValueError:  # cut off by an interruption, or the empty rest behind the last line
                    continue
                batch = _batch(record, f"{file}: line {number}")
                done[batch.batch] = batch
        return done

    def replies(self, count: int) -> list[tuple[str | None, str | None]]:
        """(Answer, or None; why there is none) of each of ``count`` questions, when all batches are done.

        Raises:
            InputError: not one of them has an answer; or the files were tampered with.
        """
        done = self.read()
        replies = [
            (text, done[number].errors.get(str(place)))
            for number in sorted(done)
            for place, text in enumerate(done[number].texts)
        ]
        if len(replies) != count:
            raise InputError(
                f"--out {self.folder}: holds {len(replies)} answers to {count} questions; remove it to ask again"
            )
        if all(text is None for text, _ in replies):
            raise InputError(f"none of the {count} questions could be asked; the first: {replies[0][1]}")
        return replies

    def add(self, batch: Batch) -> None:
        """Append a batch that is done, at once."""
        # Begins a line as well, so that it never goes on where another one was cut off.
        with open(self.file, "ab", buffering=0) as file:
            file.write(b"\n" + json_bytes(asdict(batch)))


def _batch(record: Any, where: str) -> Batch:
    """A line of a file of progress. Raises InputError, saying where it stands, if it is none of ours."""
    kinds: dict[str, Any] = {"batch": int, "seconds": (int, float), "texts": list, "errors": dict}
    if (
        not isinstance(record, dict)
        or record.keys() != kinds.keys()
        or not all(isinstance(record[name], kind) for name, kind in kinds.items())
        or not all(text is None or isinstance(text, str) for text in record["texts"])
    ):
        raise InputError(f"{where} is no batch of answers; remove the line, and its questions are asked again")
    return Batch(**record)
