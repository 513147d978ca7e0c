"""The app as the tests of ui/ reach it: served once, on a free port, with the model at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import httpx
import pytest

from pipeline.model import Model
from pipeline.spec import ModelSpec
from ui.app import Address, Folders, serve
from ui.loading import Loading


@dataclass
class Served:
    """An app that is open: its blocks, its folder of pictures, a client without cookies."""

    blocks: gr.Blocks
    folder: Path
    http: httpx.Client = field(repr=False)

    @property
    def url(self) -> str:
        return str(self.blocks.local_url)

    @property
    def cache(self) -> Path:
        return Path(self.blocks.GRADIO_CACHE)

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A request whose path stays as it is written: no dots resolved, nothing encoded."""
        base = httpx.URL(self.url)
        url = base.copy_with(raw_path=path.encode())
        return self.http.request(method, url, **kwargs)

    def function(self, name: str) -> int:
        """The number of the event that is called `name` in the app's API."""
        return next(i for i, fn in self.blocks.fns.items() if fn.api_name == name)


def open_served(loading: Loading, folder: Path, address: Address) -> Iterator[Served]:
    with (
        serve(loading, Folders(folder), address) as blocks,
        httpx.Client(trust_env=False, timeout=30) as http,
    ):
        yield Served(blocks, folder, http)


def at_hand(model: Model) -> Loading:
    """A loading that is over at once."""
    loading = Loading(ModelSpec(), load=lambda _: model)
    loading.start()
    loading.wait()
    return loading


def loading_once(event: Event, model: Model) -> Loading:
    """A loading that is over only once `event` is set."""

    def load(_: ModelSpec) -> Model:
        event.wait()
        return model

    return Loading(ModelSpec(), load)


@pytest.fixture(scope="session")
def served(embedded: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app on the embedded model, open to this machine."""
    loading = Loading(ModelSpec(), load=lambda _: embedded)
    yield from open_served(loading, tmp_path_factory.mktemp("pictures"), Address())
