"""Opening one image, whatever it is, as 8-bit RGB, or saying in one line why that cannot be done."""

from __future__ import annotations

import io
import os
import re
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.errors import InputError, translated
from data.files import check_file, reading

MAX_PIXELS = 89_478_485
"""Default bound on an image's pixels, Pillow's own: a quarter of a GiB once decoded to RGB."""

ImageSource = str | os.PathLike[str] | bytes | IO[bytes]

# Decoders that an image may ask for. The rest of Pillow's are left out: some start other programs (EPS), some take
# anything for an image (TGA, which has no signature), and the others read no photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
_EXIF = b"Raw profile type exif\0"


def open_image(source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image to RGB, 8 bits a channel, upright.

    The content decides what a file is, not its extension; of an animation, the first frame counts. EXIF orientation is
    applied; CMYK, palettes and 16-bit grays are converted; transparency is laid over white. Color profiles are not
    applied. The result holds its pixels and no metadata; the file is closed.

    Args:
        source: a path, the encoded bytes, or a binary file that is open for reading.
        name: what to call the image in errors; by default the path or the file's name.
        max_pixels: larger images are refused before they are decoded. Pillow itself refuses those of more than
            ``2 * PIL.Image.MAX_IMAGE_PIXELS``.

    Raises:
        InputError: one line with the name, what is wrong and what to do, if the image is missing, broken, truncated,
            no image at all, or too large.
    """
    name = name or _name_of(source)
    if isinstance(source, (str, os.PathLike)):
        check_file(source, "image")
        with reading(source, "image"), open(source, "rb") as file:
            return _decode(file, name, max_pixels)
    return _decode(io.BytesIO(source) if isinstance(source, bytes) else source, name, max_pixels)


def to_rgb(image: Image.Image, *, name: str = "image") -> Image.Image:
    """A decoded image of any mode as a new RGB image of the same size, without metadata.

    Transparency is laid over white; 16-bit grays are scaled to 8 bits.

    Raises:
        InputError: for modes whose range of values is unknown or that Pillow cannot convert.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow's own conversion clips 16-bit values at 255. Of PNG and PPM, mode "I" also holds 0...65535.
        values = np.asarray(image).astype(np.int64)
        gray = ((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            gray[values == image.info["transparency"]] = 255
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"{name}: has pixels of 32 bits, of unknown range; save it with 8 or 16 bits a channel")
    with translated(f"{name}: mode {image.mode} has no way to RGB", "save it as RGB"):
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            result = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        else:
            result = image.convert("RGB")
    result.info.clear()
    return result


def _decode(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    with translated(f"{name}: is broken or truncated", "fetch it again or leave it out"):
        try:
            return _read(file, name, max_pixels)
        except InputError:
            raise
        except Exception:
            bare = _without_texts(file)
            if bare is None:
                raise
            return _read(bare, name, max_pixels)


def _read(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    try:
        with Image.open(file, formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(_too_large(name, f"{width}x{height} = {width * height:,}", max_pixels))
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            except SyntaxError:  # a block that is no EXIF tells no orientation
                upright = image
            upright.format = image.format  # tells to_rgb what the values of mode "I" mean
            return to_rgb(upright, name=name)
    except Image.DecompressionBombError as error:
        # Raised by Pillow before we see the size; its sentence begins with the number of pixels.
        pixels = re.findall(r"\d+", str(error))
        raise InputError(_too_large(name, f"{int(pixels[0]):,}" if pixels else "too many", max_pixels)) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: is no image in a known format ({', '.join(_formats())}); convert it or leave it out"
        ) from error


def _without_texts(file: IO[bytes]) -> IO[bytes] | None:
    """A PNG without its texts and color profile, on which no pixel depends; None if it has none, or is no PNG.

    Pillow takes a MiB of either, unpacked, for an attack, and the workflow that made an image can be longer. The text
    in which ImageMagick keeps the orientation stays.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(_PNG)) != _PNG:
        return None
    bare, found = io.BytesIO(_PNG), False
    bare.seek(len(_PNG))
    while len(head := file.read(8)) == 8:
        start = file.tell()
        end = min(start + int.from_bytes(head[:4], "big") + 4, size)  # the 4: its checksum
        if head[4:] in _TEXTS and file.read(len(_EXIF)) != _EXIF:
            found = True
        else:
            file.seek(start)
            bare.write(head + file.read(end - start))
        file.seek(end)
    return bare if found else None


@cache
def _formats() -> tuple[str, ...]:
    """Those of our formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(name: str, pixels: str, bound: int) -> str:
    return f"{name}: is too large, {pixels} pixels; scale it down to at most {bound:,} pixels"


def _name_of(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return str(Path(source)) if os.fspath(source) else "''"
    if isinstance(source, bytes):
        return "image in memory"
    return str(getattr(source, "name", "image in memory"))
