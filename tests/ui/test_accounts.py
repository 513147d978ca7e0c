"""Passwords: where they are written, who is let in, and how slowly the rest is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio_client
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.spec import ModelSpec
from tests.ui.conftest import Served, open_served
from ui.accounts import VARIABLE, Patience, parse_accounts, read_accounts
from ui.app import Address
from ui.loading import Loading

LINE = "ada:a great circle"


def test_a_file_goes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.write_text(f"# who may come in\n\n{LINE}\nbob:another:one\n", encoding="utf-8")

    accounts = read_accounts(file, {VARIABLE: "eve:elsewhere"})

    assert accounts is not None
    assert accounts.admit("ada", "a great circle")
    assert accounts.admit("bob", "another:one")
    assert not accounts.admit("eve", "elsewhere")


def test_the_environment_alone() -> None:
    accounts = read_accounts(None, {VARIABLE: LINE})
    assert accounts is not None
    assert accounts.admit("ada", "a great circle")


def test_neither() -> None:
    assert read_accounts(None, {}) is None


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ada", "a great circl"),
        ("ada", ""),
        ("Ada", "a great circle"),
        ("", ""),
        ("eve", "a great circle"),
        ("ada", "\ud800"),
    ],
)
def test_others_are_not_admitted(name: str, password: str) -> None:
    assert not parse_accounts(LINE, "test").admit(name, password)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no NAME:PASSWORD"),
        ("# nobody\n", "holds no NAME:PASSWORD"),
        ("ada", "line 1: must be NAME:PASSWORD"),
        (":a great circle", "line 1: must be NAME:PASSWORD"),
        (f"{LINE}\nbob:hunter2", "line 2: a password has at least 8 characters"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(text: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_accounts(text, "accounts")
    assert str(raised.value) == f"accounts{': ' if said.startswith('holds') else ', '}{said}"
    assert "hunter2" not in str(raised.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^nobody: No such file or directory$"):
        read_accounts(tmp_path / "nobody", {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not text in UTF-8"):
        read_accounts(file, {})


# Patience


def attempt(address: str = "10.0.0.1", password: str = "wrong") -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": "/login",
        "headers": [(b"password", password.encode())],
        "client": (address, 1),
    }


async def login(scope: Scope, receive: Receive, send: Send) -> None:
    status = {b"right": 200, b"malformed": 422}.get(scope["headers"][0][1], 400)
    await PlainTextResponse("", status)(scope, receive, send)


async def seconds(patience: Patience, scope: Scope) -> tuple[int, float]:
    """The status of the answer and how long it took."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    began = time.monotonic()
    await patience(scope, _nothing, send)
    return statuses[0], time.monotonic() - began


async def _nothing() -> Any:
    return {"type": "http.request"}


def test_wrong_passwords_are_answered_ever_more_slowly() -> None:
    async def scenario() -> list[float]:
        patience = Patience(login, first=0.02)
        return [(await seconds(patience, attempt()))[1] for _ in range(4)]

    for measured, least in zip(asyncio.run(scenario()), (0.02, 0.04, 0.08, 0.16), strict=True):
        assert measured >= least * 0.99


def test_the_delay_has_an_end() -> None:
    patience = Patience(login, first=0.5, longest=30)
    assert [patience.delay(n) for n in (1, 2, 7, 10**6)] == [0.5, 1, 30, 30]


def test_a_right_password_is_answered_at_once_and_forgives() -> None:
    async def scenario() -> list[tuple[int, float]]:
        patience = Patience(login, first=0.05)
        words = ("wrong", "wrong", "right", "wrong")
        return [await seconds(patience, attempt(password=word)) for word in words]

    *_, right, again = asyncio.run(scenario())
    assert right[0] == 200
    assert right[1] < 0.05
    assert 0.05 <= again[1] < 0.1


def test_a_malformed_attempt_forgives_nothing() -> None:
    async def scenario() -> float:
        patience = Patience(login, first=0.05)
        for word in ("wrong", "malformed"):
            await seconds(patience, attempt(password=word))
        return (await seconds(patience, attempt()))[1]

    assert asyncio.run(scenario()) >= 0.099


def test_others_do_not_wait() -> None:
    async def scenario() -> float:
        patience = Patience(login, first=5)
        slow = asyncio.create_task(seconds(patience, attempt("10.0.0.1")))
        await asyncio.sleep(0.01)
        waited = (await seconds(patience, attempt("10.0.0.2", "right")))[1]
        slow.cancel()
        return waited

    assert asyncio.run(scenario()) < 1


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_who_has_many_addresses_is_one_visitor(one: str, other: str, are_one: bool) -> None:
    async def scenario() -> int:
        patience = Patience(login, first=0)
        for address in (one, other):
            await seconds(patience, attempt(address))
        return len(patience.visitors)

    assert asyncio.run(scenario()) == (1 if are_one else 2)


def test_many_at_once_wait_in_turn_and_the_crowd_is_turned_away() -> None:
    """Guessing in parallel gains nothing."""

    async def scenario() -> tuple[list[int], float]:
        patience = Patience(login, first=0.01, longest=0.01)
        began = time.monotonic()
        answers = await asyncio.gather(*(seconds(patience, attempt()) for _ in range(20)))
        return [status for status, _ in answers], time.monotonic() - began

    statuses, took = asyncio.run(scenario())
    assert sorted(statuses) == [400] * Patience.CROWD + [429] * (20 - Patience.CROWD)
    assert took >= Patience.CROWD * 0.01


def test_visitors_are_forgotten() -> None:
    async def scenario() -> int:
        patience = Patience(login, first=0)
        for number in range(50):
            await seconds(patience, attempt(f"10.0.1.{number}"))
        for visitor in patience.visitors.values():
            visitor.seen -= Patience.FORGET + 1
        await seconds(patience, attempt("10.0.0.9"))
        return len(patience.visitors)

    assert asyncio.run(scenario()) == 1


# T11: the app itself


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.9", "paint.example"])
def test_no_open_house(host: str) -> None:
    with pytest.raises(SpecError, match=rf"others can reach it.*--auth-file FILE.*{VARIABLE}"):
        Address(host).find_port()


@pytest.fixture(scope="module")
def locked(embedded: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    loading = Loading(ModelSpec(), load=lambda _: embedded)
    address = Address("0.0.0.0", accounts=parse_accounts(LINE, "test"))
    yield from open_served(loading, tmp_path_factory.mktemp("locked"), address)


def test_without_a_password_nothing_is_told(locked: Served) -> None:
    for path in ("/config", "/gradio_api/info", "/gradio_api/file=x", "/gradio_api/openapi.json"):
        assert locked.send("GET", path).status_code in {401, 403}, path
    page = locked.send("GET", "/").text
    assert '"auth_required":true' in page
    assert "Negative prompt" not in page
    for path in ("/gradio_api/queue/join", "/gradio_api/call/generate", "/gradio_api/upload"):
        assert locked.send("POST", path, json={"data": []}).status_code == 401, path


def test_the_password_opens_and_a_wrong_one_is_slow(locked: Served) -> None:
    form = {"username": "ada", "password": "a great circle"}
    began = time.monotonic()
    assert (
        locked.http.post(f"{locked.url}login", data={**form, "password": "no"}).status_code == 400
    )
    assert time.monotonic() - began >= 0.5
    assert locked.http.post(f"{locked.url}login", data=form).status_code == 200
    assert locked.http.get(f"{locked.url}config").status_code == 200
    locked.http.cookies.clear()


def test_a_client_with_a_password(locked: Served) -> None:
    client = gradio_client.Client(locked.url, auth=("ada", "a great circle"), verbose=False)
    assert "/generate" in client.view_api(return_format="dict")["named_endpoints"]
    client.close()
