"""Files of weights: download once, read safely, compare names and shapes strictly."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import pickle
import struct
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from encoder.errors import WeightsError

logger = logging.getLogger(__name__)

# What torch.load raises for files that are cut short, are no pickle, or hold more than weights.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    struct.error,
)


def default_cache_dir() -> Path:
    """Where downloads are kept: torch's own folder, which the environment variable TORCH_HOME moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address rather than a path."""
    return source.startswith(("http://", "https://"))


def download(url: str, cache_dir: str | os.PathLike | None = None, timeout: float = 30.0) -> Path:
    """Fetch ``url`` into the cache, unless it is there, and return its path.

    The file is written under a temporary name beside its place, its length compared with the server's Content-Length,
    and only then renamed: the cache never holds half a file.

    Args:
        url: http or https.
        cache_dir: folder of the cache; None is `default_cache_dir`.
        timeout: seconds without an answer before giving up.

    Raises:
        WeightsError: the server cannot be reached, answers with an error, or sends fewer bytes than it announced.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    name = Path(urllib.parse.urlparse(url).path)
    # The address is part of the name: files of one name from two places must not be taken for each other.
    target = folder / f"{name.stem}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{name.suffix}"
    if target.is_file():
        return target
    logger.info("downloading %s to %s", url, target)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _stream(url, file, timeout)
        os.chmod(temporary, folder.stat().st_mode & 0o666)  # mkstemp's are the owner's alone
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _stream(url: str, file, timeout: float) -> None:
    """Copy what ``url`` answers into ``file``, with a progress bar on a terminal's stderr."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    received, expected = 0, None
    request = urllib.request.Request(url, headers={"User-Agent": "sparseformer-mllm"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer, bar:
            length = answer.headers.get("Content-Length")
            expected = int(length) if length is not None else None
            task = bar.add_task(url.rsplit("/", 1)[-1], total=expected)
            while block := answer.read(1 << 20):
                file.write(block)
                received += len(block)
                bar.update(task, completed=received)
    except http.client.IncompleteRead as error:
        received += len(error.partial)
        raise WeightsError(_cut_short(url, received, expected)) from error
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{url}: the server answers {error.code} {error.reason}; {_BY_HAND}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{url}: cannot be downloaded ({reason}); {_BY_HAND}") from error
    if expected is not None and received != expected:
        raise WeightsError(_cut_short(url, received, expected))


_BY_HAND = "download it yourself and pass weights=PATH"


def _cut_short(url: str, received: int, expected: int | None) -> str:
    return f"{url}: the download was cut short, {received} of {expected} bytes; try again, or {_BY_HAND}"


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors file or of a pickle, read with ``weights_only=True``, on the CPU.

    A pickle may wrap the weights in ``{"model": ...}``.

    Raises:
        WeightsError: the file is missing, damaged, or holds anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise WeightsError(
            f"{path}: damaged, or a pickle that holds more than weights, which is not loaded ({reason}); fetch it again"
        ) from error
    return named_tensors(content, str(path))


def named_tensors(content: object, source: str) -> dict[str, Tensor]:
    """The state dict in ``content``, unwrapped from ``{"model": ...}``; WeightsError if it is none."""
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightsError(f"{source}: not a state dict, that is names and tensors, plain or inside {{'model': ...}}")
    return dict(content)


def check_weights(source: str, given: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes; raise a WeightsError that lists every name at fault.

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
    parts = [
        f"{title}: {', '.join(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
        if names
    ]
    if parts:
        raise WeightsError(f"{source} does not fit the model; {'; '.join(parts)}")


def check_finite(source: str, weights: Mapping[str, Tensor]) -> None:
    """Look at every weight, in place, and raise a WeightsError that names the first with a NaN or an infinity in it.

    Args:
        source: what the message calls the weights: a path, a URL.
        weights: by name. Of one that ZeRO-3 has split this process's part is looked at; integers and 8-bit floats pass.
    """
    for name, weight in weights.items():
        values = getattr(weight, "ds_tensor", weight).detach()
        if not values.is_floating_point() or values.itemsize == 1 or values.is_meta or not values.numel():
            continue
        # Least and greatest let NaN through, and unlike a sum they cannot overflow.
        if not all(bound.isfinite() for bound in torch.aminmax(values)):
            raise WeightsError(f"{source}: {name} holds NaN or infinite values; take another copy or an earlier one")
