"""A web server of a folder's files on this machine, which takes downloads up again, and is a Hugging Face hub too."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789" * 4  # of every repository


class Server(ThreadingHTTPServer):
    """Serves ``folder``; repositories of the hub lie in its ``hub/models`` and ``hub/datasets``, as OWNER/NAME/FILE.

    Attributes:
        requests: the paths that were asked for with GET, in order, with the first byte wanted behind `@`, if any.
        cut: path -> after how many bytes the next connection ends that asks for it.
    """

    def __init__(self, folder: Path):
        self.folder, self.requests = folder, list[str]()
        self.cut: dict[str, int] = {}
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_POST(self) -> None:
        """What the hub does when a repository is made and files are committed to it, inline."""
        parts, content = urlsplit(self.path).path.split("/")[2:], self._body()
        if parts == ["repos", "create"]:
            made = json.loads(content)
            name = "/".join(filter(None, (made.get("organization"), made["name"])))
            self._json(200, {"url": f"{self.server.url}/{name}", "id": "0", "private": made.get("private", False)})
        elif parts == ["validate-yaml"]:
            self._json(200, {"errors": [], "warnings": []})
        elif parts[3:4] == ["preupload"]:
            asked = json.loads(content)["files"]
            modes = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            self._json(200, {"files": modes})
        elif parts[3:4] == ["commit"]:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    file = self.server.folder.joinpath("hub", *parts[:3], line["value"]["path"])
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            url = f"{self.server.url}/{'/'.join(parts[1:3])}/commit/{COMMIT}"
            self._json(200, {"commitUrl": url, "commitOid": COMMIT})
        else:
            self.send_error(404)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        return content

    def _json(self, status: int, content: object) -> None:
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, with_content: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/"):
            self._describe(path.split("/")[2:])
            return
        kind = "datasets" if path.startswith("/datasets/") else "models"
        repository, resolved, place = path.removeprefix("/datasets").partition("/resolve/")
        file = self.server.folder / path.lstrip("/")
        if resolved:
            file = self.server.folder / "hub" / kind / repository.lstrip("/") / place.partition("/")[2]
        if not file.is_file():
            self.send_error(404)
            return
        self._send(path, file.read_bytes(), with_content, {"X-Repo-Commit": COMMIT} if resolved else {})

    def _send(self, path: str, content: bytes, with_content: bool, headers: dict[str, str]) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        wanted = self.headers.get("Range") if self.headers.get("If-Range", tag) == tag else None
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if with_content:
            self.server.requests.append(path + (f"@{first}" if first else ""))
        if first >= max(len(content), 1):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        headers |= {"Content-Length": str(len(content) - first), "ETag": tag, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            end = self.server.cut.pop(path, len(content))
            self.wfile.write(content[first:end])
            self.close_connection = end < len(content)

    def _describe(self, parts: list[str]) -> None:
        """What the hub says of a repository, and of its files."""
        folder = self.server.folder.joinpath("hub", *parts[:3])
        files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
        content: object = {
            "id": "/".join(parts[1:3]),
            "sha": COMMIT,
            "siblings": [{"rfilename": name} for name in files],
        }
        if parts[3:4] == ["tree"]:
            content = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0"} for name, file in files.items()
            ]
        self._json(200 if files else 404, content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serves a folder for a while."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
