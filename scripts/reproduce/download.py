"""Downloads the files of a list, each once: python scripts/reproduce/download.py LIST [NAME ...] --out DIR

An entry of the list, a YAML file, is one of

    NAME: {to: PATH, address: URL}                          a file, from any web server
    NAME: {to: PATH, hub: OWNER/NAME, file: PATH}           a file of a repository of the Hugging Face hub
    NAME: {to: PATH, hub: OWNER/NAME, files: [PATTERN, …]}  several, as a folder
    NAME: {to: PATH, link: PATH}                            a link to what is there, relative to DIR as all paths are

`kind: dataset` says what sort of repository it is. With `part` the file is a zip: what lies at this path in it becomes
`to`, a folder or a file, and the zip is deleted ("." is all of it). `bytes`, `sha256` and `md5` are checked where they
are given; `about` is a size in GB that was only heard of, to plan with. `license` and `note` are for people.

What was interrupted goes on at the byte where it was. A file or folder appears whole or not at all, so what exists is
not fetched again, whoever put it there. Sums that the list lacks are written to DIR/lock.json when a file comes for the
first time, with the revisions of repositories; from then on, and wherever this lock.json is taken, another file is
refused.

HF_ENDPOINT: address of the hub, or of its mirror.  MIRROR: the files of all other servers come from MIRROR/HOST/PATH.
RETRY_SECONDS (2): before another try, and twice as many before each further one.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import http.client
import logging
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import yaml
from filelock import FileLock, Timeout

from data.errors import InputError, reason, translated
from data.files import named_when_full, read_json, read_text, write_json

logger = logging.getLogger("download")

GB = 10**9
_TRIES = 5  # in a row in which not one byte came
_PATIENCE = 60  # seconds in which a server says nothing
_CHUNK = 2**20
_GONE = range(400, 500)  # answers that another try does not change, but for:
_BUSY = (408, 425, 429)


@dataclass
class Entry:
    """Something to be fetched; see the top."""

    name: str
    to: str
    address: str | None = None
    hub: str | None = None
    kind: str = "model"
    file: str | None = None
    files: list[str] = field(default_factory=list)
    link: str | None = None
    part: str | None = None
    bytes: int | None = None
    about: float | None = None
    sha256: str | None = None
    md5: str | None = None
    license: str = ""
    note: str = ""

    @property
    def size(self) -> float:
        """Is the best that is known of its bytes; 0 for nothing."""
        return self.bytes or (self.about or 0) * GB

    @property
    def origin(self) -> str:
        if self.hub:
            return f"{'datasets/' if self.kind == 'dataset' else ''}{self.hub}{f'/{self.file}' if self.file else ''}"
        return self.address or f"a link to {self.link}"


def read_list(path: Path) -> list[Entry]:
    """Reads a list. Raises InputError for what is none."""
    with translated(f"{path}: is no list of files", "see scripts/reproduce/download.py"):
        content = yaml.safe_load(read_text(path))
        entries = [Entry(name, **{str(key): value for key, value in given.items()}) for name, given in content.items()]
    for entry in entries:
        one_file = entry.address or entry.file
        if sum(map(bool, (entry.address, entry.hub, entry.link))) != 1 or bool(entry.hub) != bool(
            entry.file or entry.files
        ):
            raise InputError(f"{path}: {entry.name}: give an address, or hub with file or files, or a link")
        if not one_file and (entry.part or entry.bytes or entry.sha256 or entry.md5):
            raise InputError(f"{path}: {entry.name}: part, bytes and sums are of one file")
        if os.path.isabs(entry.to) or ".." in Path(entry.to).parts:
            raise InputError(f"{path}: {entry.name}: to leads out of the folder")
    return entries


class Fetcher:
    """Fetches entries into a folder.

    Args:
        root: the folder; ``.downloading`` in it has what is under way, ``lock.json`` what is known of what came.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.under_way, self.lock_file = root, root / ".downloading", root / "lock.json"
        self.lock: dict[str, Any] = read_json(self.lock_file) if self.lock_file.exists() else {}

    def fetch(self, entry: Entry) -> None:
        """Fetches an entry unless it is there.

        Raises:
            InputError: it cannot be had, or is not what it should be.
        """
        target = self.root / entry.to
        if target.exists():
            self._check_present(entry, target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.link:
            target.unlink(missing_ok=True)  # one that leads nowhere
            target.symlink_to(os.path.relpath(self.root / entry.link, target.parent))
            return
        self._check_disk(entry)
        logger.info("%s: %s", entry.name, entry.origin)
        with named_when_full(self.root):
            if entry.files:
                self._place_folder(entry, target)
            else:
                self._place_file(entry, target)

    def _check_present(self, entry: Entry, target: Path) -> None:
        """What was fetched must still have its size; what was not is taken as it is."""
        known = self.lock.get(entry.name)
        if known is None and not entry.link:
            logger.warning("%s: %s was there already; it is taken as it is", entry.name, target)
        elif known and target.is_file() and not entry.part and target.stat().st_size != known["bytes"]:
            found = f"{target.stat().st_size:,} bytes instead of {known['bytes']:,}"
            raise InputError(f"{target}: has {found}; delete it to fetch it again")

    def _check_disk(self, entry: Entry) -> None:
        need, free = entry.size * (2 if entry.part else 1), shutil.disk_usage(self.root).free
        if need > free:
            raise InputError(
                f"{entry.name}: takes {need / GB:.1f} GB, and {self.root} has {free / GB:.1f} GB free; make room"
            )

    def _place_file(self, entry: Entry, target: Path) -> None:
        place = self.under_way / entry.name
        place.mkdir(parents=True, exist_ok=True)
        came = self._from_hub(entry, place) if entry.hub else self._from_address(entry, place)
        try:
            self._check(entry, came)
            if entry.part:
                unpack(came, entry.part, target, place / "unpacked")
        except InputError:
            shutil.rmtree(place)  # or it would be found wrong again
            raise
        if not entry.part:
            came.replace(target)
        shutil.rmtree(place)

    def _from_address(self, entry: Entry, place: Path) -> Path:
        address, mirror = str(entry.address), os.environ.get("MIRROR")
        if mirror:
            address = f"{mirror.rstrip('/')}/{address.partition('://')[2]}"
        with translated(address, f"or fetch it by hand, to {self.root / entry.to}"):
            download(address, place / "content")
        return place / "content"

    def _from_hub(self, entry: Entry, place: Path) -> Path:
        import huggingface_hub

        with self._asking(entry):
            revision = self._revision(entry)
            options = {"repo_type": entry.kind, "revision": revision, "local_dir": place}
            return Path(huggingface_hub.hf_hub_download(str(entry.hub), str(entry.file), **options))

    def _place_folder(self, entry: Entry, target: Path) -> None:
        import huggingface_hub

        place = self.under_way / entry.name
        with self._asking(entry):
            options = {"repo_type": entry.kind, "revision": self._revision(entry), "local_dir": place}
            huggingface_hub.snapshot_download(str(entry.hub), allow_patterns=entry.files, **options)
        shutil.rmtree(place / ".cache", ignore_errors=True)
        came = {str(file.relative_to(place)): sum_of(file) for file in sorted(place.rglob("*")) if file.is_file()}
        if not came:
            raise InputError(f"{entry.name}: {entry.hub} has no {', '.join(entry.files)}")
        known = self.lock.get(entry.name, {})
        for name, found in known.get("files", came).items():
            if came.get(name) != found:
                shutil.rmtree(place)
                raise InputError(f"{entry.name}: {name} of {entry.hub} is not that of {self.lock_file}; compare both")
        self._remember(entry, files=came)
        place.replace(target)

    @contextmanager
    def _asking(self, entry: Entry) -> Iterator[None]:
        fix = "check the connection and HF_ENDPOINT, and HF_TOKEN if it asks for an agreement"
        with translated(f"{entry.name}: {entry.hub} cannot be fetched", fix):
            yield

    def _revision(self, entry: Entry) -> str:
        """The commit of the repository: that of the first time."""
        import huggingface_hub

        if revision := self.lock.get(entry.name, {}).get("revision"):
            return str(revision)
        revision = huggingface_hub.HfApi().repo_info(str(entry.hub), repo_type=entry.kind).sha
        self._remember(entry, revision=revision)  # so that what was begun goes on with the same
        return str(revision)

    def _check(self, entry: Entry, came: Path) -> None:
        """Raises InputError unless a file is what the list, or the lock, says; then the lock says it."""
        known = self.lock.get(entry.name, {})
        size, digest = came.stat().st_size, sum_of(came)
        for what, found, wanted, who in (
            ("bytes", size, entry.bytes, "the list"),
            ("SHA-256", digest, entry.sha256, "the list"),
            ("MD5", entry.md5 and sum_of(came, "md5"), entry.md5, "the list"),
            ("SHA-256", digest, known.get("sha256"), self.lock_file),
        ):
            if wanted is not None and found != wanted:
                raise InputError(f"{entry.name}: {entry.origin} has {what} {found} instead of {wanted}, as {who} says")
        self._remember(entry, bytes=size, sha256=digest)

    def _remember(self, entry: Entry, **facts: Any) -> None:
        self.lock[entry.name] = {**self.lock.get(entry.name, {}), "origin": entry.origin, **facts}
        write_json(self.lock_file, self.lock)


def sum_of(file: Path, kind: str = "sha256") -> str:
    """Computes a checksum of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, kind).hexdigest()


def download(address: str, file: Path) -> None:
    """Downloads a file, going on with what is there of it if the server still has the same one.

    Raises:
        InputError: the server has no such file, or does not answer any more.
    """
    failures = 0
    while True:
        before = file.stat().st_size if file.exists() else 0
        try:
            _transfer(address, file)
            return
        except urllib.error.HTTPError as error:
            if error.code in _GONE and error.code not in _BUSY:
                raise InputError(f"{address}: the server answers {error.code} {error.reason}") from error
            problem: Exception = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
        came = (file.stat().st_size if file.exists() else 0) > before
        failures = 0 if came else failures + 1
        if failures == _TRIES:
            raise InputError(f"{address}: {reason(problem)}; check the connection and start again") from problem
        logger.warning("%s: %s; it goes on", address, reason(problem))
        time.sleep(float(os.environ.get("RETRY_SECONDS", 2)) * 2**failures)


def _transfer(address: str, file: Path) -> None:
    """One request, from where the file ends; OSError if the connection ends before the file does."""
    tag = file.with_name(f"{file.name}.tag")  # by which the server tells its files apart
    have = file.stat().st_size if file.exists() and tag.exists() else 0
    headers = {"User-Agent": "mllm-download"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the same file, and nothing of it is missing
            return
        raise
    with answer:
        goes_on = answer.status == 206
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if not goes_on:
            file.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            if validator and not validator.startswith("W/"):
                tag.write_text(validator)
        whole = int(answer.headers.get("Content-Length", -1)) + (have if goes_on else 0)
        with file.open("ab" if goes_on else "wb") as content:
            said = time.monotonic()
            while chunk := answer.read(_CHUNK):
                content.write(chunk)
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    logger.info("%s: %.2f of %.2f GB", address, content.tell() / GB, whole / GB)
    if file.stat().st_size < whole:
        raise ConnectionError(f"the connection ended after {file.stat().st_size:,} of {whole:,} bytes")


def unpack(archive: Path, part: str, target: Path, place: Path) -> None:
    """Makes what lies at a path of a zip a file or a folder, whole or not at all; its sums are checked on the way.

    Args:
        part: the path in the zip; "." is all of it.
        target: the file or folder.
        place: a folder for what is not whole yet, on the same disk.
    """
    shutil.rmtree(place, ignore_errors=True)
    with translated(f"{target}: the archive cannot be unpacked", "the server may have sent a page instead"):
        with ZipFile(archive) as content:
            prefix = "" if part == "." else f"{part.rstrip('/')}/"
            members = [each for each in content.infolist() if not each.is_dir() and "__MACOSX" not in each.filename]
            chosen = [each for each in members if each.filename == part or each.filename.startswith(prefix)]
            if not chosen:
                raise InputError(
                    f"{target}: there is no {part} in the archive, but {members[0].filename if members else 'nothing'}"
                )
            for member in chosen:
                member.filename = "file" if member.filename == part else member.filename[len(prefix) :]
                content.extract(member, place)
        (place / "file" if chosen[0].filename == "file" and len(chosen) == 1 else place).replace(target)


def plan(entries: list[Entry], fetcher: Fetcher) -> str:
    """Says what is there, what would be fetched, and how much disk that takes."""
    lines, left, unknown, largest = [], 0.0, 0, 0.0
    for entry in entries:
        there = (fetcher.root / entry.to).exists()
        size = f"{entry.bytes / GB:.2f} GB" if entry.bytes else f"about {entry.about:g} GB" if entry.about else "?"
        state = "there" if there else "link" if entry.link else size
        lines.append(f"{state:>14}  {entry.to}  <- {entry.origin}" + (f"  ({entry.license})" if entry.license else ""))
        if not there and not entry.link:
            left += entry.size
            unknown += not entry.size
            largest = max(largest, entry.size if entry.part else 0)
    lines.append(
        f"to fetch: {left / GB:.0f} GB, and {unknown} files whose size is not known; while the largest archive is "
        f"unpacked {(left + largest) / GB:.0f} GB are taken"
    )
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    """Fetches, or says what it would do."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("list", type=Path, metavar="LIST", help="YAML")
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to fetch, or patterns; default: all")
    parser.add_argument(
        "--without", action="append", default=[], metavar="PATTERN", help="leave out what goes to such paths"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where they go")
    parser.add_argument("--dry-run", action="store_true", help="say what there is, and what would be fetched")
    args = parser.parse_args()
    try:
        entries = {entry.name: entry for entry in read_list(args.list)}
        for name in args.names:
            if not fnmatch.filter(entries, name):
                raise InputError(f"{name}: {args.list} has no such entry; there are {', '.join(entries)}")
        chosen = [
            entry
            for entry in entries.values()
            if any(fnmatch.fnmatch(entry.name, name) for name in args.names or "*")
            and not any(fnmatch.fnmatch(entry.to, pattern) for pattern in args.without)
        ]
        if args.dry_run:
            sys.stdout.write(plan(chosen, Fetcher(args.out)))
            return 0
        args.out.mkdir(parents=True, exist_ok=True)
        with FileLock(args.out / ".downloading.lock", blocking=False):
            fetcher = Fetcher(args.out)
            for entry in chosen:
                fetcher.fetch(entry)
    except (InputError, OSError) as error:
        text = f"{args.out}: another process is downloading to it" if isinstance(error, Timeout) else str(error)
        sys.stderr.write(f"error: {' '.join(text.split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
