"""Errors as OpenAI's clients know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from mllm.serving.limits import Limits

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """Says why a request is not answered; ``param`` is the field at fault, ``code`` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def body(self) -> dict[str, Any]:
        """Returns the error in OpenAI's shape."""
        kind = _TYPES.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}


def too_large(limits: Limits) -> ApiError:
    """Says that a body has too many bytes."""
    return ApiError(413, f"the request is longer than {limits.body:,} bytes", "request_too_large")


def too_slow(limits: Limits) -> ApiError:
    """Says that a request has taken too long."""
    return ApiError(408, f"the request has taken longer than {limits.seconds:g} seconds", "timeout")


def unknown_model(name: str, known: str) -> ApiError:
    """Says that there is no such model."""
    return ApiError(404, f"there is no model {name!r} here, only {known!r}", "model_not_found", "model")
