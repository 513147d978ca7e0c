"""How the app is opened: where it listens, what it offers, what it leaves behind."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from inspect import isgeneratorfunction as is_generator
from pathlib import Path
from threading import Event

import pytest

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.spec import ModelSpec
from tests.ui.conftest import Served, loading_once, open_served
from ui.accounts import parse_accounts
from ui.app import PORTS, WAITING, Address, Folders, serve
from ui.loading import Loading


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_first_free_port() -> None:
    first = Address().find_port()
    assert first in PORTS
    with socket.create_server(("127.0.0.1", first)):
        assert PORTS[0] <= first < Address().find_port() <= PORTS[-1]


def test_a_port_that_is_taken(taken: int) -> None:
    with pytest.raises(SpecError, match=rf"^port = {taken}: taken by another program$"):
        Address(port=taken).find_port()


def test_no_port_is_free(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.app.PORTS", range(taken, taken + 1))
    with pytest.raises(SpecError, match=rf"^ports {taken} to {taken}: taken by"):
        Address().find_port()


@pytest.mark.parametrize("port", [-1, 0, 65536, 10**9])
def test_a_port_that_cannot_be(port: int) -> None:
    with pytest.raises(SpecError, match=rf"^port = {port}: must be between 1 and 65535$"):
        Address(port=port).find_port()


def test_a_host_that_is_not_this_machine() -> None:
    with pytest.raises(SpecError, match=r"^host = '127\.0\.0\.300': "):
        accounts = parse_accounts("ada:a great circle", "test")
        Address("127.0.0.300", accounts=accounts).find_port()


def test_nothing_is_measured_or_shared(served: Served) -> None:
    blocks = served.blocks
    assert not blocks.share
    assert not blocks.analytics_enabled
    assert not blocks.enable_monitoring
    assert not blocks.run_history
    assert not blocks.mcp_server
    assert blocks.footer_links == []
    assert blocks._queue.max_size == WAITING
    assert not blocks.api_open


def test_every_event_that_renders_waits_in_one_queue(served: Served) -> None:
    queued = [fn for fn in served.blocks.fns.values() if fn.queue]
    rendering = [fn for fn in queued if fn.concurrency_id == "gpu"]
    names = {re.sub(r"_\d+$", "", str(fn.api_name)) for fn in rendering}
    assert names >= {"on_generate", "generate", "on_draw", "on_preview"}
    assert {fn.concurrency_limit for fn in rendering} == {1}
    assert all(is_generator(fn.fn) == (fn in rendering) for fn in queued), "the rest is quick"


def test_the_page_is_open_before_the_model_is_there(embedded: Model, tmp_path: Path) -> None:
    ready = Event()
    loading = loading_once(ready, embedded)
    for served in open_served(loading, tmp_path, Address()):
        assert served.send("GET", "/").status_code == 200
        look = {"data": [None], "fn_index": served.function("look"), "session_hash": "s"}

        def told(served: Served = served, look: dict[str, object] = look) -> str:
            return served.send("POST", "/gradio_api/run/look", json=look).text

        assert "loading embedded" in told()
        ready.set()
        loading.wait(10)
        assert "embedded on cpu in float32" in told()


def test_what_was_changed_is_put_back_and_what_was_cached_is_gone(
    embedded: Model, tmp_path: Path
) -> None:
    before = dict(os.environ)
    loading = Loading(ModelSpec(), load=lambda _: embedded)
    with serve(loading, Folders(tmp_path), Address()) as blocks:
        cache = Path(blocks.GRADIO_CACHE)
        assert cache.is_dir()
    assert dict(os.environ) == before
    assert not cache.exists()
    assert not blocks.is_running
