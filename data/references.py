"""How a sample, or a person, names an image: a file, an address, or the image itself."""

from __future__ import annotations

import base64
import os
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from urllib.request import urlopen

from data.errors import InputError, shorten, translated

if TYPE_CHECKING:
    from PIL import Image

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_FILE_ADDRESS = re.compile(r"file:(//(localhost)?(?=/))?", re.IGNORECASE)
_DATA_URL = re.compile("data:", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")  # or a file whose name has no dot
_KEYS = ("bytes", "path", "url")


class AddressError(InputError):
    """An address of the network in place of an image."""


def is_reference(value: Any) -> bool:
    """Whether a value of a sample is of a kind that `locate` takes."""
    return (isinstance(value, str) or isinstance(value := _held(value), (str, bytes))) and bool(value)


def locate(reference: Any, folder: Path) -> Path | bytes:
    """The file that a reference names, which need not be there, or the encoded image that it holds.

    Args:
        reference: a file name, a ``file:`` address, a data URL, base64, bytes, or one of these in a dict, as
            `datasets.Image` (``bytes``, ``path``) and OpenAI (``url``) have it. Names may be written with Windows'
            backslashes, and with accents composed otherwise than in the folder.
        folder: where relative names lead from.

    Raises:
        AddressError: an address of the network.
        InputError: an image that is not encoded as it says.
    """
    reference = _held(reference)
    if isinstance(reference, bytes):
        return reference
    if _DATA_URL.match(reference):
        with translated(shorten(reference, 60), "write it as data:image/png;base64,..."), urlopen(reference) as content:
            return bytes(content.read())
    if _BASE64.fullmatch(reference) and not os.path.exists(folder / reference):
        with translated(shorten(reference, 60), "is no whole base64; write it again"):
            return base64.b64decode(reference)
    if address := _FILE_ADDRESS.match(reference):
        return _spelled(Path("/"), unquote(reference[address.end() :]))
    if _ADDRESS.match(reference):
        raise AddressError(
            f"{shorten(reference, 100)}: is an address, and nothing is fetched; download the image and name its file"
        )
    return _spelled(folder, reference)


def open_reference(reference: Any, folder: Path, name: str = "") -> Image.Image:
    """The image that a reference names (`locate`), as RGB. Raises InputError if there is none, or it is broken.

    ``name`` is what to call it in errors if it is no file.
    """
    from data.images import open_image  # numpy and Pillow wait until there is an image

    place = locate(reference, folder)
    return open_image(place, name=(name or f"image of {len(place):,} bytes") if isinstance(place, bytes) else None)


def _held(reference: Any) -> Any:
    if isinstance(reference, dict):
        return next((reference[key] for key in _KEYS if reference.get(key)), None)
    return reference


def _spelled(folder: Path, name: str) -> Path:
    """The file of this name, in the first spelling in which there is one."""
    spellings = [name, name.replace("\\", "/")]
    spellings += [unicodedata.normalize(form, spellings[1]) for form in ("NFC", "NFD")]
    return folder / next((spelling for spelling in spellings if os.path.exists(folder / spelling)), name)


def why_missing(reference: Any, folder: Path) -> str | None:
    """Says that an image that a sample names is not there, without opening it; None if it is."""
    try:
        place = locate(reference, folder)
    except InputError as error:
        return str(error)
    return None if isinstance(place, bytes) or os.path.isfile(place) else f"{place}: there is no such image"
