"""``python -m data.synthetic``: how fast scenes are drawn, and how well questions can be guessed."""

from __future__ import annotations

import argparse
import sys
import time

from data.errors import InputError
from data.synthetic.questions import question_set, text_only_baseline
from data.synthetic.scene import SceneConfig, make_scene


def main() -> int:
    """Prints the two reports to stdout."""
    parser = argparse.ArgumentParser(prog="python -m data.synthetic", description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images, in pixels")
    parser.add_argument("--images", type=int, default=1000, help="images to draw for the speed")
    parser.add_argument("--questions", type=int, default=2100, help="questions to guess")
    args = parser.parse_args()
    try:
        config = SceneConfig(height=args.size, width=args.size)
        if args.images < 1 or args.questions < 7:
            raise InputError(f"--images={args.images} --questions={args.questions}: choose at least 1 and 7")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    make_scene("train", 0, config).pixels()
    begin = time.process_time()
    scenes = [make_scene("train", index, config) for index in range(args.images)]
    drawn = time.process_time()
    for scene in scenes:
        scene.pixels()
    end = time.process_time()
    lines = [f"{args.size}x{args.size}: {args.images / (end - begin):.0f} images/s/core"]
    lines += [f"  {(drawn - begin) / args.images * 1e3:.2f} ms scene, {(end - drawn) / args.images * 1e3:.2f} ms image"]
    baseline = text_only_baseline(
        question_set("validation", args.questions, config), question_set("train", 2 * args.questions, config)
    )
    lines += ["text-only baseline, learned from train, on validation:"]
    lines += [f"  {category:<9}{accuracy:7.1%}" for category, accuracy in baseline.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
