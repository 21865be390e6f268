"""The scheduler: requests in, tokens out as they come, as many answers at once as fit.

A request passes through three places, each of which takes what has come together meanwhile: it is *prepared* (images
decoded, text encoded) by the caller's thread; its images are *encoded* in one thread, in batches; and in another it is
*decoded*: it joins the others between two steps, oldest first, and every one of its tokens is handed on at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from data.messages import Conversation, Message
from mllm.generation import as_seen, in_image
from mllm.loading import context_length
from mllm.processing import MLLMProcessor, join_images
from mllm.prompts import TooLong, encode_prompt
from mllm.serving.batch import Batch, joinable
from mllm.serving.jobs import Delta, Image, Job
from mllm.serving.limits import Limits
from mllm.serving.memory import ImageMemory, Layers, Prefix, PrefixMemory, SeenImage
from mllm.serving.metrics import Metrics
from mllm.serving.sampling import draw, logprob
from mllm.serving.streaming import TextStream

logger = logging.getLogger(__name__)

ENCODED_TOGETHER = 16  # images
GATHERED = 0.01  # seconds that images wait for those of requests that are being prepared, to be encoded together
READ_TOGETHER = 4096  # tokens of prompts, so that answers under way wait for no more than that


@dataclass(eq=False)
class Answer:
    """One of a request's answers, while it is a row of a batch."""

    job: Job
    choice: int
    stream: TextStream
    generator: torch.Generator
    known: np.ndarray  # the prompt's tokens, with numbers of images


class Engine:
    """Answers requests with a model, in threads of its own, until it is closed.

    `coming` counts requests that are being prepared; whoever prepares them counts.
    """

    def __init__(self, model: Any, processor: MLLMProcessor, limits: Limits, metrics: Metrics) -> None:
        self.model, self.processor, self.limits, self.metrics = model, processor, limits, metrics
        self.images = ImageMemory()
        self.prefixes = PrefixMemory(limits.cache)
        self.joinable = joinable(model)
        self.coming = 0
        self.placeholder = model.config.image_token_index
        stop = model.generation_config.eos_token_id
        self.ends = set(stop if isinstance(stop, list) else [stop])
        longest = context_length(model.config)
        self.longest = limits.prompt if longest is None else min(longest, limits.prompt)
        self.to_encode: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.to_decode: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        works = (self._encode, self._decode)
        self.threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in works]
        for thread in self.threads:
            thread.start()

    # ------------------------------------------------------------------------------------------- the callers' threads

    def prepare(
        self,
        processor: MLLMProcessor,
        messages: Sequence[Message],
        images: Sequence[Image],
        max_tokens: int | None,
        **options: Any,
    ) -> Job:
        """Makes a job of a conversation, `submit`'s.

        Args:
            processor: a copy for the thread that calls: no tokenizer can be used by two at once.
            images: one for each image part.
            max_tokens: of an answer; None: as many as are allowed.
            **options: fields of `Job`.

        Raises:
            TooLong: there is no room for the conversation and ``max_tokens``.
            InputError: an image that is broken, or a malformed conversation.
        """
        seen = [self._see(processor, image) for image in images]
        view = [image.image_size for image in images][:1] or [None]
        views = processor.views([image.size for image in seen], view[0])
        tokens = encode_prompt(processor, as_seen(messages, views), [image.text for image in seen], views)
        room = self.longest - len(tokens)
        wanted = min(room, self.limits.tokens) if max_tokens is None else max_tokens
        if room < max(wanted, 1):
            raise TooLong(
                f"the conversation has {len(tokens)} tokens; with {max(wanted, 1)} of an answer the longest, "
                f"{self.longest}, is exceeded: shorten the conversation or max_tokens"
            )
        conversation = cast(Conversation, {"images": seen[-1:], "image_size": view[0]})
        change = partial(in_image, processor, conversation=conversation)
        return Job(tokens, seen, wanted, change=change, **options)

    def submit(self, job: Job) -> None:
        """Has a job answered: its `emit` is called until there is a reason for each choice, or with an exception."""
        encoded = all(image.features is not None for image in job.images)
        (self.to_decode if encoded else self.to_encode).put(job)

    def close(self) -> None:
        """Ends the threads. Whatever is not answered by then stays so."""
        for waiting in (self.to_encode, self.to_decode):
            waiting.put(None)
        for thread in self.threads:
            thread.join()

    def _see(self, processor: MLLMProcessor, image: Image) -> SeenImage:
        look = repr((image.num_tokens, image.image_size)).encode()
        key = sha256(sha256(image.content).digest() + look).digest()

        def read() -> SeenImage:
            opened = image.open(image.content)
            counts = None if image.num_tokens is None else [image.num_tokens]
            texts, inputs = processor.read_images([opened], num_tokens=counts, image_size=image.image_size)
            return SeenImage(key, opened.size, texts[0], inputs)

        return self.images.get(key, read)

    # --------------------------------------------------------------------------------------------- the engine's threads

    def _guarded(self, work: Callable[[], None]) -> None:
        with torch.inference_mode():
            work()

    def _encode(self) -> None:
        while True:
            jobs = _take(self.to_encode, wait=True)
            end = time.monotonic() + GATHERED
            while self.coming and len(jobs) < ENCODED_TOGETHER and (left := end - time.monotonic()) > 0:
                with suppress(queue.Empty):
                    jobs.append(self.to_encode.get(timeout=left))
            if None in jobs:
                return
            wanted = [job for job in jobs if job is not None and not job.cancelled]
            try:
                self._encode_all([image for job in wanted for image in job.images])
            except Exception as problem:  # whoever asked is told; the others go on
                logger.exception("encoding images")
                for job in wanted:
                    job.emit(problem)
                continue
            for job in wanted:
                self.to_decode.put(job)

    def _encode_all(self, images: Sequence[SeenImage]) -> None:
        """Encodes images of one size together, so that none is padded, whatever others send."""
        sizes: dict[object, dict[bytes, SeenImage]] = {}
        for image in images:
            if image.inputs is not None:
                sizes.setdefault(image.inputs["pixel_values"].shape, {})[image.key] = image
        for same in map(list, (each.values() for each in sizes.values())):
            for start in range(0, len(same), ENCODED_TOGETHER):
                self._encode_images(same[start : start + ENCODED_TOGETHER])

    def _encode_images(self, images: list[SeenImage]) -> None:
        inputs = join_images([image.inputs for image in images if image.inputs is not None])
        inputs = {name: values.to(self.model.device) for name, values in inputs.items()}
        pixels = inputs.pop("pixel_values").to(self.model.dtype)
        encoded = self.model.get_image_features(pixels, **inputs)
        for image, features in zip(images, encoded.pooler_output, strict=True):
            image.features, image.inputs = features.clone(), None
        self.metrics.images.inc(len(images))

    def _decode(self) -> None:
        waiting: deque[Job] = deque()
        groups: list[tuple[Batch, list[Answer]]] = []
        while True:
            idle = not waiting and not groups
            for job in _take(self.to_decode, wait=idle):
                if job is None:
                    return
                waiting.append(job)
            waiting = deque(job for job in waiting if not job.cancelled)
            running = sum(len(answers) for _, answers in groups)
            new = self._admit(waiting, running)
            try:
                for together in [new] if self.joinable and new else [[job] for job in new]:
                    group = self._begin(together)
                    if self.joinable and groups and group[1]:
                        groups[0][0].join(group[0])
                        groups[0][1].extend(group[1])
                    elif group[1]:
                        groups.append(group)
                for group in groups:
                    self._step(*group)
            except Exception as problem:  # such as no memory: those under way fail, and those to come may do better
                logger.exception("decoding")
                for job in {*new, *(answer.job for _, answers in groups for answer in answers)}:
                    job.emit(problem)
                groups = []
            groups = [group for group in groups if group[1]]
            self.metrics.waiting.set(len(waiting))
            self.metrics.running.set(sum(len(answers) for _, answers in groups))

    def _admit(self, waiting: deque[Job], running: int) -> list[Job]:
        """Takes those off the queue that fit, oldest first: a request that needs many rows is not overtaken."""
        new: list[Job] = []
        longest = 0
        while waiting and running + waiting[0].choices <= max(self.limits.batch, waiting[0].choices):
            longest = max(longest, len(waiting[0].tokens))
            if new and longest * (len(new) + 1) > READ_TOGETHER:
                break
            running += waiting[0].choices
            new.append(waiting.popleft())
        return new

    def _begin(self, jobs: list[Job]) -> tuple[Batch, list[Answer]]:
        """Reads prompts, and draws the first tokens of their answers."""
        batch, answers = Batch(self.model), list[Answer]()
        prompts, prefixes = [], list[Layers | None]()
        for job in jobs:
            for image in job.images:
                self.images.keep(image)
            known = self._known(job)
            prefix = self.prefixes.match(known) if self.joinable else None
            job.cached = 0 if prefix is None else prefix[0][0].shape[2]
            prompts.append(self._embed(job)[job.cached :])
            prefixes.append(prefix)
            for choice in range(job.choices):
                stream = TextStream(self.processor.tokenizer, job.stops, job.change)
                answers.append(Answer(job, choice, stream, job.sampling.generator(choice), known))
            self.metrics.prompt_tokens.inc(len(job.tokens))
            self.metrics.cached_tokens.inc(job.cached)
        logits = batch.begin(prompts, prefixes)
        counts = [job.choices for job in jobs]
        batch.repeat(counts)
        self._draw(batch, answers, logits.repeat_interleave(torch.tensor(counts, device=logits.device), dim=0))
        return batch, answers

    def _step(self, batch: Batch, answers: list[Answer]) -> None:
        gone = [row for row, answer in enumerate(answers) if answer.job.cancelled]
        self._leave(batch, answers, gone)
        if answers:
            last = torch.tensor([answer.stream.tokens[-1] for answer in answers], device=self.model.device)
            self._draw(batch, answers, batch.step(last))

    def _draw(self, batch: Batch, answers: list[Answer], logits: Tensor) -> None:
        """Draws the next token of every answer, hands it on, and lets those go that have ended."""
        raw = logits.clone() if any(answer.job.logprobs is not None for answer in answers) else logits
        for row, answer in zip(logits, answers, strict=True):
            answer.job.sampling.penalize(row, answer.stream.tokens)
        drawn = draw(logits, *self._chances(answers, logits.device)).tolist()
        self.metrics.tokens.inc(len(answers))
        now = time.monotonic()
        events: dict[Job, list[Delta]] = {}
        ended = []
        for row, (answer, token) in enumerate(zip(answers, drawn, strict=True)):
            job, stream = answer.job, answer.stream
            if job.first is None:
                job.first = now
                self.metrics.first_token.observe(now - job.began)
            end = token in self.ends
            text = "" if end else stream.push(token)
            described = None if end or job.logprobs is None else logprob(stream, raw[row], token, job.logprobs)
            reason = None
            if end or stream.stopped:
                reason = "stop"
            elif len(stream.tokens) == job.max_tokens:
                reason = "length"
            if reason is not None:
                text += stream.finish()
                reason = "stop" if stream.stopped else reason
                ended.append(row)
            events.setdefault(job, []).append(Delta(answer.choice, text, described, reason))
        for job, deltas in events.items():
            job.emit(deltas)
        self._leave(batch, answers, ended)

    def _chances(self, answers: list[Answer], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        drawn = [answer.job.sampling for answer in answers]
        temperatures = torch.tensor([each.temperature for each in drawn])
        top_p = torch.tensor([each.top_p for each in drawn], dtype=torch.float64)
        chances = torch.cat([torch.rand(1, dtype=torch.float64, generator=answer.generator) for answer in answers])
        return temperatures.to(device), top_p.to(device), chances.to(device)

    def _leave(self, batch: Batch, answers: list[Answer], rows: list[int]) -> None:
        """Takes answers out of a batch, and keeps what they have read for the turns that follow."""
        if not rows:
            return
        for row in rows:
            answer = answers[row]
            if self.joinable and answer.choice == 0:
                layers = batch.row(row)
                tokens = [*answer.known, *answer.stream.tokens][: layers[0][0].shape[2]]
                self.prefixes.keep(Prefix(np.asarray(tokens, dtype=np.int64), layers))
        kept = [row for row in range(len(answers)) if row not in rows]
        batch.select(kept)
        answers[:] = [answers[row] for row in kept]
        if self.joinable:
            batch.tidy()

    def _known(self, job: Job) -> np.ndarray:
        """The tokens of a prompt; where an image stands, its number."""
        known = np.asarray(job.tokens, dtype=np.int64)
        numbers = [image.number for image in job.images for _ in range(len(cast(Tensor, image.features)))]
        known[known == self.placeholder] = numbers
        return known

    def _embed(self, job: Job) -> Tensor:
        """The embeddings (T, E) of a prompt, images among them."""
        tokens = torch.tensor(job.tokens, device=self.model.device)
        embeddings: Tensor = self.model.get_input_embeddings()(tokens)
        if job.images:
            features = torch.cat([cast(Tensor, image.features) for image in job.images])
            embeddings[tokens == self.placeholder] = features.to(embeddings)
        return embeddings


def _take(waiting: queue.SimpleQueue[Job | None], wait: bool) -> list[Job | None]:
    """Takes all that is in a queue; waits for one if there is none."""
    taken = [waiting.get()] if wait else []
    while True:
        try:
            taken.append(waiting.get_nowait())
        except queue.Empty:
            return taken
