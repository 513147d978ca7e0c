"""The loop yields every step, in any scheduler, and shares nothing between runs."""

from __future__ import annotations

import pytest
import torch

from pipeline.denoise import (
    create_scheduler,
    denoise,
    estimate_latents,
    name_scheduler,
    start_latents,
)
from pipeline.errors import SpecError
from pipeline.spec import SCHEDULERS
from tests.tiny import SCHEDULER_CONFIG

SHAPE = (2, 4, 8, 8)
VELOCITY = {**SCHEDULER_CONFIG, "prediction_type": "v_prediction"}


def _noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def _ideal_predict(target: torch.Tensor, alphas: torch.Tensor, kind: str):
    """The exact prediction of a world that holds nothing but `target`."""

    def predict(latents, timestep, index):
        a = alphas[timestep.long()]
        noise = (latents - a.sqrt() * target) / (1 - a).sqrt()
        return noise if kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * target

    return predict


@pytest.mark.parametrize("config", [SCHEDULER_CONFIG, VELOCITY], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_perfect_prediction_leads_to_its_latents(name, config):
    target = _noise(1) * 0.5
    scheduler = create_scheduler(name, config, 20, "cpu")
    predict = _ideal_predict(target, scheduler.alphas_cumprod, config["prediction_type"])
    generators = [torch.Generator().manual_seed(i) for i in range(2)]

    start = start_latents(scheduler, _noise())
    *_, last = denoise(predict, scheduler, start, scheduler.timesteps, generators)

    # What is left is the noise of the last timestep, which the classic schedulers do not remove:
    # ᾱ of timestep 0 or 1 leaves √(1−ᾱ) = 0.03 to 0.05 of it, and a draw reaches four times that.
    assert (last.latents - target).abs().max() < 0.25


@pytest.mark.parametrize("config", [SCHEDULER_CONFIG, VELOCITY], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "unipc", "lcm", "heun", "pndm"])
def test_the_estimate_of_a_perfect_prediction_is_right_from_the_first_step(name, config):
    target = _noise(1)
    scheduler = create_scheduler(name, config, 10, "cpu")
    predict = _ideal_predict(target, scheduler.alphas_cumprod, config["prediction_type"])
    start = start_latents(scheduler, _noise())

    first = next(denoise(predict, scheduler, start, scheduler.timesteps))

    # The first step divides by √ᾱ = 0.07 where noise is predicted: float32 rounding times 15.
    # Euler's first timestep may be a fraction; rounding it moves ᾱ by less than a percent.
    assert torch.allclose(estimate_latents(scheduler, first), target, atol=0.05)


def test_every_step_is_yielded_and_work_stops_with_the_asking():
    calls = []

    def predict(latents, timestep, index):
        calls.append(index)
        return torch.zeros_like(latents)

    scheduler = create_scheduler("ddim", SCHEDULER_CONFIG, 10, "cpu")
    steps = denoise(predict, scheduler, _noise(), scheduler.timesteps)

    assert [next(steps).index for _ in range(3)] == [0, 1, 2]
    steps.close()
    assert calls == [0, 1, 2]


def test_the_loop_can_start_late():
    scheduler = create_scheduler("ddim", SCHEDULER_CONFIG, 10, "cpu")
    tail = scheduler.timesteps[6:]

    steps = list(denoise(lambda x, t, i: torch.zeros_like(x), scheduler, _noise(), tail))

    assert [int(s.timestep) for s in steps] == tail.tolist()


def test_step_noise_comes_from_the_generators_alone():
    def run(seeds):
        scheduler = create_scheduler("euler-ancestral", SCHEDULER_CONFIG, 4, "cpu")
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        steps = denoise(
            lambda x, t, i: torch.zeros_like(x),
            scheduler,
            _noise(),
            scheduler.timesteps,
            generators,
        )
        return list(steps)[-1].latents

    assert torch.equal(run([1, 2]), run([1, 2]))
    assert torch.equal(run([1, 2])[0], run([1, 3])[0])
    assert not torch.equal(run([1, 2])[1], run([1, 3])[1])


def test_schedulers_are_fresh():
    first = create_scheduler("pndm", SCHEDULER_CONFIG, 4, "cpu")
    second = create_scheduler("pndm", SCHEDULER_CONFIG, 4, "cpu")
    list(denoise(lambda x, t, i: x, first, _noise(), first.timesteps))

    assert first is not second
    assert second.ets == []


def test_a_count_that_a_scheduler_cannot_do_is_refused_by_name():
    with pytest.raises(SpecError, match=r"num_inference_steps = 80: refused by scheduler lcm"):
        create_scheduler("lcm", SCHEDULER_CONFIG, 80, "cpu")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_step_is_enough_for_every_scheduler(name):
    scheduler = create_scheduler(name, SCHEDULER_CONFIG, 1, "cpu")
    start = start_latents(scheduler, _noise())

    steps = list(
        denoise(lambda x, t, i: torch.zeros_like(x), scheduler, start, scheduler.timesteps)
    )

    assert steps
    assert steps[-1].latents.isfinite().all()


def test_classes_have_their_plainest_name():
    solver = {"_class_name": "DPMSolverMultistepScheduler"}
    assert name_scheduler(solver) == "dpm++2m"
    assert name_scheduler(solver | {"algorithm_type": "sde-dpmsolver++"}) == "dpm++2m-sde"
    karras = {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}
    assert name_scheduler(solver | karras) == "dpm++2m-karras"
    assert name_scheduler({"_class_name": "PNDMScheduler"}) == "pndm"
    assert name_scheduler({"_class_name": "NoSuchScheduler"}) is None
