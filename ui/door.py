"""Who may talk to the app: hosts, origins, routes and files.

Knows HTTP and nothing of pages or models. A page of another site must not drive the app (its Origin
is foreign), nor must a name that was re-pointed at this machine (its Host is unknown). Of the
framework's routes only those stand open that the pages need, of the files only the app's own cache.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
WILDCARDS = frozenset({"0.0.0.0", "[::]"})  # noqa: S104  listened to only with a password

API = "/gradio_api"
FILES = f"{API}/file="

# What the pages and the clients call. All else the framework serves (proxies, recordings, component
# servers, dashboards, reloads) is closed, whatever its own checks say.
_PAGE = r"(config|login|logout|theme\.css|favicon\.ico|manifest\.json|robots\.txt)?"
_ASSETS = r"(assets|static|svelte)/.+"
_API = (
    r"gradio_api/(info|openapi\.json|app_id|login_check|theme\.css|startup-events|reset|cancel"
    r"|upload|upload_progress|queue/(join|data|status)|(run|call|heartbeat)/.+)"
)
OPEN = re.compile(rf"/({_PAGE}|{_ASSETS}|{_API})/?", re.DOTALL)

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")

# The page asks nothing of anyone else, and no other site may frame it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Refusal(NamedTuple):
    """Why a request goes no further, in one line."""

    status: int
    reason: str


def bracketed(host: str) -> str:
    """`host` as it stands in a URL: lower case, an IPv6 address in brackets."""
    host = host.lower()
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    return bracketed(host) in LOOPBACK or (_is_address(host) and _address(host).is_loopback)


class Door:
    """ASGI middleware that lets a request through to `app`, or answers it with a `Refusal`.

    `host` is what the server is bound to, `cache` the one folder files are served from.
    """

    def __init__(self, app: ASGIApp, host: str, cache: Path) -> None:
        self.app = app
        self.host = bracketed(host)
        self.names = LOOPBACK | {self.host} | (_own_names() if self.host in WILDCARDS else set())
        self.cache = cache.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, with_headers)
        else:
            answer = PlainTextResponse(refusal.reason, refusal.status)
            await answer(scope, receive, with_headers)

    def refusal(self, path: str, headers: Headers) -> Refusal | None:
        """Why a request for `path` may not pass, or None."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0].lower()):
            return Refusal(400, "this host name is not served here")
        if any(not _is_own(origin, hosts[0]) for origin in headers.getlist("origin")):
            return Refusal(403, "requests from other sites are refused")
        if path.startswith(FILES):
            served = self._serves(path.removeprefix(FILES))
            return None if served else Refusal(403, "this file is not served")
        if not OPEN.fullmatch(path) or ".." in path.split("/"):
            return Refusal(404, "not found")
        return None

    def _knows(self, netloc: str) -> bool:
        """Whether "host:port" names this server. A bare address cannot be re-pointed by anyone."""
        parts = _HOST.fullmatch(netloc)
        if parts is None:
            return False
        return parts[1] in self.names or (self.host in WILDCARDS and _is_address(parts[1]))

    def _serves(self, path: str) -> bool:
        """Whether `path`, links followed, is a file inside the cache."""
        try:
            real = Path(path).resolve()
            return Path(path).is_absolute() and real.is_relative_to(self.cache) and real.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, a loop of links
            return False


def _is_own(origin: str, host: str) -> bool:
    scheme, _, netloc = origin.lower().partition("://")
    return scheme in {"http", "https"} and netloc == host.lower()


def _own_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, f"{name}.local"}) if name else frozenset()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(host.strip("[]"))


def _is_address(host: str) -> bool:
    try:
        _address(host)
    except ValueError:
        return False
    return True
