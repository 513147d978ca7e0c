"""The one model of the app, loaded in the background while the page is already open.

Knows when it is there and what to say until then; nothing of pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from threading import Thread
from typing import TYPE_CHECKING, Literal

from pipeline.sources import anonymous_source
from pipeline.spec import ModelSpec

if TYPE_CHECKING:
    from pipeline.model import Model


class Loading:
    """A model on its way. `load` is called once, in a thread of its own, after `start`."""

    def __init__(self, spec: ModelSpec, load: Callable[[ModelSpec], Model] | None = None) -> None:
        self.spec = spec
        self._load = load or _load
        self._future: Future[Model] = Future()
        self._began = time.monotonic()

    def start(self) -> None:
        """Begin to load; the thread does not keep the program from ending."""
        self._began = time.monotonic()
        Thread(target=self._run, name="load-model", daemon=True).start()

    @property
    def state(self) -> Literal["loading", "ready", "failed"]:
        """How far it is."""
        if not self._future.done():
            return "loading"
        return "failed" if self._future.exception() else "ready"

    def wait(self, seconds: float | None = None) -> bool:
        """Whether loading is over, well or badly, after at most so many seconds."""
        return bool(wait_for([self._future], seconds).done)

    def model(self) -> Model:
        """The model, waited for if need be. Raises what went wrong while loading."""
        return self._future.result()

    def say(self) -> str:
        """One line: what is being loaded and for how long, what runs where, or what is wrong."""
        if not self._future.done():
            return f"loading {anonymous_source(self.spec.source)} · {self._seconds():.0f} s"
        error = self._future.exception()
        return f"not loaded: {error}" if error else self._future.result().summary

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _run(self) -> None:
        try:
            self._future.set_result(self._load(self.spec))
        except BaseException as error:  # noqa: BLE001  raised again in everyone who waits
            self._future.set_exception(error)


def _load(spec: ModelSpec) -> Model:
    from pipeline.model import load_model  # torch and diffusers: seconds, spent behind an open page

    return load_model(spec)
