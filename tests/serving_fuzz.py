"""Damaged requests to a server: whatever is sent, it answers with less than 500, and errors in OpenAI's shape.

`python -m tests.serving_fuzz --url http://127.0.0.1:8000 --count 10000` asks a server that runs.
"""

from __future__ import annotations

import argparse
import base64
import copy
import http.client
import json
import random
import sys
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from tests import tiny
from tests.served import asked, data_url

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 20, 21, 1e-9,
    0.5, 1e308, -(2**63), 2**63, 10**40, float("nan"), float("inf"), "", " ", "a",
    "\0", "\ud800", "\ufdd0", "<image>", "</s>",
    "é" * 300, "data:", "data:image/png;base64,", "data:,x", "data:;base64,====",
    "data:image/png;base64,iVBORw0KGgo=", "http://127.0.0.1:1/", "file:///etc/passwd", "../../etc/passwd",
    "C:\\x", [], {}, [[]],
    [{}], {"type": "text"}, {"type": "image_url"}, {"url": "x"}, "system",
    "user", "assistant", "text", "image_url", "stop",
]  # fmt: skip
FIELDS = [
    "model", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "frequency_penalty", "presence_penalty", "seed", "n",
    "stop", "logprobs", "top_logprobs", "stream",
    "stream_options", "response_format", "image_tokens", "image_size", "explain",
    "user", "tools", "messages",
]  # fmt: skip
PATHS = ["/v1/chat/completions"] * 60 + [
    "/v1/models", "/v1/models/x", "/v1/models/%ff", "/v1/",
    "/health", "/metrics", "/examples/../x", "/examples/%2e%2e%2fx", "/x",
    "/%00", "//", "/v1/openapi.json",
]  # fmt: skip


class Fuzz:
    """Makes requests, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.images = [data_url(tiny.image(index, *size)) for index, size in enumerate([(40, 32), (1, 60), (300, 2)])]

    def request(self) -> tuple[str, str, dict[str, str], bytes]:
        """Returns method, path, headers and body."""
        draw = self.random
        body = self.encoded(self.body())
        headers = {
            "Content-Type": draw.choices(["application/json", "text/plain", "multipart/form-data"], [30, 1, 1])[0]
        }
        method = draw.choices(["POST", "GET", "PUT", "OPTIONS", "HEAD", "DELETE"], [60, 1, 1, 1, 1, 1])[0]
        return method, draw.choice(PATHS), headers, b"" if method in ("GET", "HEAD") else body

    def body(self) -> dict[str, Any]:
        """Returns a good request with some values changed."""
        draw = self.random
        body: dict[str, Any] = {"messages": asked("Is it red?"), "max_tokens": draw.randint(1, 6)}
        for _ in range(draw.choice([0, 0, 1, 1, 2])):
            part = {"type": "image_url", "image_url": {"url": self.address(), "detail": draw.choice(["low", "auto"])}}
            body["messages"][0]["content"].insert(0, part)
        body["stream"] = draw.random() < 0.3
        body["explain"] = draw.random() < 0.1
        for _ in range(draw.choice([0, 0, 0, 1])):
            body[draw.choice(FIELDS)] = copy.deepcopy(draw.choice(VALUES))
        for _ in range(draw.choice([0, 0, 0, 1, 2])):
            self.damage(body)
        return body

    def address(self) -> str:
        """Returns a data URL, perhaps of an image that is not whole."""
        draw = self.random
        url = draw.choice(self.images)
        if draw.random() < 0.8:
            return url
        content = bytearray(base64.b64decode(url.partition(",")[2]))
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        whole = content[: draw.choice([len(content), draw.randrange(len(content))])]
        return f"data:image/png;base64,{base64.b64encode(whole).decode()}"

    def damage(self, value: Any) -> None:
        """Changes something somewhere inside a value."""
        draw = self.random
        while isinstance(value, (dict, list)) and value:
            key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
            if not isinstance(value[key], (dict, list)) or draw.random() < 0.2:
                what = draw.choice(["value", "drop", "rename", "twice"])
                if what == "value":
                    value[key] = copy.deepcopy(draw.choice(VALUES))
                elif what == "drop":
                    del value[key]
                elif isinstance(value, dict):
                    value[f"{key}x"] = value.pop(key) if what == "rename" else value[key]
                else:
                    value.append(copy.deepcopy(value[key]))
                return
            value = value[key]

    def encoded(self, body: dict[str, Any]) -> bytes:
        """Writes a body, perhaps not whole."""
        draw = self.random
        text = json.dumps(body).encode()
        kind = draw.choices(["good", "cut", "bytes", "deep", "other"], [30, 1, 1, 1, 1])[0]
        if kind == "cut":
            return text[: draw.randrange(len(text))]
        if kind == "bytes":
            at = draw.randrange(len(text))
            return text[:at] + draw.randbytes(3) + text[at:]
        if kind == "deep":
            return b'{"messages":' + b"[" * 3000 + b"]" * 3000 + b"}"
        if kind == "other":
            return draw.choice([b"", b"null", b"[]", b"1", b'"x"', b"{}", b"\xff\xfe", b"1" * 5000])
        return text


def check(status: int, kind: str, content: bytes, path: str) -> str | None:
    """Says what is wrong with an answer, if anything is."""
    if status >= 500 or status < 100:
        return f"status {status}: {content[:200]!r}"
    if status >= 400 and content:
        error = json.loads(content)["error"]
        if set(error) != {"message", "type", "param", "code"} or not error["message"]:
            return f"no error of OpenAI's: {content[:200]!r}"
    if kind.startswith("text/event-stream") and not content.endswith(b"data: [DONE]\n\n"):
        return f"a stream without end: {content[-200:]!r}"
    return None


def run(url: str, count: int, seed: int = 0, key: str = "") -> tuple[Counter[int], list[str]]:
    """Sends requests; returns how often there was which status, and what was wrong."""
    fuzz, statuses, wrong = Fuzz(seed), Counter[int](), list[str]()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    for number in range(count):
        method, path, headers, body = fuzz.request()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            connection.close()  # a server may end a connection whose body it does not want
            continue
        statuses[response.status] += 1
        problem = check(response.status, response.getheader("content-type") or "", content, path)
        if problem:
            wrong.append(f"request {number} of seed {seed}, {method} {path}: {problem}")
    connection.close()
    return statuses, wrong


def main() -> int:
    """Asks a server that runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    statuses, wrong = run(args.url, args.count, args.seed, args.key)
    sys.stdout.write(f"{json.dumps({'statuses': dict(sorted(statuses.items())), 'wrong': wrong}, indent=1)}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
