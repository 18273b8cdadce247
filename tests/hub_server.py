"""A small server that answers as the Hugging Face hub does, for one repository on this machine.

Speaks the four requests that huggingface_hub makes to download a model: model info, file tree, HEAD and GET
of a file (ranges too, so that a download continues).
"""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """Serves `folder` as `repo_id`.

    Attributes:
        bytes_per_second: how fast files flow, None for as fast as they can.
        stalled: files whose names end so stop flowing at once, with the connection open; "" for none.
        gated: every request is refused as one for a gated repository.
        requested: the files that were asked for with GET, in order; sent_bytes: of them all.
    """

    repo_id: str
    folder: Path
    bytes_per_second: float | None = None
    stalled: str = ""
    gated: bool = False
    requested: list[str] = field(default_factory=list)
    sent_bytes: int = 0

    def __post_init__(self) -> None:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def files(self) -> dict[str, Path]:
        return {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path, hub = urlsplit(self.path).path, self.hub
        if hub.repo_id not in path:
            return self._refuse(404, "RepoNotFound")
        if hub.gated:
            return self._refuse(403, "GatedRepo")
        files = hub.files()
        if "/tree/" in path:
            return self._json(
                [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": _etag(file)}
                    for name, file in files.items()
                ]
            )
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name, "size": file.stat().st_size} for name, file in files.items()]
            return self._json({"id": hub.repo_id, "sha": _COMMIT, "siblings": siblings})
        name = path.split(f"/resolve/{_COMMIT}/")[-1]
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        return self._file(name, files[name], body)

    def _file(self, name: str, file: Path, body: bool) -> None:
        content = file.read_bytes()
        start = 0
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        whole = len(content)
        if asked:
            start = int(asked[1])
            content = content[: int(asked[2]) + 1] if asked[2] else content
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{_etag(file)}"')
        self.send_header("X-Repo-Commit", _COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{whole}")
        self.end_headers()
        if not body:
            return
        self.hub.requested.append(name)
        self.hub.sent_bytes += len(content) - start
        chunk = 16384
        try:
            for offset in range(start, len(content), chunk):
                while self.hub.stalled and name.endswith(self.hub.stalled):
                    time.sleep(0.05)
                self.wfile.write(content[offset : offset + chunk])
                if self.hub.bytes_per_second:
                    time.sleep(chunk / self.hub.bytes_per_second)
        except OSError:
            self.close_connection = True  # the client is gone, which is what some tests are about

    def _json(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:40]
