"""Parts lie on their device, or take turns there, and the pictures are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import memory
from pipeline.memory import place
from pipeline.model import Model, load_model
from pipeline.render import points, render
from pipeline.spec import ModelSpec, Sampling, StillSpec

SPEC = StillSpec(
    prompt="a red apple", sampling=Sampling(num_inference_steps=2, height=32, width=32)
)


class Tiled(nn.Linear):
    """A part that can work in tiles."""

    is_tiled = False

    def enable_tiling(self) -> None:
        self.is_tiled = True


def test_with_room_everything_lies_there_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100 * 2**30)
    part = Tiled(4, 4)

    assert place([part], torch.device("cpu"), None) is None
    assert not part.is_tiled


def test_without_room_parts_take_turns_and_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    part = Tiled(4, 4)

    note = place([part], torch.device("cpu"), None)

    assert note is not None
    assert "1.0 GiB are free" in note
    assert part.is_tiled


def test_it_can_be_asked_for_and_forbidden(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    assert place([Tiled(4, 4)], torch.device("cpu"), False) is None

    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    note = place([Tiled(4, 4)], torch.device("cpu"), True)
    assert note is not None
    assert "as asked" in note


def test_one_part_at_a_time_is_on_the_device():
    """On the meta device, where nothing is computed: what is there can be told from its device."""
    parts = [nn.Linear(4, 4) for _ in range(3)]
    memory._offload(parts, torch.device("meta"))

    assert [p.weight.device.type for p in parts] == ["cpu"] * 3
    parts[0](torch.zeros(1, 4))
    assert parts[0].weight.device.type == "meta"


def test_low_memory_draws_the_same_pictures(tiny: Model, tiny_folder: Path):
    cramped = load_model(ModelSpec(source=str(tiny_folder), device="cpu", low_memory=True))

    assert "low memory" in cramped.summary
    (frame,) = render(cramped, SPEC.sampling, points(cramped, SPEC))
    (usual,) = render(tiny, SPEC.sampling, points(tiny, SPEC))
    assert torch.equal(frame.latents, usual.latents)
    assert torch.equal(frame.pixels, usual.pixels)  # one tile holds all of a picture this small
