"""One request, from its fields to its answers, streamed or whole, in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from data.errors import InputError
from data.images import open_image
from data.references import locate
from mllm.processing import MLLMProcessor
from mllm.prompts import TooLong
from mllm.serving.errors import ApiError, too_slow, unknown_model
from mllm.serving.fetching import fetch
from mllm.serving.jobs import Delta, Image, Job
from mllm.serving.looked import looked
from mllm.serving.requests import ChatRequest, ImageUrl
from mllm.serving.sampling import Sampling

if TYPE_CHECKING:
    from starlette.types import Receive

    from mllm.serving.server import Service


Result = TypeVar("Result")


class Completion:
    """A request under way. Make one with `start`, and take either its `stream` or its `whole` answer."""

    def __init__(self, service: Service, body: ChatRequest, began: float) -> None:
        self.service, self.body, self.began = service, body, began
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self.events: asyncio.Queue[list[Delta] | Exception] = asyncio.Queue()
        self.job: Job
        self.watch: asyncio.Task[None]
        self.images: list[Image]
        self.text = [""] * body.n
        self.logprobs: list[list[dict[str, Any]]] = [[] for _ in range(body.n)]
        self.reasons: list[str | None] = [None] * body.n
        self.count = 0

    @classmethod
    async def start(cls, service: Service, body: ChatRequest, receive: Receive) -> Completion:
        """Checks a request, and hands it to the engine.

        Args:
            receive: tells when the client goes away.

        Raises:
            ApiError: it cannot be answered.
        """
        began = time.monotonic()
        _check(service, body)
        self = cls(service, body, began)
        loop = asyncio.get_running_loop()

        def emit(event: list[Delta] | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever would have read it
                loop.call_soon_threadsafe(self.events.put_nowait, event)

        service.engine.coming += 1
        try:
            async with asyncio.timeout(service.limits.seconds):
                contents = await asyncio.gather(*(self._content(image.url) for image in body.images()))
                self.job = await service.work(service.preparing, self._prepare, contents, emit)
        except TimeoutError:
            raise too_slow(service.limits) from None
        except TooLong as error:
            raise ApiError(400, str(error), "context_length_exceeded", "messages") from None
        except InputError as error:
            raise ApiError(400, str(error), "invalid_value", "messages") from None
        finally:
            service.engine.coming -= 1
        service.metrics.image_tokens.inc(self.image_tokens)
        service.engine.submit(self.job)
        self.watch = asyncio.create_task(self._watch(receive))
        return self

    async def _content(self, url: str) -> bytes | None:
        """Fetches an image from an address, where that is allowed; None for one that the request holds itself."""
        service = self.service
        if url[:5].lower() == "data:":
            return None
        if not service.allow_url:
            raise InputError("image_url: only data URLs are taken: write data:image/png;base64,...")
        limits = service.limits
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(service.fetching, fetch, url, limits.body, limits.seconds / 2)

    async def _watch(self, receive: Receive) -> None:
        """Gives the request up when the client goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.job.cancelled = True
        self.events.put_nowait(ApiError(499, "the client has gone away", "gone"))

    def end(self) -> None:
        """Frees what the request holds, whether it was answered or not."""
        self.job.cancelled = True
        self.watch.cancel()

    def _open(self, content: bytes) -> Any:
        return open_image(content, name="image_url", max_pixels=self.service.limits.pixels)

    def _prepare(self, processor: MLLMProcessor, contents: Sequence[bytes | None], emit: Any) -> Job:
        body = self.body
        self.images = []
        for image, fetched in zip(body.images(), contents, strict=True):
            content = cast(bytes, locate(image.url, Path())) if fetched is None else fetched
            self.images.append(Image(content, self._open, _budget(self.service, body, image), body.image_size))
        return self.service.engine.prepare(
            processor,
            [turn.message() for turn in body.messages],
            self.images,
            body.max_completion_tokens or body.max_tokens,
            emit=emit,
            sampling=Sampling(body.temperature, body.top_p, body.frequency_penalty, body.presence_penalty, body.seed),
            choices=body.n,
            stops=body.stops,
            logprobs=body.top_logprobs if body.logprobs else None,
            began=self.began,
        )

    # ------------------------------------------------------------------------------------------------------- answers

    async def whole(self) -> dict[str, Any]:
        """Returns the whole answer.

        Raises:
            ApiError: it took too long, the client has gone away, or the engine has failed.
        """
        try:
            async for _ in self._deltas():
                pass
            choices = [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": self.text[index], "refusal": None},
                    "logprobs": {"content": self.logprobs[index], "refusal": None} if self.body.logprobs else None,
                    "finish_reason": self.reasons[index],
                }
                for index in range(self.body.n)
            ]
            more = {"usage": self.usage(), "mllm": await self.figures()}
            return self._object("chat.completion", choices) | more
        finally:
            self.end()

    async def stream(self) -> AsyncIterator[str]:
        """Yields the answer as server-sent events while it comes."""
        body = self.body
        usage = body.stream_options is not None and body.stream_options.include_usage
        try:
            chunks = [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(body.n)]
            async for deltas in self._deltas():
                for delta in deltas:
                    if delta.text or delta.logprob:
                        chunks.append(self._chunk(delta.choice, {"content": delta.text}, delta.logprob))
                    if delta.reason:
                        chunks.append(self._chunk(delta.choice, {}, reason=delta.reason))
                if chunks:
                    yield "".join(chunks)  # what has come together is sent together
                    chunks = []
            chunks.append(self._chunk(0, {}, mllm=await self.figures()))
            if usage:
                chunks.append(_event(self._object("chat.completion.chunk", []) | {"usage": self.usage()}))
            yield "".join([*chunks, "data: [DONE]\n\n"])
        except ApiError as error:
            yield _event(error.body())
        finally:
            self.end()

    async def _deltas(self) -> AsyncIterator[list[Delta]]:
        """Yields what comes until every answer has ended.

        Raises:
            ApiError: it took too long, or the engine has failed.
        """
        while not all(self.reasons):
            event = await self._in_time(self.events.get())
            if isinstance(event, ApiError):
                raise event
            if isinstance(event, Exception):
                raise ApiError(500, "the model has failed; the server's log says why", "internal_error")
            for delta in event:
                self.count += 1
                self.text[delta.choice] += delta.text
                self.reasons[delta.choice] = delta.reason
                if delta.logprob is not None:
                    self.logprobs[delta.choice].append(delta.logprob)
            yield event

    async def _in_time(self, awaited: Awaitable[Result]) -> Result:
        left = self.began + self.service.limits.seconds - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await awaited
        except TimeoutError:
            raise too_slow(self.service.limits) from None

    @property
    def image_tokens(self) -> int:
        """How many tokens of the prompt stand for images."""
        return sum(token == self.service.engine.placeholder for token in self.job.tokens)

    def usage(self) -> dict[str, Any]:
        """Counts tokens."""
        prompt = len(self.job.tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.count,
            "total_tokens": prompt + self.count,
            "prompt_tokens_details": {"cached_tokens": self.job.cached, "image_tokens": self.image_tokens},
        }

    async def figures(self) -> dict[str, Any]:
        """Returns times, and where the model looked if that was asked for."""
        first = self.job.first or time.monotonic()
        since = max(time.monotonic() - first, 1e-6)
        rate = (self.count - self.body.n) / since
        self.service.metrics.rate.observe(rate)
        figures: dict[str, Any] = {
            "time_to_first_token": round(first - self.began, 4),
            "tokens_per_second": round(rate, 2),
        }
        if self.body.explain and self.images:
            service, messages = self.service, [turn.message() for turn in self.body.messages]
            asked = (service.model, messages, self.images, self.text[0])
            figures |= await self._in_time(service.work(service.explaining, looked, *asked))
        return figures

    def _object(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "choices": list(choices),
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], logprob: Any = None, reason: str | None = None, **more: Any
    ) -> str:
        logprobs = {"content": [logprob], "refusal": None} if logprob else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return _event(self._object("chat.completion.chunk", [choice]) | more)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _check(service: Service, body: ChatRequest) -> None:
    """Raises ApiError for what no request may ask for here."""
    limits = service.limits
    if body.model not in (None, service.name):
        raise unknown_model(str(body.model), service.name)
    wanted = body.max_completion_tokens or body.max_tokens
    for field, value, most in (
        ("messages", len(body.images()), limits.images),
        ("n", body.n, min(limits.choices, limits.batch)),
        ("max_tokens", wanted, limits.tokens),
        ("image_size", body.image_size, limits.side),
    ):
        if value is not None and value > most:
            what = "images" if field == "messages" else field
            raise ApiError(400, f"{value} {what}: this server allows at most {most}", "limit_exceeded", field)
    if body.messages[-1].role != "user":
        raise ApiError(400, "messages: the last one must be the user's", "invalid_value", "messages")
    try:
        if body.image_size is not None and service.image_sizes() is None:
            raise InputError(f"image_size={body.image_size}: this model's encoder takes images of one size")
        for count in [body.image_tokens, *(image.tokens for image in body.images())]:
            if count is not None:
                service.processor.check_num_tokens(count, "image_tokens")
    except InputError as error:
        raise ApiError(400, str(error), "invalid_value", str(error).partition("=")[0]) from None


def _budget(service: Service, body: ChatRequest, image: ImageUrl) -> int | None:
    """How many embeddings an image becomes: as asked for it, for all, by detail, or as the server has it."""
    fewest, most = service.processor.min_image_tokens, service.processor.num_image_tokens
    if fewest is None:
        return None
    asked = image.tokens or body.image_tokens
    by_detail = {"low": max(fewest, most // 4), "high": most, "auto": service.num_tokens or most}
    return asked or by_detail[image.detail]
