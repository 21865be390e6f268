"""Images in a terminal: which way of drawing them it has, found by asking it, and the bytes of each way."""

from __future__ import annotations

import base64
import io
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

SECONDS = 0.5  # that a terminal has to answer; every one answers the second question, most at once
QUESTION = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\" + b"\x1b[c"
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL = b"4"  # among a terminal's attributes
_CHUNK = 4096  # bytes of base64 that kitty takes at once
_BAND = 6  # rows of pixels that a line of sixels draws


def find_way(environment: Mapping[str, str] = os.environ) -> Callable[[Image.Image], bytes] | None:
    """Returns what turns an image into bytes that this terminal draws, None if it has no way."""
    if environment.get("TERM_PROGRAM") == "iTerm.app" or environment.get("LC_TERMINAL") == "iTerm2":
        return iterm2
    told = _asked(QUESTION)
    if b"_Gi=31;OK" in told:
        return kitty
    found = _ATTRIBUTES.search(told)
    return sixel if found and _SIXEL in found[1].split(b";") else None


def _asked(question: bytes) -> bytes:
    """What the terminal says to a question that ends with one for its attributes; nothing where there is none."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return b""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return b""
    keyboard, told, end = sys.stdin.fileno(), b"", time.monotonic() + SECONDS
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        os.write(sys.stdout.fileno(), question)
        while not _ATTRIBUTES.search(told) and select.select([keyboard], [], [], max(0, end - time.monotonic()))[0]:
            told += os.read(keyboard, 1024)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    return told


def kitty(image: Image.Image) -> bytes:
    """As kitty, Ghostty, WezTerm and Konsole draw it: PNG in pieces of base64."""
    text = base64.b64encode(_png(image))
    pieces = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    heads = [b"a=T,f=100,m=1"] + [b"m=1"] * (len(pieces) - 1)
    heads[-1] = heads[-1].replace(b"m=1", b"m=0")
    return b"".join(b"\x1b_G%b;%b\x1b\\" % pair for pair in zip(heads, pieces, strict=True)) + b"\n"


def iterm2(image: Image.Image) -> bytes:
    """As iTerm2 draws it: a PNG file in base64."""
    content = _png(image)
    return b"\x1b]1337;File=inline=1;size=%d:%b\x07\n" % (len(content), base64.b64encode(content))


def sixel(image: Image.Image) -> bytes:
    """As xterm, foot, mlterm and Windows Terminal draw it: bands of six rows, one color after the other."""
    few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colors = np.asarray(few.getpalette(), dtype=int).reshape(-1, 3) * 100 // 255
    pixels = np.asarray(few)
    pixels = np.pad(pixels, ((0, -len(pixels) % _BAND), (0, 0)), mode="edge")
    out = [b'\x1bPq"1;1;%d;%d' % image.size]
    out += [b"#%d;2;%d;%d;%d" % (index, *color) for index, color in enumerate(colors)]
    for band in pixels.reshape(-1, _BAND, pixels.shape[1]):
        for color in np.unique(band):
            bits = ((band == color) << np.arange(_BAND)[:, None]).sum(axis=0) + 63
            out.append(b"#%d%b$" % (color, _repeated(bits)))
        out.append(b"-")
    return b"".join([*out, b"\x1b\\\n"])


def _repeated(values: np.ndarray) -> bytes:
    """Characters, of which `!` and a number repeat the next."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    counts = np.diff(starts, append=len(values))
    return b"".join(b"!%d%c" % pair for pair in zip(counts.tolist(), values[starts].tolist(), strict=True))


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()
