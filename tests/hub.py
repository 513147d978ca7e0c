"""A tiny hub: what the real one's client asks for, from a thread of this process.

Small files come from the hub itself; files of a suffix in `LARGE` from a second host name, as the
real one's come from its storage. The protocol named Xet is offered, and not spoken. What the hub
was asked is in `requests`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

LARGE = (".safetensors", ".bin", ".onnx", ".msgpack")


@dataclass(frozen=True)
class Request:
    """What was asked; `path` holds no query."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Repository:
    """The files of each commit, and where branches and tags point. A `token` closes it."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    gated: bool = False
    tags: list[str] = field(default_factory=lambda: ["license:openrail++"])


@dataclass
class Hub:
    """What the server has and does; a test may change it while it runs."""

    port: int = 0
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    has_ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes after which the next bodies end
    forged: dict[str, bytes] = field(default_factory=dict)  # what is sent in place of a hash's

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: dict[str, bytes], commit: str = "a" * 40) -> Repository:
        """A repository whose branch main is `commit` with `files`."""
        repository = Repository({commit: files}, {"main": commit})
        self.repositories[name] = repository
        return repository

    def asked(self, method: str, part: str = "") -> list[str]:
        """The paths that were asked for by `method` and hold `part`."""
        return [r.path for r in self.requests if r.method == method and part in r.path]

    def bodies(self) -> list[str]:
        """The paths of files that were asked for with their content."""
        return [p for p in self.asked("GET") if "/resolve/" in p or p.startswith("/storage/")]


def read_files(folder: Path) -> dict[str, bytes]:
    """All files below `folder` by their names on the hub."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers as long as the context is open."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client of this process ask `hub`, and keep its cache in `cache`; no token is set.

    The client reads its environment once, so what it read is replaced.
    """
    from huggingface_hub import constants

    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, path, headers))
        match path.strip("/").split("/"):
            case ["api", "models", owner, name, "revision", *revision]:
                self._describe(f"{owner}/{name}", "/".join(revision))
            case ["api", "models", owner, name, "auth-check"]:
                if self._find(f"{owner}/{name}", needs_access=True):
                    self._send(200, b"{}")
            case [owner, name, "resolve", revision, *file]:
                self._resolve(f"{owner}/{name}", revision, "/".join(file))
            case ["storage", digest]:
                self._send_body(self._contents()[digest], {}, digest)
            case _:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _find(self, name: str, *, needs_access: bool = False) -> Repository | None:
        """The repository, if who asks may know of it; else the refusal has been sent."""
        found = self.hub.repositories.get(name)
        given = self.headers.get("Authorization")
        if found and found.token and given != f"Bearer {found.token}":
            if not found.gated:
                found = None
            elif needs_access:
                self._send(403 if given else 401, b"{}", {"X-Error-Code": "GatedRepo"})
                return None
        if found is None:  # the real one does not tell strangers whether it is there
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        return found

    def _describe(self, name: str, revision: str) -> None:
        if (found := self._find(name)) is None:
            return
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [_list_file(file, body) for file, body in found.commits[commit].items()]
        about = {
            "id": name,
            "sha": commit,
            "gated": "auto" if found.gated else False,
            "tags": found.tags,
            "siblings": siblings,
        }
        self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (found := self._find(name, needs_access=True)) is None:
            return
        commit = found.refs.get(revision, revision)
        body = found.commits.get(commit, {}).get(file)
        if body is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        digest = digest_of(file, body)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if not file.endswith(LARGE):
            self._send_body(body, headers, digest)
            return
        headers["Location"] = f"http://localhost:{self.hub.port}/storage/{digest}"
        headers["X-Linked-ETag"] = f'"{digest}"'
        headers["X-Linked-Size"] = str(len(body))
        headers["X-Xet-Hash"] = digest
        headers["X-Xet-Refresh-Route"] = f"{self.hub.address}/api/models/{name}/xet-read-token"
        self._send(302, b"", headers)

    def _contents(self) -> dict[str, bytes]:
        """Every file of every commit, by its hash."""
        commits = [c for r in self.hub.repositories.values() for c in r.commits.values()]
        return {digest_of(name, body): body for files in commits for name, body in files.items()}

    def _send_body(self, body: bytes, headers: dict[str, str], digest: str) -> None:
        body = self.hub.forged.get(digest, body)
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked and self.hub.has_ranges:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        breaks = self.hub.breaks if self.command == "GET" else []
        self._send(status, body[start:], headers, breaks.pop(0) if breaks else None)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        """Answer; of a `body` that is announced whole only `length` bytes go out."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:length])
        if length is not None and length < len(body):
            self.close_connection = True


def digest_of(name: str, body: bytes) -> str:
    """The hash that the hub gives to a file."""
    if name.endswith(LARGE):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _list_file(name: str, body: bytes) -> dict[str, object]:
    listed: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": "0" * 40}
    if name.endswith(LARGE):
        digest = digest_of(name, body)
        return listed | {"lfs": {"size": len(body), "sha256": digest, "pointerSize": 134}}
    return listed | {"blobId": digest_of(name, body)}
