"""The tables and the picture of docs/drawings.md: python scripts/drawings.py [--sheet docs/drawings.png]"""

from __future__ import annotations

import argparse
import sys
from time import process_time

from PIL import Image

from data.drawings.index import SPLITS, load_index
from data.drawings.scene import SceneConfig, make_scene

COLUMNS, ROWS, SIDE = 6, 4, 144


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", metavar="PNG", help="write a contact sheet of composed scenes")
    args = parser.parse_args()
    index = load_index()
    write = sys.stdout.write
    write("| split | artists | names | drawings |\n|---|---:|---:|---:|\n")
    for split in SPLITS:
        drawings = [each for of_name in index.of(split).values() for each in of_name]
        artists = len({each.artist for each in drawings})
        write(f"| `{split}` | {artists} | {len(index.of(split))} | {len(drawings):,} |\n")
    write("\n| set | author | license | drawings | names |\n|---|---|---|---:|---:|\n")
    for artist, credit in index.credits.items():
        names = [each.name for each in index.drawings if each.artist == artist]
        title = f"{credit['title']} (`{artist}`)"
        write(f"| {title} | {credit['author']} | {credit['license']} | {len(names):,} | {len(set(names)):,} |\n")
    write("\n| image | ms of one core |\n|---|---:|\n")
    for what, count, side in (("1 thing, 128 px", 1, 128), ("1 thing, 224 px", 1, 224), ("3 things, 224 px", 3, 224)):
        scenes = [make_scene("train", number, SceneConfig(side, side, count, 0.3)) for number in range(400)]
        scenes = [scene for scene in scenes if len(scene.things) == count][:100]
        begun = process_time()
        for scene in scenes:
            scene.image()
        write(f"| {what} | {1000 * (process_time() - begun) / len(scenes):.1f} |\n")
    if args.sheet:
        sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
        for number in range(COLUMNS * ROWS):
            scene = make_scene("train", number, SceneConfig(2 * SIDE, 2 * SIDE))
            sheet.paste(scene.image().resize((SIDE, SIDE)), (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
        sheet.quantize(224).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
