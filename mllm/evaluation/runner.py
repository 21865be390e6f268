"""Asking a model all questions of a benchmark: batched, over several processes, and to be continued."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from data.benchmarks import Benchmark, Question
from data.errors import InputError
from mllm.evaluation.progress import Batch, Progress
from mllm.generation import answer, question

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

READERS = 4  # threads that open the pictures of the next batch while the model answers this one
Loaded = tuple["PreTrainedModel", "MLLMProcessor"]


def processes() -> tuple[int, int]:
    """The rank of this process and the number of processes that a launcher started, (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """The device that `--device` means for this process: of several, each has a GPU of its own."""
    if processes()[1] > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


def meet() -> None:
    """Wait until all processes of the launch are here; the first time, let them find each other."""
    if processes()[1] == 1:
        return
    if not dist.is_initialized():
        # gloo does on every device, as nothing but waiting is done; and one may have to wait for long
        dist.init_process_group("gloo", timeout=timedelta(days=30))
    dist.barrier()


def ask(
    benchmark: Benchmark,
    questions: Sequence[Question],
    progress: Progress,
    load: Callable[[], Loaded],
    batch_size: int,
    max_new_tokens: int,
) -> None:
    """Get greedy answers to all questions that have none yet; returns when all processes of the launch are done.

    Batches are dealt to the processes in turn. A question whose picture cannot be opened, or that is too long for the
    model, gets no answer and costs its batch nothing.

    Args:
        progress: begun by the first process; gets the answers.
        load: gives the model and its processor; not called if there is nothing to do.
    """
    rank, world = processes()
    count = -(-len(questions) // batch_size)
    done = progress.read()
    meet()  # before anybody writes, so that all see the same batches done
    pending = [number for number in range(count) if number not in done][rank::world]
    if done:
        logger.info("%d of %d batches were answered before", len(done), count)
    if pending:
        model, processor = load()
        batches = [questions[number * batch_size : (number + 1) * batch_size] for number in pending]
        total = sum(map(len, batches))
        start = time.perf_counter()
        answered = 0
        for number, (batch, pictures) in zip(pending, _with_pictures(batches), strict=True):
            begin = time.perf_counter()
            prompted = [(benchmark.prompt(each), picture()) for each, picture in zip(batch, pictures, strict=True)]
            replies = _replies(model, processor, prompted, max_new_tokens)
            texts = [None if isinstance(reply, InputError) else reply for reply in replies]
            errors = {str(place): str(reply) for place, reply in enumerate(replies) if isinstance(reply, InputError)}
            progress.add(Batch(number, time.perf_counter() - begin, texts, errors))
            for place, reason in errors.items():
                logger.warning("question %s was not asked: %s", batch[int(place)].question_id, reason)
            answered += len(batch)
            each = (time.perf_counter() - start) / answered
            logger.info("%d of %d questions, %.2f s each", answered, total, each)
    meet()


def _with_pictures(
    batches: Sequence[Sequence[Question]],
) -> Iterator[tuple[Sequence[Question], list[Callable[[], Any]]]]:
    """Each batch with what waits for each of its pictures, those of the next batch being opened meanwhile."""
    with ThreadPoolExecutor(READERS) as readers:

        def begin(number: int) -> list[Callable[[], Any]]:
            batch = batches[number] if number < len(batches) else []
            return [readers.submit(_open, each).result for each in batch]

        ahead = begin(0)
        for number, batch in enumerate(batches):
            pictures, ahead = ahead, begin(number + 1)
            yield batch, pictures


def _open(each: Question) -> Any:
    """A question's picture, or the InputError that says why not."""
    try:
        return each.picture()
    except InputError as problem:
        return problem


def _replies(
    model: PreTrainedModel, processor: MLLMProcessor, asked: Sequence[tuple[str, Any]], max_new_tokens: int
) -> list[str | InputError]:
    """The answer to each prompt about a picture, or why it could not be asked."""
    good = [(prompt, picture) for prompt, picture in asked if not isinstance(picture, InputError)]
    replies = iter(_answers(model, processor, good, max_new_tokens))
    return [picture if isinstance(picture, InputError) else next(replies) for _, picture in asked]


def _answers(
    model: PreTrainedModel, processor: MLLMProcessor, asked: Sequence[tuple[str, Any]], max_new_tokens: int
) -> list[str | InputError]:
    """All at once; if that is refused, each by itself, to find out which one it is."""
    if not asked:
        return []
    conversations = [question(prompt, [picture]) for prompt, picture in asked]
    try:
        return list(answer(model, processor, conversations, max_new_tokens))
    except InputError as problem:
        if len(asked) == 1:
            return [problem]
        return [each for one in asked for each in _answers(model, processor, [one], max_new_tokens)]
