"""Asking a model all questions of a benchmark: batched, over several processes, and to be continued."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState

from data.benchmarks import Benchmark, Question
from data.errors import InputError
from data.messages import Conversation
from data.processes import launch_rank
from mllm.evaluation.progress import Batch, Progress
from mllm.generation import GREEDY, answer, prepare, question

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, PreTrainedModel

    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

READERS = 4  # threads that open the images of the next batch while the model answers this one
Loaded = tuple["PreTrainedModel", "MLLMProcessor"]


def own_device(name: str) -> str:
    """The device that `--device` means for this process: of several, each has a GPU of its own."""
    rank = launch_rank("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and name in ("auto", "cuda") and torch.cuda.is_available() else name


def launched() -> PartialState:
    """The processes of the launch. They meet over gloo on any device: all they do is wait, perhaps for long."""
    return PartialState(cpu=True, timeout=timedelta(days=30))


def ask(
    benchmark: Benchmark,
    questions: Sequence[Question],
    progress: Progress,
    load: Callable[[], Loaded],
    batch_size: int,
    max_new_tokens: int,
    look: Mapping[str, int],
) -> None:
    """Get greedy answers to all questions that have none yet; returns when all processes of the launch are done.

    Batches are dealt to the processes in turn. A question whose image cannot be opened, or that is too long for the
    model, gets no answer and costs its batch nothing.

    Args:
        progress: begun by the first process; gets the answers.
        load: gives the model and its processor; not called if there is nothing to do.
        look: ``num_tokens`` and ``image_size`` of each image, where they are not the model's own.
    """
    process = launched()
    count = -(-len(questions) // batch_size)
    done = progress.read()
    process.wait_for_everyone()  # before anybody writes, so that all see the same batches done
    pending = [number for number in range(count) if number not in done][process.process_index :: process.num_processes]
    if done:
        logger.info("%d of %d batches were answered before", len(done), count)
    if pending:
        model, processor = load()
        batches = [questions[number * batch_size : (number + 1) * batch_size] for number in pending]
        total = sum(map(len, batches))
        start = begin = time.perf_counter()
        answered = 0
        for number, batch in zip(pending, _ahead(benchmark, processor, batches, look), strict=True):
            replies = batch.replies(model, processor, max_new_tokens)
            texts = [None if isinstance(reply, InputError) else reply for reply in replies]
            errors = {str(place): str(reply) for place, reply in enumerate(replies) if isinstance(reply, InputError)}
            progress.add(Batch(number, time.perf_counter() - begin, texts, errors))
            begin = time.perf_counter()
            for place, reason in errors.items():
                logger.warning("question %s was not asked: %s", batch.questions[int(place)].question_id, reason)
            answered += len(texts)
            logger.info("%d of %d questions, %.2f s each", answered, total, (begin - start) / answered)
    process.wait_for_everyone()


@dataclass(frozen=True)
class _Ready:
    """Questions with all that can be done before the model has its turn."""

    questions: Sequence[Question]
    images: list[Image | InputError]  # of each question
    conversations: list[Conversation]  # about those that could be opened
    inputs: BatchFeature | None  # what `prepare` made of them; None where it refused one

    def replies(self, model: PreTrainedModel, processor: MLLMProcessor, max_new_tokens: int) -> list[str | InputError]:
        """The answer to each question, or why it could not be asked."""
        replies = iter(answer_each(model, processor, self.conversations, max_new_tokens, inputs=self.inputs))
        return [image if isinstance(image, InputError) else next(replies) for image in self.images]


def _ahead(
    benchmark: Benchmark, processor: MLLMProcessor, batches: Sequence[Sequence[Question]], look: Mapping[str, int]
) -> Iterator[_Ready]:
    """Each batch made ready, which is done with the next one while the model answers this one."""
    own = copy.deepcopy(processor)
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as preparer:

        def ready(questions: Sequence[Question]) -> _Ready:
            images = list(readers.map(_open, questions))
            conversations = [
                question(benchmark.prompt(each), [image], **look)
                for each, image in zip(questions, images, strict=True)
                if not isinstance(image, InputError)
            ]
            try:
                inputs = prepare(own, conversations) if conversations else None
            except InputError:
                inputs = None
            return _Ready(questions, images, conversations, inputs)

        following = preparer.submit(ready, batches[0])
        for batch in (*batches[1:], None):
            current = following.result()
            if batch is not None:
                following = preparer.submit(ready, batch)
            yield current


def _open(each: Question) -> Image | InputError:
    """A question's image, or the InputError that says why not."""
    try:
        return each.load_image()
    except InputError as problem:
        return problem


def answer_each(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    conversations: Sequence[Conversation],
    max_new_tokens: int,
    *,
    inputs: BatchFeature | None = None,
    stop: Sequence[str] = (),
    decoding: Mapping[str, object] = GREEDY,
) -> list[str | InputError]:
    """`answer` to all at once; if that is refused, to each by itself, or why that one is refused."""
    if not conversations:
        return []
    try:
        return list(
            answer(model, processor, conversations, max_new_tokens, inputs=inputs, stop=stop, decoding=decoding)
        )
    except InputError as problem:
        if len(conversations) == 1:
            return [problem]
        return [
            each
            for one in conversations
            for each in answer_each(model, processor, [one], max_new_tokens, stop=stop, decoding=decoding)
        ]
