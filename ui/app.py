"""The app: its pages, how it looks, and how it is opened to the world.

Knows the framework's launch settings; what a page does is the page's business.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol
from urllib.request import getproxies

import gradio as gr
from gradio.events import api
from starlette.middleware import Middleware

from pipeline.catalogue import MODELS_FOLDER
from pipeline.errors import SpecError
from ui import markup
from ui.accounts import HOW, Accounts, Patience
from ui.door import Door, bracketed, is_loopback
from ui.endpoint import make_endpoint
from ui.generate import GeneratePage
from ui.jobs import Jobs
from ui.loading import Loading
from ui.models import ModelField
from ui.morph import MorphPage
from ui.roundtrip import RoundTripPage
from ui.runs import Runs
from ui.sampling import GPU, QUICK, QUIET, Updates

if TYPE_CHECKING:
    from pipeline.model import Model

HERE = Path(__file__).parent

WAITING = 16
"""Requests that may wait for the model; the next one is told that the queue is full."""

PORTS = range(7860, 7960)

BUSY_SECONDS, IDLE_SECONDS = 0.5, 5.0
"""How often an open page asks after the model: while one loads, and in case someone changes it."""

# System fonts: nothing is fetched from anywhere.
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="md",
    font=("ui-sans-serif", "system-ui", "Segoe UI", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Consolas", "monospace"),
)


@dataclass(frozen=True)
class Address:
    """Where the app listens and who may come in. No port: the first free one from 7860 on."""

    host: str = "127.0.0.1"
    port: int | None = None
    accounts: Accounts | None = None

    def find_port(self) -> int:
        """A port that is free. Raises SpecError if there is none, or if strangers could walk in."""
        if not self.accounts and not is_loopback(self.host):
            raise SpecError(
                f"host = {self.host!r}: others can reach it, so it needs a password: {HOW}"
            )
        if self.port is not None and not 1 <= self.port <= 65535:
            raise SpecError(f"port = {self.port}: must be between 1 and 65535")
        ports = PORTS if self.port is None else range(self.port, self.port + 1)
        try:
            return next(port for port in ports if self._is_free(port))
        except OSError as error:
            raise SpecError(f"host = {self.host!r}: {error.strerror or error}") from None
        except StopIteration:
            which = f"port = {self.port}" if self.port else f"ports {ports[0]} to {ports[-1]}"
            raise SpecError(f"{which}: taken by another program") from None

    def _is_free(self, port: int) -> bool:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            with socket.create_server((self.host.strip("[]"), port), family=family):
                return True
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise


@dataclass(frozen=True)
class Folders:
    """Where pictures and morphs are kept, and where models are looked for."""

    pictures: Path
    models: Path = MODELS_FOLDER

    @property
    def morphs(self) -> Path:
        """The folder of the morphs' runs."""
        return self.pictures / "morphs"


class Page(Protocol):
    """What a tab holds: some of its fields have defaults that only the model knows."""

    @property
    def model_fields(self) -> list[Any]:
        """These fields."""

    def empty(self) -> Updates:
        """What they show while a model loads."""

    def defaults(self, model: Model) -> Updates:
        """What they show once it is there."""


def build(loading: Loading, folders: Folders, jobs: Jobs, *, is_shared: bool = False) -> gr.Blocks:
    """The app, not yet served; `is_shared`: others than the machine's owner may use it."""
    blocks = gr.Blocks(
        title=markup.TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)
    )
    with blocks:
        header = gr.HTML(markup.header(loading.say(), loading.state), elem_id="header")
        models = ModelField(loading, folders.models, is_shared=is_shared)
        tabs: dict[str, Callable[[], Page]] = {
            "Generate": lambda: GeneratePage(loading, folders.pictures),
            "Morph": lambda: MorphPage(loading, jobs, is_shared=is_shared),
            "Round trip": lambda: RoundTripPage(loading),
        }
        with gr.Tabs(elem_id="pages"):
            pages = [_build_tab(name, page) for name, page in tabs.items()]
        api(make_endpoint(loading, folders.pictures), api_name="generate", **GPU)
        clock = _follow(loading, header, pages, blocks)
        _choose(models, clock)
    blocks.queue(max_size=WAITING, api_open=False)
    return blocks


def _build_tab(name: str, page: Callable[[], Page]) -> Page:
    with gr.Tab(name):
        return page()


def _follow(loading: Loading, header: gr.HTML, pages: list[Page], blocks: gr.Blocks) -> gr.Timer:
    """Tell open pages how far the model is, and their defaults once it is there."""
    clock = gr.Timer(BUSY_SECONDS)
    told = gr.State(None)  # which model's defaults are filled in

    def look(seen: int | None) -> Updates:
        state, count = loading.state, loading.count
        ticking = gr.Timer(BUSY_SECONDS if state == "loading" else IDLE_SECONDS)
        said = {header: markup.header(loading.say(), state), clock: ticking}
        if state == "ready" and seen != count:
            for page in pages:
                said |= page.defaults(loading.model())
            return said | {told: count}
        if state == "loading":
            for page in pages:
                said |= page.empty()
            return said | {told: None}
        return said

    outputs = [header, clock, told, *(field for page in pages for field in page.model_fields)]
    gr.on([blocks.load, clock.tick], look, inputs=told, outputs=outputs, **QUIET)
    return clock


def _choose(models: ModelField, clock: gr.Timer) -> None:
    """A choice of another model sets the clock going, which tells the rest."""

    def wake() -> gr.Timer:
        return gr.Timer(BUSY_SECONDS)

    inputs = {*models.inputs, models.plans}
    for click, answer in ((models.load.click, models.on_load), (models.yes.click, models.on_yes)):
        click(answer, inputs=inputs, outputs=models.outputs, **QUICK).success(
            wake, outputs=clock, **QUIET
        )
    models.no.click(models.close, outputs=models.outputs, **QUIET)


@contextmanager
def serve(loading: Loading, folders: Folders, address: Address) -> Iterator[gr.Blocks]:
    """Open the app, at its `local_url`, and start to load the model; at the end close it again.

    A morph that is being made at the end is stopped within a step, and kept as far as it is.
    """
    port = address.find_port()
    jobs = Jobs(Runs(folders.morphs), limit=WAITING)
    with TemporaryDirectory(prefix="greatcircle-") as cache, _environment(cache):
        settings = {**_settings(address, folders, Path(cache)), "server_port": port}
        is_shared = address.accounts is not None
        blocks = _open(lambda: build(loading, folders, jobs, is_shared=is_shared), settings)
        loading.start()
        try:
            yield blocks
        finally:
            jobs.close()
            blocks.close(verbose=False)


def _open(make: Callable[[], gr.Blocks], settings: dict[str, Any]) -> gr.Blocks:
    """Build and launch inside an event loop.

    Outside of one the framework makes a new loop for each of its locks, and closes none of them.
    """

    async def launch() -> gr.Blocks:
        blocks = make()
        blocks.launch(**settings)
        return blocks

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, launch()).result()


@contextmanager
def _environment(cache: str) -> Iterator[None]:
    """What the framework takes from the environment alone; it is put back as it was."""
    direct = [getproxies().get("no", ""), "localhost,127.0.0.1,::1"]
    wanted = {
        "GRADIO_TEMP_DIR": cache,  # of our own, not one that is shared with other programs
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**31),  # no statistics after each request
        "no_proxy": ",".join(filter(None, direct)),  # none on the way to ourselves
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _settings(address: Address, folders: Folders, cache: Path) -> dict[str, Any]:
    """How the framework serves: by itself alone, nothing measured or shared, nothing extra."""
    door = [Middleware(Patience), Middleware(Door, host=address.host, cache=cache)]
    return {
        "server_name": bracketed(address.host),
        "auth": address.accounts.admit if address.accounts else None,
        "app_kwargs": {"middleware": door},
        "allowed_paths": [str(folders.pictures.resolve())],
        "max_file_size": "32mb",
        "theme": THEME,
        "css_paths": HERE / "style.css",
        "js": (HERE / "keys.js").read_text(encoding="utf-8"),
        "footer_links": [],
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,
        "show_error": False,
        "enable_monitoring": False,
        "run_history": False,
        "mcp_server": False,
        "pwa": False,
        "ssr_mode": False,
        "num_workers": 0,
    }
