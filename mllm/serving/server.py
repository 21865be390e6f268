"""The server: OpenAI's chat completions about images, answered by an engine, and a page that asks it."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from data.errors import InputError
from mllm.processing import MLLMProcessor
from mllm.serving.completions import Completion
from mllm.serving.engine import Engine
from mllm.serving.errors import ApiError, unknown_model
from mllm.serving.guard import Guard
from mllm.serving.limits import Limits
from mllm.serving.metrics import Metrics
from mllm.serving.requests import ChatRequest

PAGE = Path(__file__).parent / "page"
logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Service:
    """Holds what the handlers of one server share.

    Args:
        name: of the model.
        num_tokens: embeddings of an image where a request does not say.
        allow_url: whether images may be fetched from addresses.
        examples: image files with a question each, as dicts of "image" and "question", below ``folder``.
    """

    def __init__(
        self,
        model: Any,
        processor: MLLMProcessor,
        name: str,
        limits: Limits,
        num_tokens: int | None = None,
        allow_url: bool = False,
        folder: Path = Path(),
        examples: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.model, self.processor, self.name, self.limits = model, processor, name, limits
        self.num_tokens, self.allow_url, self.folder = num_tokens, allow_url, folder
        self.examples = {example["image"]: example for example in reversed(examples)}
        self.metrics = Metrics()
        self.engine = Engine(model, processor, limits, self.metrics)
        self.started = int(time.time())
        self.own = threading.local()
        self.fetching = ThreadPoolExecutor(8, "fetch")
        self.preparing = ThreadPoolExecutor(2, "prepare")
        self.explaining = ThreadPoolExecutor(1, "explain")

    async def work(self, pool: ThreadPoolExecutor, function: Callable[..., Result], *args: Any) -> Result:
        """Runs a function in a thread, with the thread's own copy of the processor as its first argument."""

        def run() -> Result:
            if not hasattr(self.own, "processor"):
                self.own.processor = copy.deepcopy(self.processor)
            return function(self.own.processor, *args)

        return await asyncio.get_running_loop().run_in_executor(pool, run)

    def close(self) -> None:
        """Ends all threads."""
        self.engine.close()
        for pool in (self.fetching, self.preparing, self.explaining):
            pool.shutdown(cancel_futures=True)

    def describe(self) -> dict[str, Any]:
        """Returns the model as `/v1/models` lists it."""
        fewest, most = self.processor.min_image_tokens, self.processor.num_image_tokens
        return {
            "id": self.name,
            "object": "model",
            "created": self.started,
            "owned_by": "mllm",
            "mllm": {
                "image_tokens": most if fewest is None else [fewest, most],
                "image_sizes": self.image_sizes(),
                "max_tokens": self.limits.tokens,
                "examples": [
                    {"name": name, "url": f"/examples/{name}", "question": example["question"]}
                    for name, example in reversed(self.examples.items())
                ],
            },
        }

    def image_sizes(self) -> list[int] | None:
        """The sizes that may be asked for; None with an encoder that takes one."""
        try:
            self.processor.check_image_size(1)
        except InputError:
            return None
        return [1, self.limits.side] if getattr(self.model.config, "elastic", False) else None


def create_app(
    service: Service, keys: Sequence[str] = (), hosts: Sequence[str] | None = None, origins: Sequence[str] = ()
) -> FastAPI:
    """Makes the application.

    Args:
        keys: API keys, of which a request needs one.
        hosts: as for `Guard`.
        origins: pages elsewhere that may ask, as browsers name them.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="mllm", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
    _add_errors(app)
    _add_routes(app, service)
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics, keys=keys, hosts=hosts)
    if origins:
        from fastapi.middleware.cors import CORSMiddleware

        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    app.mount("/", StaticFiles(directory=PAGE, html=True, check_dir=False))
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        completion = await Completion.start(service, body, request.receive)
        if body.stream:
            uncached = {"cache-control": "no-store"}
            return StreamingResponse(completion.stream(), media_type="text/event-stream", headers=uncached)
        return await completion.whole()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.describe()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise unknown_model(name, service.name)
        return service.describe()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/examples/{name}")
    async def example(name: str) -> FileResponse:
        if name not in service.examples:
            raise ApiError(404, "there is no such example", "not_found")
        return FileResponse(service.folder / name)


def _add_errors(app: FastAPI) -> None:
    def answer(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status_code, dict(error.headers or {}))

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, ApiError):
            error = ApiError(error.status_code, error.detail, headers=error.headers)
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"] if each != "body")
        return answer(ApiError(400, f"{place or 'body'}: {first['msg']}", first["type"], place or None))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return answer(ApiError(500, "the server has made a mistake; its log says which", "internal_error"))
