"""Words and numbers in real fonts, which images may hold beside drawings."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data.errors import InputError
from data.synthetic.vocabulary import below, between, pick

Box = tuple[float, float, float, float]
_SIGNS = (
    "OPEN CLOSED SALE STOP EXIT ENTER CAFE HELLO WELCOME THANKS FREE NEW HOT COLD PUSH PULL YES NO GO UP DOWN LEFT "
    "RIGHT TODAY MONDAY FRIDAY SUNDAY MARCH JUNE SUMMER WINTER SPRING PARK BEACH CITY MARKET MUSIC DANCE PLAY WORK "
    "HOME SCHOOL LUNCH DINNER TEA COFFEE MILK WATER JUICE SUGAR HAPPY LOVE PEACE DREAM LUCKY WINNER FIRST LAST NORTH "
    "SOUTH EAST WEST RED BLUE GREEN GOLD SILVER BIG SMALL FAST SLOW SAFE DANGER CAREFUL QUIET PRIVATE STAFF MENU BAKERY"
)
_FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSansMono "
    "DejaVuSansMono-Bold STIXGeneral STIXGeneralBol STIXGeneralItalic"
)
SIGNS, _FILES = tuple(_SIGNS.split()), tuple(_FONTS.split())
_INK = (
    ((20, 20, 20), (250, 250, 245)),
    ((250, 250, 250), (30, 30, 40)),
    ((180, 20, 30), (255, 245, 225)),
    ((20, 60, 160), (240, 245, 250)),
    ((255, 225, 40), (30, 60, 50)),
    ((255, 255, 255), (190, 30, 40)),
)


@dataclass(frozen=True)
class Lettering:
    """A word or number on its plate.

    Attributes:
        text: as it is written.
        box: of the plate, in pixels: x1, y1, x2, y2.
        look: which font, which two colors.
    """

    text: str
    box: Box
    look: tuple[int, int]

    def draw(self, image: Image.Image) -> None:
        """Draws plate and text into an RGB image."""
        ink, paper = _INK[self.look[1]]
        left, top, right, bottom = map(round, self.box)
        draw = ImageDraw.Draw(image)
        draw.rounded_rectangle((left, top, right, bottom), (bottom - top) // 8, paper)
        size = _size(self.box)
        draw.text(((left + right) / 2, (top + bottom) / 2), self.text, ink, _font(self.look[0], size), anchor="mm")


def place_text(rng: random.Random, text: str, height: int, width: int) -> Lettering:
    """Chooses a font, a size and a place for a text, which lies inside the image."""
    shorter, look = min(height, width), (below(rng, len(_FILES)), below(rng, len(_INK)))
    tall = between(rng, 0.12, 0.24) * shorter
    for _ in range(6):
        wide = _font(look[0], _size((0, 0, 0, tall))).getlength(text) + 0.4 * tall
        if wide <= 0.94 * width:
            break
        tall *= 0.8
    x, y = between(rng, 0, max(1, width - wide)), between(rng, 0, max(1, height - tall))
    return Lettering(text, (x, y, min(x + wide, width), min(y + tall, height)), look)


def written(rng: random.Random, text: str) -> str:
    """A word in one of the usual ways to write it: WORD, Word or word."""
    return pick(rng, (text.upper(), text.upper(), text.capitalize(), text.lower()))


def _size(box: Box) -> int:
    return max(8, round(0.68 * (box[3] - box[1])))


@functools.lru_cache(maxsize=256)
def _font(number: int, size: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's, which are the same everywhere."""
    if (package := find_spec("matplotlib")) is None or package.origin is None:
        raise InputError("text: fonts need an extra: pip install 'sparseformer-mllm[drawings]', or say text=0")
    file = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{_FILES[number]}.ttf"
    return ImageFont.truetype(str(file), size)
