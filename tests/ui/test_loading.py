"""A model on its way: what is said of it, and what becomes of its errors."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import CheckpointError
from pipeline.spec import ModelSpec
from ui.loading import Loading


def test_it_is_said_how_far_it_is() -> None:
    go = Event()
    model: Any = SimpleNamespace(summary="mine on cpu in float32")

    def load(_: ModelSpec) -> Any:
        go.wait()
        return model

    loading = Loading(ModelSpec(source="/somewhere/mine"), load)
    loading.start()
    assert (loading.state, loading.say()) == ("loading", "loading mine · 0 s")
    assert not loading.wait(0.01)

    go.set()
    assert loading.wait(10)
    assert (loading.state, loading.say()) == ("ready", "mine on cpu in float32")
    assert loading.model() is model


def test_it_is_loaded_once_and_by_its_spec() -> None:
    asked: list[ModelSpec] = []
    loading = Loading(ModelSpec(device="cpu"), load=lambda spec: asked.append(spec))  # type: ignore
    loading.start()
    loading.model()
    loading.model()
    assert asked == [ModelSpec(device="cpu")]


def test_what_goes_wrong_is_told_to_everyone() -> None:
    def fail(_: ModelSpec) -> Any:
        raise CheckpointError("model 'x': no such folder")

    loading = Loading(ModelSpec(source="x"), load=fail)
    loading.start()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no such folder"):
            loading.model()
    assert loading.state == "failed"
    assert loading.say() == "not loaded: model 'x': no such folder"


def test_by_default_the_model_comes_through_the_library_s_door() -> None:
    loading = Loading(ModelSpec(source="no/where/at/all"))
    loading.start()
    with pytest.raises(CheckpointError, match="no such folder"):
        loading.model()
