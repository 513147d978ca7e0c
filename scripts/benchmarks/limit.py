"""How fast a film could be at most: what it asks for in FLOPs, and what the device can do.

Knows shapes, matrix products and clocks; knows no film and no way of making one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.cost import count
from pipeline.denoise import create_scheduler
from pipeline.ladder import META
from pipeline.model import Model
from pipeline.network import embeds_guidance
from pipeline.spec import MorphSpec
from scripts.benchmarks.counts import Counts, shape_of

# A CPU's are short, so that some are whole between the turns of other programs.
_SIDES = {"cpu": (384, 512, 768), "other": (4096, 8192)}
_PRODUCTS = 20  # of each side, of which the fastest counts


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of the UNet for one sample, and of the decoder for one picture, from shapes alone.

    `samples` go through the UNet for a picture: the steps, and twice as many with guidance.
    """

    unet: int
    decode: int
    samples: int

    @property
    def picture(self) -> int:
        """FLOPs of one rendered picture."""
        return self.samples * self.unet + self.decode

    def done(self, counts: Counts) -> int:
        """FLOPs of all that was asked for."""
        return counts.unet_samples * self.unet + counts.decoded * self.decode


@dataclass(frozen=True, kw_only=True)
class Rate:
    """FLOP/s of the fastest matrix product: by the clock, and for each second of a processor."""

    flops_per_second: float
    flops_per_processor_second: float


def count_work(model: Model, spec: MorphSpec) -> Work:
    """What a picture of the resolved `spec` asks of `model`, counted on the meta device."""
    unet, vae = shape_of(model.unet), shape_of(model.codec.vae)  # type: ignore[attr-defined]
    shape = model.noise_shape(spec.sampling)
    tokens = model.text.encoders[0].tokenizer.model_max_length
    latents = torch.empty(1, *shape, device=META)
    embeds = torch.empty(1, tokens, unet.config.cross_attention_dim, device=META)
    timestep = torch.empty(1, device=META)

    forward = count(unet, lambda: unet(latents, timestep, encoder_hidden_states=embeds))
    decode = count(vae.decoder, lambda: vae.decode(latents))
    return Work(unet=forward.flops, decode=decode.flops, samples=_count_samples(model, spec))


def measure_rate(device: torch.device, dtype: torch.dtype) -> Rate:
    """What matrix products reach on `device` in `dtype`, by the fastest of a few.

    They are of random numbers: a GPU is faster with plain ones, which take less power.
    """
    generator = torch.Generator(device).manual_seed(0)
    rates: list[Rate] = []
    for side in _SIDES["cpu" if device.type == "cpu" else "other"]:
        matrix = torch.randn(side, side, device=device, generator=generator).to(dtype)
        rates += [_rate_product(matrix) for _ in range(_PRODUCTS)]
    return best_rate(rates)


def best_rate(rates: Sequence[Rate]) -> Rate:
    """The fastest by each clock."""
    return Rate(
        flops_per_second=max(rate.flops_per_second for rate in rates),
        flops_per_processor_second=max(rate.flops_per_processor_second for rate in rates),
    )


def _rate_product(matrix: torch.Tensor) -> Rate:
    flops = 2 * len(matrix) ** 3
    _wait(matrix.device)
    began, began_processor = time.perf_counter(), time.process_time()
    matrix @ matrix
    _wait(matrix.device)
    spent, spent_processor = time.perf_counter() - began, time.process_time() - began_processor
    return Rate(
        flops_per_second=flops / spent,
        flops_per_processor_second=flops / max(spent_processor, 1e-9),
    )


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _count_samples(model: Model, spec: MorphSpec) -> int:
    sampling, scale = spec.sampling, spec.keyframes[0].guidance_scale
    assert sampling.scheduler is not None and sampling.num_inference_steps is not None
    assert scale is not None  # of a resolved spec
    scheduler = create_scheduler(
        sampling.scheduler, model.scheduler_config, sampling.num_inference_steps, "cpu"
    )
    is_guided = scale > 1 and not embeds_guidance(model.unet)
    return len(scheduler.timesteps) * (1 + is_guided)
