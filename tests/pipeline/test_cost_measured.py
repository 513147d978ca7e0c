"""Measuring: which trials are made, in which order, through the very loop; never how long."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline import cost_measured
from pipeline.codec import PixelCodec, VaeCodec
from pipeline.cost import Cost
from pipeline.cost_measured import LeftOut, Progress, Setting, measure
from pipeline.cost_readings import STEPS, Reading, compare, fit_growth
from pipeline.ladder import build_ladder
from pipeline.peak import watch_peak

CPU = torch.device("cpu")
SETTING = Setting(
    sides=(32,),
    width=0.125,
    device=CPU,
    dtype=torch.float32,
    num_inference_steps=2,
    rounds=3,
    budget=1e9,
)
RUNGS = [rung.name for rung in build_ladder()]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of two rungs: the latent network, and one on pixels."""
    rungs = build_ladder()[:2]
    monkeypatch.setattr(cost_measured, "build_ladder", lambda: rungs)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, ...]]:
    """How often the network was called, by the shape of what it saw."""
    calls: Counter[tuple[int, ...]] = Counter()
    bind = cost_measured.bind

    def spy(*arguments: Any) -> Any:
        network = bind(*arguments)

        def counted(latents: Any, *others: Any) -> Any:
            calls[tuple(latents.shape)] += 1
            return network(latents, *others)

        return counted

    monkeypatch.setattr(cost_measured, "bind", spy)
    return calls


@pytest.mark.usefixtures("few")
def test_both_spaces_go_through_the_loop_as_often(
    forwards: Counter[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[type] = Counter()
    for codec in (VaeCodec, PixelCodec):
        decode = codec.decode

        def spy(self: Any, latents: Any, decode: Any = decode) -> Any:
            decoded[type(self)] += 1
            return decode(self, latents)

        monkeypatch.setattr(codec, "decode", spy)

    readings = [event for event in measure(SETTING) if isinstance(event, Reading)]

    # A warm-up, a run that is watched, three rounds; and one more at first, for the process.
    runs = 1 + 1 + SETTING.rounds
    assert [reading.rung for reading in readings] == RUNGS[:2]
    assert forwards == {(2, 4, 4, 4): 2 * (runs + 1), (2, 3, 32, 32): 2 * runs}
    assert decoded == {VaeCodec: runs + 1, PixelCodec: runs}


@pytest.mark.usefixtures("few")
def test_rounds_are_interleaved_and_readings_come_last() -> None:
    events = list(measure(replace(SETTING, sides=(64, 32), rounds=2)))

    texts = [event.text for event in events if isinstance(event, Progress)]
    order = [f"{rung}, {side} px" for side in (32, 64) for rung in RUNGS[:2]]
    assert texts == order * 3
    assert all(isinstance(event, Reading) for event in events[-4:])


@pytest.mark.usefixtures("few")
def test_a_reading_holds_what_was_measured_beside_what_it_should_cost() -> None:
    latent, pixels = (event for event in measure(SETTING) if isinstance(event, Reading))

    assert 0 < latent.fastest_step_seconds <= latent.step_seconds
    assert latent.decode_seconds > 0
    assert latent.decode_cost is not None
    assert pixels.decode_cost is None
    assert latent.cost.flops < pixels.cost.flops
    assert latent.flops_per_second == latent.cost.flops / latent.step_seconds
    assert latent.picture_flops(10) == 10 * latent.cost.flops + latent.decode_cost.flops
    assert latent.picture_seconds(10) == 10 * latent.step_seconds + latent.decode_seconds


def test_what_the_budget_does_not_allow_is_left_out_with_the_reason() -> None:
    events = list(measure(replace(SETTING, sides=(32, 64), budget=0.0)))
    left_out = [event for event in events if isinstance(event, LeftOut)]

    assert [one.rung for one in left_out] == RUNGS * 2
    assert all("of the budget are left" in one.reason for one in left_out[: len(RUNGS)])
    assert {one.reason for one in left_out[len(RUNGS) :]} == {
        "smaller pictures were too much already"
    }


@pytest.mark.usefixtures("few")
def test_what_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_measured, "_free_bytes", lambda device: 2**10)
    reasons = [event.reason for event in measure(SETTING) if isinstance(event, LeftOut)]
    assert reasons == ["it wants 0.0 GiB of memory, 0.0 are free"] * 2


@pytest.mark.usefixtures("few")
def test_running_out_of_memory_leaves_one_trial_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        if self.rung.name != "latent":
            raise torch.OutOfMemoryError

    monkeypatch.setattr(cost_measured._Trial, "watch", fail)
    events = [event for event in measure(SETTING) if not isinstance(event, Progress)]

    assert [type(event) for event in events] == [LeftOut, Reading]
    assert isinstance(events[0], LeftOut)
    assert events[0].reason == "out of memory"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the mark is Linux's")
def test_the_peak_is_what_was_in_use_at_most() -> None:
    size = 64 * 2**20

    def twice() -> None:
        for _ in range(2):
            torch.ones(size // 4).sum()

    peak = watch_peak(CPU, twice)
    nothing = watch_peak(CPU, lambda: None)

    # The system counts pages and threads' caches of them: a few hundred KiB, allow 4 MiB.
    assert peak == pytest.approx(size, abs=4 * 2**20)
    assert nothing == pytest.approx(0, abs=4 * 2**20)


def _reading(rung: str, side: int, seconds: float, flops: int, decode: float = 0.0) -> Reading:
    cost = Cost(
        convolution=flops,
        attention=0,
        linear=0,
        parameters=1,
        weight_bytes=4,
        activation_bytes=4,
        score_bytes=0,
        traffic_bytes=10 * flops,
    )
    return Reading(
        rung=rung,
        side=side,
        rounds=1,
        step_seconds=seconds,
        fastest_step_seconds=seconds,
        step_seconds_iqr=0.0,
        decode_seconds=decode,
        step_peak_bytes=None,
        decode_peak_bytes=None,
        cost=cost,
        decode_cost=cost if decode else None,
    )


def test_distances_are_to_the_latent_network_at_the_same_side() -> None:
    latent = _reading("latent", 64, 2.0, 100, decode=10.0)
    plain, alone = _reading("plain", 64, 6.0, 500), _reading("plain", 128, 9.0, 900)

    (distance,) = compare([latent, plain, alone])

    assert (distance.rung, distance.side) == ("plain", 64)
    assert distance.flop_ratio == distance.traffic_ratio == 5
    assert distance.time_ratio == 3
    assert distance.picture_flop_ratio == 500 * STEPS / (100 * STEPS + 100)
    assert distance.picture_time_ratio == 6 * STEPS / (2 * STEPS + 10)


def test_growth_wants_two_sides() -> None:
    readings = [
        _reading("plain", 64, 1.0, 100),
        _reading("plain", 32, 0.5, 10),
        _reading("latent", 64, 1.0, 100),
    ]

    (growth,) = fit_growth(readings)

    assert growth.rung == "plain"
    assert growth.sides == (32, 64)
    assert growth.measured.fitted == pytest.approx(1)
    assert growth.analytic.fitted == pytest.approx(math.log2(10))
