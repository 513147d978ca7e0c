"""Names and passwords for an app that others on the network can reach.

Knows where passwords are written (a file or the environment, never the command line, which every
user of the machine can read) and how slowly wrong ones are answered. Knows no pages.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import SpecError

VARIABLE = "GREATCIRCLE_AUTH"
HOW = f"give NAME:PASSWORD with --auth-file FILE or in {VARIABLE}"

SHORTEST = 8  # characters; a wrong guess costs seconds, so this is out of reach
MAX_BYTES = 2**16


class Accounts:
    """Who may log in. The framework calls `admit`, which takes equally long for every answer."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._digests = {name: _digest(password) for name, password in passwords.items()}
        self._nobody = _digest(secrets.token_hex())

    def __len__(self) -> int:
        return len(self._digests)

    def admit(self, name: str, password: str) -> bool:
        """Whether this is the password of `name`."""
        return secrets.compare_digest(_digest(password), self._digests.get(name, self._nobody))


def read_accounts(file: Path | None, environ: Mapping[str, str]) -> Accounts | None:
    """The accounts in `file`, else in the environment, a NAME:PASSWORD each line, or None.

    Raises SpecError, without the password in it.
    """
    if file is not None:
        return parse_accounts(_read(file), file.name)
    if VARIABLE in environ:
        return parse_accounts(environ[VARIABLE], VARIABLE)
    return None


def parse_accounts(text: str, source: str) -> Accounts:
    """The accounts in `text`; empty lines and lines that begin with # say nothing."""
    passwords = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.strip().partition(":")
        if not colon or not name:
            raise SpecError(f"{source}, line {number}: must be NAME:PASSWORD")
        if len(password) < SHORTEST:
            raise SpecError(
                f"{source}, line {number}: a password has at least {SHORTEST} characters"
            )
        passwords[name] = password
    if not passwords:
        raise SpecError(f"{source}: holds no NAME:PASSWORD")
    return Accounts(passwords)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise SpecError(f"{file.name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{file.name}: is not text in UTF-8") from None


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()


@dataclass
class Visitor:
    """What is remembered of an address that tries to log in."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    wrong: int = 0
    seen: float = field(default_factory=time.monotonic)


class Patience:
    """ASGI middleware that answers wrong passwords ever more slowly, each address by itself.

    The attempts of one address go one by one; after the nth wrong one the answer takes
    `first` · 2ⁿ⁻¹ seconds, at most `longest`. Other visitors notice nothing.
    """

    CROWD = 8  # attempts of one address that may wait their turn
    FORGET = 900.0  # seconds

    def __init__(self, app: ASGIApp, first: float = 0.5, longest: float = 30.0) -> None:
        self.app = app
        self.first = first
        self.longest = longest
        self.visitors: dict[str, Visitor] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") != "/login":
            await self.app(scope, receive, send)
            return

        visitor = self._visitor(scope)
        if visitor.waiting >= self.CROWD:
            await PlainTextResponse("too many attempts to log in", 429)(scope, receive, send)
            return
        visitor.waiting += 1
        try:
            async with visitor.lock:
                await self._attempt(visitor, scope, receive, send)
        finally:
            visitor.waiting -= 1

    async def _attempt(self, visitor: Visitor, scope: Scope, receive: Receive, send: Send) -> None:
        async def slowly(message: Message) -> None:
            if message["type"] == "http.response.start":
                visitor.seen = time.monotonic()
                if message["status"] == 400:
                    visitor.wrong += 1
                    await asyncio.sleep(self.delay(visitor.wrong))
                elif message["status"] == 200:
                    visitor.wrong = 0
            await send(message)

        await self.app(scope, receive, slowly)

    def delay(self, wrong: int) -> float:
        """Seconds that the answer to the `wrong`th wrong password in a row is held back."""
        return min(self.first * 2.0 ** min(wrong - 1, 20), self.longest)

    def _visitor(self, scope: Scope) -> Visitor:
        now = time.monotonic()
        for address, visitor in list(self.visitors.items()):
            if not visitor.waiting and now - visitor.seen > self.FORGET:
                del self.visitors[address]
        return self.visitors.setdefault(_neighbourhood(scope), Visitor())


def _neighbourhood(scope: Scope) -> str:
    """The address of the caller; in IPv6, where one caller has very many, its /64 network."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network(f"{host}/64", strict=False))
