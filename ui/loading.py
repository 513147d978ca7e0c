"""The one model of the app, loaded in the background while the page is already open.

Knows when it is there and what to say until then; nothing of pages. Another model can be asked for
at any time: the one before is let go of first, so that both never share a small memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from threading import Thread
from typing import TYPE_CHECKING, Literal

from pipeline.sources import anonymous_source
from pipeline.spec import ModelSpec

if TYPE_CHECKING:
    from pipeline.download import Plan
    from pipeline.model import Model

State = Literal["loading", "ready", "failed"]
Load = Callable[[ModelSpec], "Model"]
FindPlans = Callable[[ModelSpec], "Sequence[Plan]"]


class Attempt:
    """One model on its way, downloaded first where `plans` say what of it is missing."""

    def __init__(
        self, spec: ModelSpec, load: Load, find_plans: FindPlans, plans: Sequence[Plan] = ()
    ) -> None:
        self.spec = spec
        self._load, self._find_plans, self._plans = load, find_plans, plans
        self._future: Future[Model] = Future()
        self._began = time.monotonic()
        self._doing = f"loading {anonymous_source(spec.source)}"

    def start(self) -> None:
        """Begin; the thread does not keep the program from ending."""
        self._began = time.monotonic()
        Thread(target=self._run, name="load-model", daemon=True).start()

    @property
    def state(self) -> State:
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
            return f"{self._doing} · {time.monotonic() - self._began:.0f} s"
        error = self._future.exception()
        return f"not loaded: {error}" if error else self._future.result().summary

    def _run(self) -> None:
        try:
            for plan in self._plans or self._find_plans(self.spec):
                self._download(plan)
            self._future.set_result(self._load(self.spec))
        except BaseException as error:  # noqa: BLE001  raised again in everyone who waits
            self._future.set_exception(error)

    def _download(self, plan: Plan) -> None:
        from pipeline.download import download, say_bytes

        loading, total = self._doing, say_bytes(plan.total_bytes)
        for progress in download(plan):
            done = say_bytes(progress.done_bytes)
            self._doing = f"downloading {plan.repository}: {done} of {total}"
        self._doing = loading


class Loading:
    """The latest attempt, and how many there were. `load` is called once for each."""

    def __init__(
        self, spec: ModelSpec, load: Load | None = None, find_plans: FindPlans | None = None
    ) -> None:
        self._load, self._find_plans = load or _load, find_plans or _find_plans
        self.latest = Attempt(spec, self._load, self._find_plans)
        self.count = 0

    def start(self) -> None:
        """Begin with the model that the app was opened for."""
        self.latest.start()

    def change(self, spec: ModelSpec, plans: Sequence[Plan] = ()) -> None:
        """Let go of the model, and load another; runs that still draw with the first keep it."""
        self.latest = Attempt(spec, self._load, self._find_plans, plans)
        self.count += 1
        self.latest.start()

    @property
    def spec(self) -> ModelSpec:
        """What is, or is being, loaded."""
        return self.latest.spec

    @property
    def state(self) -> State:
        """How far the latest is."""
        return self.latest.state

    def model(self) -> Model:
        """The latest model, waited for if need be. Raises what went wrong while loading."""
        return self.latest.model()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the latest is there, or has failed, after at most so many seconds."""
        return self.latest.wait(seconds)

    def say(self) -> str:
        """One line about the latest."""
        return self.latest.say()


def _load(spec: ModelSpec) -> Model:
    from pipeline.model import load_model  # torch and diffusers: seconds, spent behind an open page

    return load_model(spec)


def _find_plans(spec: ModelSpec) -> Sequence[Plan]:
    from pipeline.model import plan_missing

    return plan_missing(spec)
