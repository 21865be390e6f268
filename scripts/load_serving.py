#!/usr/bin/env python3
"""How fast servers answer questions about images, with one client and with many at once.

`scripts/load_serving.py --model DIR` starts `mllm serve`, and with `--beside` then transformers' own server, asks each
the same, and prints requests and tokens a second and the times to first tokens. Every request has another image, so
nothing is answered from memory; `--same` asks about one image again and again. With `--url` it asks a server that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = [(item["image"], item["question"]) for item in json.loads((ROOT / "examples/questions.json").read_text())]


@dataclass
class Reply:
    """What came back of one request: seconds to the first word and to the end."""

    status: int = 0
    text: str = ""
    tokens: int = 0
    first: float | None = None
    seconds: float = 0.0
    whole: bool = False
    error: Any = None
    begun: bool = field(default=False)


def body(number: int, same: bool = False, asked: str | None = None, **options: Any) -> bytes:
    """Writes a request; its image is an example with another corner for every number."""
    name, question = QUESTIONS[0 if same else number % len(QUESTIONS)]
    image = Image.open(ROOT / "examples" / name).convert("RGB")
    if not same:
        image.putpixel((0, 0), (number % 256, number // 256 % 256, number // 65536 % 256))
    file = io.BytesIO()
    image.save(file, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": asked or question}]
    request = {"messages": [{"role": "user", "content": content}], "max_tokens": 32, "temperature": 0, **options}
    return json.dumps({"stream": True, "stream_options": {"include_usage": True}, **request}).encode()


async def ask(url: str, content: bytes, key: str = "", leave: int | None = None) -> Reply:
    """Sends a request, without a client library: its own time would be measured too.

    Args:
        leave: after so many events of a stream the client goes away.
    """
    reply, start, address = Reply(), time.perf_counter(), urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**22)
    try:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        reply.status = int((await reader.readline()).split()[1])
        reply.begun = True
        events = 0
        async for line in reader:
            if not line.startswith(b"data: "):
                if line.startswith(b"{"):
                    answer = json.loads(line)
                    reply.error, reply.whole = answer.get("error"), True
                    if "choices" in answer:
                        reply.text = answer["choices"][0]["message"]["content"]
                continue
            events += 1
            if events == leave:
                return reply
            if line.startswith(b"data: [DONE]"):
                reply.whole = True
                continue
            chunk = json.loads(line[6:])
            reply.error = reply.error or chunk.get("error")
            reply.tokens = (chunk.get("usage") or {}).get("completion_tokens", reply.tokens)
            for choice in chunk.get("choices", []):
                word = choice["delta"].get("content") or ""
                if word and reply.first is None:
                    reply.first = time.perf_counter() - start
                reply.text += word
        reply.seconds = time.perf_counter() - start
        return reply
    finally:
        writer.close()


async def load(
    url: str, clients: int, seconds: float, server: psutil.Process | None = None, **options: Any
) -> dict[str, float]:
    """Has clients ask one request after another for a while; returns the figures, the server's CPU time among them."""
    numbers, replies = itertools.count(), list[Reply]()
    bodies = [body(number, **options) for number in range(1024)]
    for _ in range(3):
        await ask(url, body(100_000 + next(numbers), **options))
    end = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            replies.append(await ask(url, bodies[next(numbers) % len(bodies)]))

    start, cpu = time.perf_counter(), _cpu(server)
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - start
    good = [reply for reply in replies if reply.status == 200 and reply.error is None]
    firsts = sorted(reply.first for reply in good if reply.first is not None) or [float("nan")]
    return {
        "clients": clients,
        "requests": len(good),
        "failed": len(replies) - len(good),
        "requests_per_second": len(good) / took,
        "tokens_per_second": sum(reply.tokens for reply in good) / took,
        "first_token_p50": firsts[len(firsts) // 2],
        "first_token_p95": firsts[int(len(firsts) * 0.95)],
        "cpu_seconds_per_request": (_cpu(server) - cpu) / max(1, len(good)),
    }


def _cpu(server: psutil.Process | None) -> float:
    return float("nan") if server is None else sum(server.cpu_times()[:2])


@contextmanager
def started(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a server, and waits until it is healthy."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        while server.poll() is None:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def free_port() -> int:
    """Finds a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def mllm_serve(model: str | None, port: int, *more: str) -> list[str]:
    """The command of our server."""
    named = ["--model", model] if model else []
    return [sys.executable, "-m", "mllm", "serve", "--port", str(port), *named, *more]


TRANSFORMERS = """
import sys
import mllm  # registers the classes
from transformers.models.auto import modeling_auto as auto
auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["sparseformer_llava"] = "MLLMForConditionalGeneration"
from transformers.cli.serve import Serve
Serve(force_model=sys.argv[1], port=int(sys.argv[2]), device="cpu", host="127.0.0.1")
"""


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="directory; default: the embedded model")
    parser.add_argument("--url", help="of a server that runs; nothing is started then")
    parser.add_argument("--clients", default="1,16")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--same", action="store_true")
    parser.add_argument(
        "--question", help='of all requests, such as "describe the picture."; default: the examples\' own'
    )
    parser.add_argument("--beside", action="store_true", help="also measure transformers' own server")
    parser.add_argument("--json", metavar="OUT")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    directory, port = args.model or str(ROOT / "mllm/embedded"), free_port()
    servers = {"mllm serve": mllm_serve(args.model, port)}
    if args.beside:
        servers["transformers serve"] = [sys.executable, "-c", TRANSFORMERS, directory, str(port)]
    rows: list[dict[str, Any]] = []

    def measure(name: str, url: str, server: psutil.Process | None = None, **options: Any) -> None:
        for clients in map(int, args.clients.split(",")):
            more = {"same": args.same, "asked": args.question, **options}
            figures = asyncio.run(load(url, clients, args.seconds, server, **more))
            rows.append({"server": name, **figures})
            shown = {key: round(value, 3) for key, value in figures.items()}
            sys.stdout.write(f"{name}: {json.dumps(shown)}\n")
            sys.stdout.flush()

    if args.url:
        measure(args.url, args.url)
    for name, command in ({} if args.url else servers).items():
        with started(command, port) as process:
            model = directory if "transformers" in name else None
            measure(name, f"http://127.0.0.1:{port}", psutil.Process(process.pid), model=model)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
