"""Small servers on this machine that stand in for the network."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Site(ThreadingHTTPServer):
    """Files by path; the first `failures` requests get an error; `asked` lists every request."""

    def __init__(self, files: dict[str, bytes], failures: int = 0, status: int = 503):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.failures = failures
        self.missing = "EntryNotFound"  # the hub's word for a file that is not there
        self.status = status
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(self.server.status)
            return
        data = self.server.files.get(path)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", self.server.missing)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = self._range(len(data))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(last - first))
        self.send_header("ETag", '"standin"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data)}")
        kind = "application/json" if path.startswith("/api/") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.end_headers()
        if body:
            self.wfile.write(data[first:last])

    def _range(self, size: int) -> tuple[int, int]:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return 0, size
        first, _, last = wanted.partition("-")
        return int(first), min(size, int(last) + 1 if last else size)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silent."""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()


def hub(name: str, file: str, data: bytes, kind: str = "datasets") -> dict[str, bytes]:
    """What a Hugging Face hub answers about a repository that holds one file."""
    info = {
        "id": name,
        "sha": SHA,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": file}],
    }
    entry = [{"type": "file", "path": file, "size": len(data), "oid": SHA}]
    found: dict[str, bytes] = {}
    for revision in ("main", SHA):
        found[f"/api/{kind}/{name}/revision/{revision}"] = json.dumps(info).encode()
        found[f"/api/{kind}/{name}/tree/{revision}"] = json.dumps(entry).encode()
        found[f"/api/{kind}/{name}/paths-info/{revision}"] = json.dumps(entry).encode()
        prefix = "" if kind == "models" else f"/{kind}"
        found[f"{prefix}/{name}/resolve/{revision}/{file}"] = data
    found[f"/api/{kind}/{name}"] = json.dumps(info).encode()
    return found
