"""What stands in front of the server: keys, hosts, and the size, number and time of requests, before any is read."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllm.serving.errors import ApiError, too_large, too_slow
from mllm.serving.limits import Limits
from mllm.serving.metrics import Metrics

CLOSED = ("/v1", "/metrics")
POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'"
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class Guard:
    """Wraps an application.

    Args:
        keys: of which each request below `CLOSED` must bring one, unless there are none.
        hosts: names by which the server may be called, against pages elsewhere that point their own name at this
            machine; None: any.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        keys: Sequence[str] = (),
        hosts: Sequence[str] | None = None,
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.keys, self.hosts = [key.encode() for key in keys], hosts
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a connection as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        counted = scope["method"] == "POST"
        try:
            self._check(scope, counted)
        except ApiError as error:
            response = JSONResponse(error.body(), error.status_code, dict(error.headers or {}))
            await response(scope, receive, tell)
            self._count(scope, status)
            return
        self.open += counted
        self.metrics.open.set(self.open)
        try:
            await self.app(scope, _Bounded(receive, self.limits) if counted else receive, tell)
        finally:
            self.open -= counted
            self.metrics.open.set(self.open)
            self._count(scope, status)

    def _check(self, scope: Scope, counted: bool) -> None:
        headers = Headers(scope=scope)
        if self.hosts is not None and _host(headers.get("host", "")) not in self.hosts:
            raise ApiError(403, f"this server is called {' or '.join(self.hosts)}, and by no other name", "host")
        if self.keys and scope["path"].startswith(CLOSED):
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not any([hmac.compare_digest(given, key) for key in self.keys]):  # a list: all are compared
                raise ApiError(
                    401,
                    "no or unknown API key: send Authorization: Bearer KEY",
                    "invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "")
        if counted and length.isdecimal() and int(length) > self.limits.body:
            raise too_large(self.limits)
        if counted and self.open >= self.limits.queue + self.limits.batch:
            raise ApiError(
                429,
                f"{self.open} requests are open, as many as may be: come back later",
                "queue_full",
                headers={"retry-after": "1"},
            )

    def _count(self, scope: Scope, status: int) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "other")  # not what clients make up
        self.metrics.requests.labels(path, str(status or "gone")).inc()


class _Bounded:
    """Receives a body that is neither longer nor takes longer than allowed."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits, self.size, self.whole = receive, limits, 0, False

    async def __call__(self) -> Message:
        if self.whole:
            return await self.receive()
        try:
            async with asyncio.timeout(self.limits.seconds):
                message = await self.receive()
        except TimeoutError:
            raise too_slow(self.limits) from None
        self.size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.size > self.limits.body:
            raise too_large(self.limits)
        return message


def _host(header: str) -> str | None:
    """The name or address in a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
