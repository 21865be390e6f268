"""Files of weights: download once, read safely, compare names and shapes strictly."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import socket
import sys
import urllib.parse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from data.errors import shorten, translated
from encoder.checkpoints import HARMLESS, unwrapped
from encoder.compat import own_part
from encoder.errors import WeightsError
from encoder.torchscript import is_torchscript, read_torchscript

logger = logging.getLogger(__name__)

_TIMEOUT = 60.0  # seconds in which a server says nothing
_HASH = re.compile("-([0-9a-f]{8,64})$")


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address rather than a path."""
    return source.startswith(("http://", "https://"))


def download(url: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Fetches a file into the cache, unless it is there, and returns its path.

    Where the address follows torch's convention, ``NAME-<first digits of the SHA-256>.pth``, the hash is checked.

    Args:
        url: http or https.
        cache_dir: folder of the cache; None is torch's own, which the environment variable TORCH_HOME moves.

    Raises:
        WeightsError: the server cannot be reached, falls silent or answers with an error, or the file has another hash.
    """
    name = Path(urllib.parse.urlparse(url).path)
    # The address is part of the name: files of one name from two places must not be taken for each other.
    folder = Path(cache_dir or os.path.join(torch.hub.get_dir(), "checkpoints"))
    target = folder / f"{name.stem}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{name.suffix}"
    if not target.is_file():
        logger.info("downloading %s to %s", url, target)
        digits = _HASH.search(name.stem)
        with translated(f"{url}: cannot be downloaded", "download it yourself and pass weights=PATH", WeightsError):
            folder.mkdir(parents=True, exist_ok=True)
            expected = digits and digits.group(1)
            with _impatient():
                torch.hub.download_url_to_file(url, str(target), expected, progress=sys.stderr.isatty())
    return target


@contextmanager
def _impatient() -> Iterator[None]:
    """Ends connections on which nothing comes any more; `torch.hub` itself would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


_LFS = b"version https://git-lfs"


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that may hold weights, of which no more than the beginning has been looked at.

    Raises:
        WeightsError: no file is there, or something else: a directory, a pipe, a pointer of Git LFS.
    """
    path = Path(path)
    if not path.is_file():
        found = path.exists()
        raise WeightsError(
            f"{path}: {'is no regular file' if found else 'no such file'} of weights; give a file's path"
        )
    with translated(str(path), error=WeightsError), path.open("rb") as file:
        beginning = file.read(len(_LFS))
    if not beginning:
        raise WeightsError(f"{path}: is empty; fetch it again")
    if beginning == _LFS:
        raise WeightsError(f"{path}: is a pointer of Git LFS, not the file itself; run git lfs pull where it is from")
    return path


def read_download(url: str, cache_dir: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Reads weights at an address as `read_weights` does; a file that cannot be read does not stay in the cache.

    That happens where the connection ended early, which `torch.hub` does not notice.
    """
    path = download(url, cache_dir)
    try:
        return read_weights(path)
    except WeightsError as error:
        path.unlink()
        raise WeightsError(shorten(f"{url}: cut short, or no weights: {error}")) from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Names and tensors of a file, on the CPU, whatever training has put around them; see `encoder.checkpoints`.

    The file is in safetensors' format, a pickle, read with ``weights_only=True``, or a TorchScript archive, whose code
    is not run.

    Raises:
        WeightsError: the file is missing, damaged, or holds no named tensors.
    """
    path = weights_file(path)
    if path.suffix == ".safetensors":
        with translated(f"{path}: not a readable safetensors file", "fetch it again", WeightsError):
            return named_tensors(load_file(path), str(path))
    fix = "fetch it again; what holds more than weights is not loaded"
    with translated(f"{path}: no readable file of weights", fix, WeightsError):
        if is_torchscript(path):
            return read_torchscript(path)
        content = _load_pickle(path)
    return named_tensors(content, str(path))


def _load_pickle(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The reason, which torch puts behind its advice to load the file unsafely.
        raise (error.__context__ or error) from None


def named_tensors(content: object, source: str) -> dict[str, Tensor]:
    """The state dict in ``content``, taken out of what training has put around it; WeightsError if there is none."""
    weights = unwrapped(content)
    named = dict(weights) if isinstance(weights, Mapping) else {}
    if not named or not all(isinstance(name, str) and isinstance(each, Tensor) for name, each in named.items()):
        raise WeightsError(f"{source}: not a state dict, that is names and tensors, plain or inside {{'model': ...}}")
    return named


def check_weights(source: str, given: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes, and look for NaN; raise a WeightsError that counts those at fault and names the first.

    Args:
        source: what the message calls the weights: a path, a URL.
        given: the weights.
        expected: the shape of every weight that the model has.
    """
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    wrong = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != tuple(shape)
    ]
    _check_fit(source, missing, unexpected, wrong)
    check_finite(source, given.items())


def check_report(
    source: str, report: Mapping[str, Collection[Any]], unread: Collection[str] = (), fix: str = ""
) -> None:
    """Raises WeightsError unless transformers found every weight of a model, in its shape, and no other.

    Args:
        source: what the message calls the weights: a directory.
        report: the loading info of `from_pretrained`.
        unread: names that the files may hold beside the model's.
        fix: what to do about it.
    """
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"])
    _check_fit(source, sorted(report["missing_keys"]), sorted(set(report["unexpected_keys"]) - set(unread)), wrong, fix)


def _check_fit(
    source: str, missing: Sequence[str], unexpected: Sequence[str], wrong: Sequence[str], fix: str = ""
) -> None:
    faults = {"missing": missing, "unexpected": unexpected, "wrong shape": wrong}
    if any(faults.values()):
        listed = shorten("; ".join(f"{title}: {some(names)}" for title, names in faults.items() if names))
        raise WeightsError(f"{source} does not fit the model; {listed}{fix and f'; {fix}'}")


def some(names: Sequence[str], most: int = 2) -> str:
    """The first of these names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def check_finite(
    source: str, weights: Iterable[tuple[str, Tensor]], fix: str = "take another copy or an earlier one"
) -> None:
    """Look at every weight, in place, and raise a WeightsError that names the first with a NaN or an infinity in it.

    Args:
        source: what the message calls the weights: a path, a URL.
        weights: names and tensors. Of one that ZeRO-3 has split this process's part is looked at; integers and 8-bit
            floats pass.
        fix: what to do about it.
    """
    for name, weight in weights:
        values = own_part(weight)
        if not values.is_floating_point() or values.itemsize == 1 or values.is_meta or not values.numel():
            continue
        # Least and greatest let NaN through, and unlike a sum they cannot overflow.
        if not all(bound.isfinite() for bound in torch.aminmax(values)):
            raise WeightsError(f"{source}: {name} holds NaN or infinite values; {fix}")


def check_files_finite(folder: Path, source: str, fix: str) -> None:
    """`check_finite` for every safetensors file in a folder, one tensor in memory at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            names = stored.keys()
            check_finite(source, ((name, stored.get_tensor(name)) for name in names), fix)
