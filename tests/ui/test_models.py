"""The model field: what can be chosen, and a yes before anything is downloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from pipeline.catalogue import WELL_KNOWN
from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.spec import LoraSpec, ModelSpec
from tests.ui.conftest import at_hand
from ui.loading import Loading
from ui.models import ModelField, check_places, list_choices

PLAN = SimpleNamespace(
    summary="owner/name at abc: 2.1 GB in 9 files", repository="owner/name", total_bytes=10
)


def build(loading: Loading, folder: Path, *, is_shared: bool = False) -> ModelField:
    """A field in blocks of its own, made in an event loop of its own: see `ui.app`."""

    async def make() -> ModelField:
        with gr.Blocks(analytics_enabled=False):
            return ModelField(loading, folder, is_shared=is_shared)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, make()).result()


@pytest.fixture
def asked(embedded: Model) -> list[ModelSpec]:
    """What was loaded."""
    return []


@pytest.fixture
def field(embedded: Model, asked: list[ModelSpec], tmp_path: Path) -> ModelField:
    loading = Loading(
        ModelSpec(device="cpu"),
        load=lambda spec: asked.append(spec) or embedded,  # type: ignore[func-returns-value]
        find_plans=lambda spec: [],
    )
    loading.start()
    loading.wait()
    asked.clear()
    return build(loading, tmp_path)


def values(field: ModelField, **changes: Any) -> dict[Any, Any]:
    """What the widgets hold, by widget."""
    blank = {"source": "embedded", "revision": "", "vae": "", "loras": "", "clip_skip": None}
    return {getattr(field, name): value for name, value in {**blank, **changes}.items()} | {
        field.plans: []
    }


def test_what_is_here_and_what_is_well_known_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").write_text("{}")

    choices = {source: label for label, source in list_choices(tmp_path)}

    assert list(choices)[:2] == ["embedded", str(tmp_path / "mine")]
    for model in WELL_KNOWN:
        assert model.licence in choices[model.source]
        assert "GB" in choices[model.source]


def test_a_model_that_is_here_is_loaded_at_once(
    field: ModelField, asked: list[ModelSpec], tmp_path: Path
) -> None:
    told = field.on_load(
        values(field, source=str(tmp_path), vae="v", loras="a=0.5\n\nb", clip_skip=1)
    )
    field.loading.wait()

    assert told[field.plans] == []
    assert not told[field.question].visible
    assert asked == [
        ModelSpec(
            source=str(tmp_path),
            vae="v",
            loras=(LoraSpec(source="a", weight=0.5), LoraSpec(source="b")),
            clip_skip=1,
            device="cpu",
        )
    ]


def test_nothing_is_fetched_without_a_yes(
    field: ModelField, asked: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[object] = []

    def download(plan: object) -> Iterator[Any]:
        fetched.append(plan)
        yield SimpleNamespace(done_bytes=10, total_bytes=10, file="x")

    monkeypatch.setattr("pipeline.model.plan_missing", lambda spec: [PLAN])
    monkeypatch.setattr("pipeline.download.download", download)
    before = field.loading.latest

    told = field.on_load(values(field, source="owner/name"))

    assert told[field.question].visible
    assert "2.1 GB" in told[field.asked]
    assert field.loading.latest is before
    assert (fetched, asked) == ([], [])

    field.on_yes(values(field, source="owner/name") | {field.plans: [PLAN]})
    field.loading.wait()

    assert fetched == [PLAN]
    assert [spec.source for spec in asked] == ["owner/name"]


def test_bad_input_is_said_and_the_model_stays(field: ModelField) -> None:
    before = field.loading.latest

    with pytest.raises(gr.Error, match="clip_skip = 99: must be between 0 and 12"):
        field.on_load(values(field, clip_skip=99))

    assert field.loading.latest is before


def test_strangers_reach_the_models_folder_only(tmp_path: Path) -> None:
    inside = tmp_path / "models" / "mine"
    inside.mkdir(parents=True)

    for spec in (ModelSpec(), ModelSpec(source=str(inside)), ModelSpec(source="owner/name")):
        check_places(spec, tmp_path / "models")
    for place in ("/etc", str(tmp_path), str(inside / ".." / ".."), "~"):
        for spec in (
            ModelSpec(source=place),
            ModelSpec(vae=place),
            ModelSpec(loras=(LoraSpec(source=place),)),
        ):
            with pytest.raises(SpecError, match="only models in the models folder"):
                check_places(spec, tmp_path / "models")


def test_a_shared_field_refuses_other_places(embedded: Model, tmp_path: Path) -> None:
    field = build(at_hand(embedded), tmp_path / "models", is_shared=True)

    with pytest.raises(gr.Error, match="only models in the models folder"):
        field.on_load(values(field, source=str(tmp_path)))
