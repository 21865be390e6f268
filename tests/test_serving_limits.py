"""What a server refuses, each thing with its own status and OpenAI's shape of an error, and what it does not open."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from PIL import Image

from mllm.serving import fetching
from mllm.serving.limits import Limits
from tests import tiny
from tests.served import asked, data_url, serving

LIMITS = Limits(batch=2, queue=1, seconds=60, body=200_000, images=2, pixels=100_000, side=64, tokens=400, choices=2)


@pytest.fixture(scope="module")
def server(model_dir) -> Iterator[str]:
    with serving(model_dir, LIMITS, keys=("first", "second"), allow_url=True) as url:
        yield url


def send(
    url: str, body: Any = None, path: str = "/v1/chat/completions", key: str = "second", **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    connection.request("GET" if body is None else "POST", path, content, headers)
    response = connection.getresponse()
    status, text = response.status, response.read()
    connection.close()
    return status, json.loads(text)


def ask(url: str, messages: Any = None, **options: Any) -> tuple[int, dict[str, Any]]:
    return send(url, {"messages": messages or asked("Is it red?"), "max_tokens": 2, **options})


def image_at(address: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]


@pytest.mark.parametrize(
    ("options", "status", "code", "param"),
    [
        ({"messages": asked("?", *[tiny.image()] * 3)}, 400, "limit_exceeded", "messages"),
        ({"messages": asked("?", Image.new("RGB", (400, 300)))}, 400, "invalid_value", "messages"),
        ({"messages": asked("x" * 210_000)}, 413, "request_too_large", None),
        ({"messages": asked("red " * 600)}, 400, "context_length_exceeded", "messages"),
        ({"max_tokens": 401}, 400, "limit_exceeded", "max_tokens"),
        ({"n": 3}, 400, "limit_exceeded", "n"),
        ({"n": 10**15}, 400, "less_than_equal", "n"),
        ({"image_size": 65}, 400, "limit_exceeded", "image_size"),
        ({"image_tokens": 3}, 400, "invalid_value", "image_tokens"),
        ({"model": "gpt"}, 404, "model_not_found", "model"),
        ({"tools": []}, 400, "extra_forbidden", "tools"),
        ({"temperature": -1}, 400, "greater_than_equal", "temperature"),
        ({"messages": [{"role": "assistant", "content": "Yes."}]}, 400, "invalid_value", "messages"),
        ({"messages": image_at("data:image/png;base64,AAAA")}, 400, "invalid_value", "messages"),
        ({"messages": image_at("file:///etc/passwd")}, 400, "invalid_value", "messages"),
        ({"messages": image_at("/etc/passwd")}, 400, "invalid_value", "messages"),
        ({"messages": image_at("http://127.0.0.1/x.png")}, 400, "invalid_value", "messages"),
    ],
)
def test_what_is_refused(server, options, status, code, param):
    answered, body = ask(server, **options)
    error = body["error"]
    assert (answered, error["code"], error["param"]) == (status, code, param)
    assert error["message"]
    assert error["type"].endswith("_error")


def test_a_body_without_length_is_measured_as_it_comes(server):
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    headers = {"Authorization": "Bearer first", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", iter([b"[" * 50_000] * 8), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_keys(server):
    for key in ("", "firs", "firsts", "first\u00e9"):
        status, body = send(server, path="/v1/models", key=key)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert send(server, path="/v1/models", key="first")[0] == 200
    assert send(server, path="/health", key="")[0] == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server}/v1", api_key="third", max_retries=0).models.list()


def test_a_page_elsewhere_cannot_ask(model_dir):
    with serving(model_dir, hosts=("127.0.0.1", "localhost")) as url:
        assert send(url, path="/health", Host="evil.example:80")[1]["error"]["code"] == "host"
        assert send(url, path="/health", Host="LOCALHOST")[0] == 200
        body = json.dumps({"messages": asked("?")}).encode()
        assert send(url, body, **{"Content-Type": "text/plain"})[0] == 400  # which browsers send without asking


def test_a_full_queue(server):
    """Two answers and one request that waits: others are sent away, and come in once there is room."""
    with ThreadPoolExecutor(8) as pool:
        statuses = [answered for answered, _ in pool.map(lambda _: ask(server, max_tokens=100), range(8))]
    assert set(statuses) == {200, 429}
    assert ask(server)[0] == 200


def metric(url: str, name: str) -> float:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", "/metrics", headers={"Authorization": "Bearer first"})
    page = connection.getresponse().read().decode()
    connection.close()
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(server, stream):
    before = metric(server, "mllm_generated_tokens_total")
    body = json.dumps({"messages": asked("Is it red?"), "max_tokens": 400, "stream": stream, "n": 2}).encode()
    with socket.create_connection((urlsplit(server).hostname, urlsplit(server).port)) as plain:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first\r\n"
        plain.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        while metric(server, "mllm_generated_tokens_total") == before:
            time.sleep(0.005)
    while metric(server, "mllm_requests_open "):
        time.sleep(0.005)
    assert metric(server, "mllm_generated_tokens_total") - before < 800


# -------------------------------------------------------------------------------------------------------- addresses


class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/moved?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        content = b"x" * 300_000 if self.path == "/large" else (PNG if self.path == "/a.png" else b"no image")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


PNG = base64.b64decode(data_url(tiny.image(0)).partition(",")[2])


@pytest.fixture
def elsewhere(monkeypatch) -> Iterator[str]:
    """A server whose host counts as public; 127.0.0.2 does not."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_image_from_an_address(server, elsewhere):
    there, here = ask(server, image_at(f"{elsewhere}/a.png")), ask(server, image_at(data_url(tiny.image(0))))
    assert there[0] == 200
    assert there[1]["choices"] == here[1]["choices"]
    assert ask(server, image_at(f"{elsewhere}/moved?/a.png"))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/large",
        "/none",
        "/moved?http://127.0.0.2/a.png",
        "/moved?http://[::1]/a.png",
        "/moved?file:///etc/passwd",
        "/moved?/moved",
    ],
)
def test_what_is_not_fetched(server, elsewhere, path):
    status, body = ask(server, image_at(f"{elsewhere}{path}"))
    assert (status, body["error"]["code"]) == (400, "invalid_value")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address, public):
    assert fetching.is_public(address) == public
