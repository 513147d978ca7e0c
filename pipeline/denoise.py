"""Noise to latents: the loop, and the schedulers by name.

Knows schedulers and their timesteps; knows no text, no autoencoder and no images. The network is a
plain callable, so whatever predicts can be denoised with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from pipeline.errors import CheckpointError, SpecError
from pipeline.noise import drawing
from pipeline.spec import PredictionType
from pipeline.tensors import Latents, Noise

MAX_TRAIN_TIMESTEPS = 10_000

Predict = Callable[[Latents, Tensor, int], Tensor]
"""`predict(latents, timestep, index)`: the network's output, be it noise or velocity."""


class Scheduler(Protocol):
    """The part of diffusers' schedulers that the loop needs."""

    config: Any
    timesteps: Tensor
    alphas_cumprod: Tensor
    init_noise_sigma: Any
    order: int

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor: ...

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **extras: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the loop: the latents after it, and what the network saw and said in it."""

    index: int
    timestep: Tensor
    latents: Latents
    model_input: Latents
    prediction: Tensor


def denoise(
    predict: Predict,
    scheduler: Scheduler,
    latents: Latents,
    timesteps: Tensor,
    generators: Sequence[torch.Generator] = (),
) -> Iterator[Step]:
    """Yield every step from `latents` (as `start_latents` makes them) along `timesteps`.

    `generators`, one a sample, feed the schedulers that draw noise at each step. The scheduler
    holds the history of this run: never share one between two runs.
    """
    extras = _match_extras(scheduler, generators)
    for index, timestep in enumerate(timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = predict(model_input, timestep, index)
        with drawing(generators):
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **extras)[0]

        yield Step(
            index=index,
            timestep=timestep,
            latents=latents,
            model_input=model_input,
            prediction=prediction,
        )


def start_latents(scheduler: Scheduler, noise: Noise) -> Latents:
    """Unit Gaussian `noise` at the scale where `scheduler` starts."""
    latents: Latents = noise * scheduler.init_noise_sigma
    return latents


def skip_steps(scheduler: Scheduler, num_inference_steps: int, strength: float) -> Tensor:
    """The timesteps that are left to an image which goes through a share `strength` of the steps.

    `scheduler` is fresh, and begins there. Raises `SpecError` where no step is left.
    """
    left = int(num_inference_steps * strength)
    if left == 0:
        least = 1 / num_inference_steps
        raise SpecError(
            f"strength = {strength:g}: leaves none of {num_inference_steps} steps,"
            f" must be at least {least:g}"
        )
    first = (num_inference_steps - left) * scheduler.order
    _begin(scheduler, first)
    return scheduler.timesteps[first:]


def noise_latents(scheduler: Scheduler, start: Latents, noise: Noise, timesteps: Tensor) -> Latents:
    """The latents `start` with as much of `noise` as belongs to the first of `timesteps`."""
    latents: Latents = scheduler.add_noise(start, noise, timesteps[:1].repeat(len(start)))
    return latents


def estimate_latents(scheduler: Scheduler, step: Step) -> Latents:
    """The latents that `step`'s prediction points at, as if no step were left (for previews).

    A scaled model input is always `√ᾱ·latents + √(1−ᾱ)·noise`, in every scheduler.
    """
    alpha_bar = scheduler.alphas_cumprod.to(step.model_input)[step.timestep.long()]
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    match scheduler.config.prediction_type:
        case "v_prediction":
            return signal * step.model_input - spread * step.prediction
        case "sample":
            return step.prediction
    return (step.model_input - spread * step.prediction) / signal


_SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False},
    ),
    "dpm++2m-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm++2m-sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


def create_scheduler(
    name: str, config: Mapping[str, Any], num_inference_steps: int, device: torch.device | str
) -> Scheduler:
    """A fresh scheduler of that name from a checkpoint's scheduler config, its timesteps set."""
    import diffusers

    class_name, settings = _SCHEDULERS[name]
    kind = getattr(diffusers, class_name)
    accepted = inspect.signature(kind).parameters  # a config may come from another scheduler
    _check_config(config)
    try:
        scheduler = kind(**{k: v for k, v in {**config, **settings}.items() if k in accepted})
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise CheckpointError(f"scheduler config: refused by scheduler {name}: {reason}") from error
    try:
        scheduler.set_timesteps(num_inference_steps, device=device)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SpecError(
            f"num_inference_steps = {num_inference_steps}: refused by scheduler {name}: {reason}"
        ) from None
    _begin(scheduler, 0)
    fresh: Scheduler = scheduler
    return fresh


def _check_config(config: Mapping[str, Any]) -> None:
    """What every scheduler reads, and takes as it comes."""
    steps, predicted = (config.get("num_train_timesteps", 1000), config.get("prediction_type"))
    if type(steps) is not int or not 1 <= steps <= MAX_TRAIN_TIMESTEPS:
        raise CheckpointError(
            f"scheduler config: num_train_timesteps = {steps!r}: must be between 1 and"
            f" {MAX_TRAIN_TIMESTEPS}"
        )
    if predicted not in (None, *get_args(PredictionType)):
        allowed = ", ".join(get_args(PredictionType))
        raise CheckpointError(
            f"scheduler config: prediction_type = {predicted!r}: must be one of {allowed}"
        )


def name_scheduler(config: Mapping[str, Any]) -> str | None:
    """Our name of the scheduler in a checkpoint's config: the one that sets what it sets."""
    fits = {
        name: sum(config.get(key) == value for key, value in settings.items())
        for name, (kind, settings) in _SCHEDULERS.items()
        if kind == config.get("_class_name")
    }
    return max(fits, key=lambda name: fits[name]) if fits else None


def _begin(scheduler: Any, index: int) -> None:
    """Say where the loop begins: else each step looks its timestep up, and waits for the GPU."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)


def _match_extras(
    scheduler: Scheduler, generators: Sequence[torch.Generator]
) -> dict[str, list[torch.Generator]]:
    accepted = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if generators and "generator" in accepted else {}
