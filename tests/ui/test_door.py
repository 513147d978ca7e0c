"""Who may talk to the app, asked over HTTP of the app itself."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from tests.ui.conftest import Served
from ui.door import Door, bracketed, is_loopback

SECRET = "correct-horse-battery-staple"

ROUTES = (
    "/gradio_api/file=",
    "/file=",
    "/gradio_api/file/",
    "/gradio_api/proxy=",
    "/gradio_api/stream/",
    "/static/",
    "/assets/",
    "/svelte/",
)

FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:7860",
    "127.0.0.1.evil.example",
    "localhost.evil.example:7860",
    "127.0.0.1@evil.example",
    "[::2]:7860",
    "192.168.0.9:7860",
    "0.0.0.0",
    "",
)

FOREIGN_ORIGINS = (
    "https://evil.example",
    "http://127.0.0.1.evil.example",
    "http://localhost:1",
    "null",
    "file://",
)


def post_routes(served: Served) -> list[str]:
    """Every route of the framework that takes a POST, its parameters filled in."""
    paths = served.blocks.app.openapi()["paths"]
    found = [path for path, methods in paths.items() if "post" in methods]
    return [path.replace("{", "").replace("}", "") for path in found]


# T8: files


@pytest.fixture
def secrets(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Path]]:
    """Three files that are none of the app's: in its working folder, the temp folder, and home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLANTED", SECRET)
    places = [Path.cwd(), Path(tempfile.gettempdir()), tmp_path]
    files = [place / f"planted-{os.getpid()}.png" for place in places]
    links = [served.cache / f"link-{i}.png" for i in range(3)]
    for file, link in zip(files, links, strict=True):
        file.write_text(SECRET)
        link.symlink_to(file)
    yield files
    for file in [*links, *files]:
        file.unlink()


def ways_to(secret: Path, served: Served) -> list[str]:
    """Fifty ways to write the path of a file that is not to be had."""
    path, name = str(secret), secret.name
    root = Path(served.blocks.app.cwd)
    cache, out = served.cache, served.folder
    up = "../" * 12
    dots = "%2e%2e/" * 12
    return [
        path,
        f"/{path}",
        f"//{path}",
        f"/.{path}",
        f"/./{path}",
        path.replace("/", "//"),
        path.replace("/", "/./"),
        path.replace("/", "%2f"),
        path.replace("/", "%252f"),
        path.replace("/", "\\"),
        path.replace("/", "%5c"),
        path.replace("/", "%c0%af"),
        path.replace("/", "%ef%bc%8f"),
        quote(path, safe=""),
        f"file://{path}",
        f"file:{path}",
        f"file%3a%2f%2f{path}",
        f"http://127.0.0.1{path}",
        f"gopher://127.0.0.1{path}",
        f"~/{name}",
        f"%7e/{name}",
        f"~root/{name}",
        name,
        f"./{name}",
        f"{root}/{name}",
        f"{root}/ui/../{name}",
        f"outputs/../{name}",
        f"{up}{path[1:]}",
        f"{dots}{path[1:]}",
        f"..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{path}",
        f"....//....//....//....//....//....//{path[1:]}",
        f"{cache}/{up}{path[1:]}",
        f"{cache}/{dots}{path[1:]}",
        f"{cache}/%252e%252e/{name}",
        f"{out}/{up}{path[1:]}",
        f"{cache}/link-0.png",
        f"{cache}/./link-1.png",
        f"{cache}//link-2.png",
        f"/proc/self/cwd/{name}",
        f"/proc/self/root{path}",
        f"/proc/{os.getpid()}/root{path}",
        "/proc/self/environ",
        f"{path}%00.png",
        f"{path}/",
        f"{path}/.",
        f"{path}?x=1",
        f"{path};a=b",
        f"{path}%23",
        f"{path}%20",
        f"{path[:-3]}PNG",
        f"{root}/.git/config",
        f"{root}/pyproject.toml",
        f"/{'a/' * 2000}..{path}",
    ]


def test_no_path_leads_to_a_file_outside(served: Served, secrets: list[Path]) -> None:
    inside = ("[core]", "[project]", SECRET)
    leaks = []
    for route in ROUTES:
        for secret in secrets:
            for way in ways_to(secret, served):
                answer = served.send("GET", route + way)
                if any(text in answer.text for text in inside):
                    leaks.append(route + way)
                assert answer.status_code >= 400, route + way
    assert leaks == []


def test_a_picture_that_nobody_asked_for_is_not_served(served: Served) -> None:
    file = served.folder / "20260101-000000-abcdef-0000.png"
    file.write_bytes(b"a picture of somebody else")
    assert served.send("GET", f"/gradio_api/file={file}").status_code == 403
    file.unlink()


def test_what_is_in_the_cache_is_served(served: Served) -> None:
    file = served.cache / "shown.png"
    file.write_bytes(b"the very bytes")
    answer = served.send("GET", f"/gradio_api/file={file}")
    assert (answer.status_code, answer.content) == (200, b"the very bytes")
    file.unlink()


def test_the_cache_is_ones_own(served: Served) -> None:
    assert served.cache.stat().st_mode & 0o077 == 0


def test_a_path_in_a_request_becomes_no_file(served: Served, secrets: list[Path]) -> None:
    """A value shaped like an uploaded file is refused as the text it is not."""
    before = set(served.cache.rglob("*"))
    for secret in secrets:
        file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file, None, 0, 1, 1, None, None, None, None], "session_hash": "s"}
        answer = served.http.post(f"{served.url}gradio_api/call/generate", json=body)
        if answer.status_code == 200:
            event = answer.json()["event_id"]
            answer = served.http.get(f"{served.url}gradio_api/call/generate/{event}")
        assert SECRET not in answer.text
    assert set(served.cache.rglob("*")) == before


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/monitoring",
        "/gradio_api/runs",
        "/gradio_api/dev/reload",
        "/gradio_api/vibe-code/",
        "/gradio_api/deep_link?session_hash=s",
        "/docs",
        "/monitoring",
    ],
)
def test_what_no_page_needs_is_closed(served: Served, path: str) -> None:
    assert served.send("GET", path).status_code in {403, 404}


# T10: hosts and origins


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_hosts_are_refused(served: Served, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
        assert served.send(method, path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:8080", "[::1]:7860"])
def test_this_machine_is_known_under_its_names(served: Served, host: str) -> None:
    """The port may be another: whoever forwards one still reaches the page."""
    assert served.send("GET", "/config", headers={"Host": host}).status_code == 200


def test_there_are_routes_to_guard(served: Served) -> None:
    assert {"/gradio_api/queue/join", "/gradio_api/upload", "/login"} <= set(post_routes(served))


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_foreign_origins_may_post_nothing(served: Served, origin: str) -> None:
    statuses = {
        path: served.send("POST", path, headers={"Origin": origin}, json={}).status_code
        for path in post_routes(served)
    }
    assert set(statuses.values()) == {403}, statuses


def test_one_s_own_origin_and_none_may_post(served: Served) -> None:
    own = served.url.rstrip("/")
    for headers in ({}, {"Origin": own}):
        answer = served.send("POST", "/gradio_api/reset", headers=headers, json={"event_id": "e"})
        assert answer.status_code == 200


def test_foreign_origins_may_not_read_either(served: Served) -> None:
    headers = {"Origin": "https://evil.example"}
    assert served.send("GET", "/config", headers=headers).status_code == 403


def test_the_page_may_ask_nobody_else(served: Served) -> None:
    for path in ("/", "/config", "/gradio_api/file=nothing"):
        policy = served.send("GET", path).headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'self'" in policy


# The door by itself


def door(host: str = "127.0.0.1", cache: Path = Path("/nowhere")) -> Door:
    return Door(_never, host, cache)


async def _silent() -> Message:
    return {"type": "websocket.connect"}


async def _never(*_: Any) -> None:
    raise AssertionError("the request went through")


def test_a_websocket_is_guarded_too() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/gradio_api/queue/join",
        "headers": [(b"host", b"127.0.0.1"), (b"origin", b"https://evil.example")],
        "extensions": {"websocket.http.response": {}},
    }
    asyncio.run(door()(scope, _silent, send))
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    ("bound", "host", "is_known"),
    [
        ("0.0.0.0", "192.168.0.9:7860", True),
        ("0.0.0.0", "[fe80::1]:7860", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "192.168.0.9", True),
        ("192.168.0.9", "192.168.0.9:7860", True),
        ("192.168.0.9", "192.168.0.8:7860", False),
        ("paint.example", "PAINT.example:443", True),
        ("127.0.0.1", "127.0.0.1:port", False),
    ],
)
def test_hosts_by_what_is_listened_to(bound: str, host: str, is_known: bool) -> None:
    """An address cannot be re-pointed by anyone; a name can, so only known ones are answered."""
    refusal = door(bound).refusal("/", Headers({"host": host}))
    assert (refusal is None) == is_known


def test_one_host_is_named_and_no_more() -> None:
    twice = Headers(raw=[(b"host", b"localhost"), (b"host", b"localhost")])
    for headers in (Headers({}), twice):
        refusal = door().refusal("/", headers)
        assert refusal is not None
        assert refusal.status == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.5"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.9", "paint.example", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_brackets() -> None:
    assert [bracketed(h) for h in ("::1", "[::1]", "LocalHost")] == ["[::1]", "[::1]", "localhost"]


def test_a_client_that_sends_bytes_that_are_no_text_is_answered(served: Served) -> None:
    url = httpx.URL(served.url).copy_with(raw_path=b"/gradio_api/file=%ff%fe%00")
    assert served.http.get(url).status_code == 403
