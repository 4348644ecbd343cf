"""A server on this machine that speaks as much of Hugging Face's protocol as a download needs."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """`files` of the one repository by name; `web` are those of a plain server, by path.

    The first `cuts` answers with content end half way. Every request is kept in `requests` as (method, path,
    Range or None).
    """

    repo: str = "someone/separators"
    files: dict[str, bytes] = field(default_factory=dict)
    web: dict[str, bytes] = field(default_factory=dict)
    licence: str | None = "mit"
    commit: str = COMMIT
    listed_size: int | None = None
    cuts: int = 0
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def gets(self, end: str) -> list[str | None]:
        """The Range of every request for the content of a file."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path.endswith(end)]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers["Range"]))
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path):
            self._describe(api[1], api[2])
        elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            self._file(file[1], file[2], file[3], body)
        elif self.path in hub.web:
            self._send(hub.web[self.path], {}, body)
        else:
            self._refuse("EntryNotFound")

    def _describe(self, repo: str, revision: str | None) -> None:
        if not self._known(repo, revision or "main"):
            return
        siblings = [
            {
                "rfilename": name,
                "size": self.hub.listed_size or len(content),
                "lfs": {"sha256": sha256(content), "size": len(content), "pointerSize": 100},
            }
            for name, content in self.hub.files.items()
        ]
        card = {"license": self.hub.licence} if self.hub.licence else {}
        told = {"id": repo, "sha": self.hub.commit, "siblings": siblings, "cardData": card}
        self._send(json.dumps(told).encode(), {"Content-Type": "application/json"}, body=True, whole=True)

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        if not self._known(repo, revision):
            return
        if name not in self.hub.files:
            self._refuse("EntryNotFound")
            return
        content = self.hub.files[name]
        etag = f'"{sha256(content)}"'
        linked = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        self._send(content, {**linked, "X-Repo-Commit": self.hub.commit}, body)

    def _known(self, repo: str, revision: str) -> bool:
        if repo != self.hub.repo:
            self._refuse("RepoNotFound")
        elif revision not in ("main", self.hub.commit):
            self._refuse("RevisionNotFound")
        else:
            return True
        return False

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, headers: dict[str, str], body: bool, whole: bool = False) -> None:
        first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        if first > len(content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if not body:
            return
        if self.hub.cuts and not whole:
            self.hub.cuts -= 1
            self.wfile.write(content[first : first + (len(content) - first) // 2])
            self.close_connection = True
            return
        self.wfile.write(content[first:])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
