"""``python -m mllm.lab.benchmarking.throughput``: how much faster short answers come in batches than one by one.

The same questions about scenes are asked both ways, in turn, in one process; the median of the repeats counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data.benchmarks import build_benchmark
from data.errors import InputError
from mllm.finetuning.sources import image_size
from mllm.generation import Conversation, answer, question
from mllm.loading import load_model, quiet


def main(argv: list[str] | None = None) -> int:
    """Prints seconds per question and their ratio; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mllm.lab.benchmarking.throughput", description=__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="model or adapter directory")
    parser.add_argument("--questions", type=int, default=64, metavar="N", help="how many (default 64)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="against 1 (default 16)")
    parser.add_argument("--max-new-tokens", type=int, default=4, metavar="N", help="of an answer (default 4)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of both ways (default 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    args = parser.parse_args(argv)
    quiet()
    try:
        model, processor = load_model(args.model, args.device, args.dtype)
        scenes = build_benchmark("scenes", count=args.questions, size=image_size(processor.image_processor))
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    asked = [question(each.text, [each.load_image()]) for each in scenes.read_questions(Path(), Path())]

    def seconds(size: int, conversations: Sequence[Conversation]) -> float:
        begun = time.perf_counter()
        for start in range(0, len(conversations), size):
            answer(model, processor, conversations[start : start + size], args.max_new_tokens)
        return (time.perf_counter() - begun) / len(conversations)

    for size in (1, args.batch_size):
        seconds(size, asked[: args.batch_size])  # warm up
    pairs = [(seconds(1, asked), seconds(args.batch_size, asked)) for _ in range(args.repeats)]
    single, batched = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(one / many for one, many in pairs)
    sys.stdout.write(
        f"one by one: {1e3 * single:.2f} ms a question\n"
        f"batches of {args.batch_size}: {1e3 * batched:.2f} ms a question\n"
        f"faster by {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {args.repeats} repeats)\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
