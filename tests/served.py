"""A server of a model on this machine, in a thread, as `mllm serve` runs it."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image

from mllm.loading import load_model
from mllm.serving.limits import Limits
from mllm.serving.server import Service, create_app


@contextmanager
def serving(
    directory: Path,
    limits: Limits | None = None,
    keys: tuple[str, ...] = (),
    hosts: tuple[str, ...] | None = None,
    **service: Any,
) -> Iterator[str]:
    """Serves a model directory for a while, and gives its address; ``service`` are the options of `Service`."""
    made = Service(*load_model(directory, "cpu"), directory.name, limits or Limits(), **service)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_app(made, keys, hosts), log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def data_url(image: Image.Image) -> str:
    """Writes an image as a request holds it."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def asked(text: str, *images: Image.Image, **image_options: Any) -> list[dict[str, Any]]:
    """Messages of one question about images."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url(image), **image_options}} for image in images
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
