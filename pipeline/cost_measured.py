"""What denoising costs on the device that is there: seconds and memory, through the very loop.

Knows the two codecs, random weights and clocks; knows no checkpoint and no quality: the networks
are untrained, so that what they make is noise. What they cost in theory is `cost`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from pipeline.codec import Codec, PixelCodec, VaeCodec
from pipeline.cost import Cost, count_decode, count_unet
from pipeline.cost_readings import Reading
from pipeline.denoise import create_scheduler, denoise, start_latents
from pipeline.errors import RenderError
from pipeline.guidance import guide
from pipeline.ladder import (
    META,
    Rung,
    build_ladder,
    count_tokens,
    create_unet,
    create_vae,
    read_layout,
    read_scheduler,
    scale_vae,
)
from pipeline.memory import free_bytes
from pipeline.network import bind
from pipeline.noise import NoiseMix
from pipeline.peak import watch_peak
from pipeline.tensors import Latents, PromptEmbeds

GUIDANCE_SCALE = 7.5
_GUIDED = 2  # forwards of a guided step, both in one call
_WARMUPS, _WATCHED = 1, 1  # runs of a trial before its rounds
_GUESS = 0.2  # of the rate of matrix products: what a network reaches that was not tried yet
_SCHEDULER = "euler"  # which never waits for the device


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How to measure: pictures of which `sides`, networks of which share of their width.

    `rounds` runs of `num_inference_steps` guided steps are measured; what is not foreseen to end
    within `budget` seconds of running is left out.
    """

    sides: tuple[int, ...]
    width: float
    device: torch.device
    dtype: torch.dtype
    num_inference_steps: int = 1
    rounds: int = 5
    budget: float = 25.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`done` of `total` seconds have gone, and what is next."""

    done: float
    total: float
    text: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A rung that was not measured at a side, and why."""

    rung: str
    side: int
    reason: str


def measure(setting: Setting) -> Iterator[Progress | LeftOut | Reading]:
    """Measure every rung at every side, the small ones first, as far as the budget goes.

    A trial is warmed up, watched for its memory, and then takes part in interleaved rounds.
    Progress comes before each run, readings at the end.
    """
    trials: list[_Trial] = []
    candidates = _prepare(setting)
    candidates[0].run()  # what is slow only once in a process
    budget = _Budget(setting)
    for trial in candidates:
        yield budget.say(trial)
        reason = budget.refuse(trial) or _try_out(trial, budget)
        if reason is None:
            trials.append(trial)
        else:
            yield LeftOut(rung=trial.rung.name, side=trial.side, reason=reason)

    for _ in range(setting.rounds):
        for trial in trials:
            yield budget.say(trial)
            with budget.running():
                trial.seconds.append(trial.run())
    yield from (trial.reading for trial in trials)


@dataclass(kw_only=True)
class _Trial:
    """A rung at one side, ready to run; `seconds` are the loop's and the decoder's by round."""

    setting: Setting
    rung: Rung
    side: int
    unet: Any
    codec: Codec
    unet_shape: Any
    vae_shape: Any
    seconds: list[tuple[float, float]] = field(default_factory=list)
    peaks: tuple[int | None, int | None] = (None, None)

    @cached_property
    def cost(self) -> Cost:
        """Of one guided step."""
        return count_unet(self.unet_shape, self.side // self.codec.downscale, _GUIDED)

    @cached_property
    def decode_cost(self) -> Cost | None:
        """Of decoding one picture, where there is something to decode."""
        if isinstance(self.codec, PixelCodec):
            return None
        return count_decode(self.vae_shape, self.side // self.codec.downscale)

    @property
    def flops(self) -> int:
        """FLOPs of one run."""
        steps = self.setting.num_inference_steps * self.cost.flops
        return steps + (self.decode_cost.flops if self.decode_cost else 0)

    @property
    def bytes(self) -> int:
        """Bytes that a run takes beside the weights, in theory."""
        costs = [cost for cost in (self.cost, self.decode_cost) if cost is not None]
        return max(cost.activation_bytes for cost in costs)

    def denoise(self) -> Latents:
        """Noise to latents, guided, through the loop that makes pictures."""
        device, dtype = self.setting.device, self.setting.dtype
        config, steps = read_scheduler(), self.setting.num_inference_steps
        scheduler = create_scheduler(_SCHEDULER, config, steps, device)
        cells = self.side // self.codec.downscale
        noise = NoiseMix.single(0).draw((self.codec.channels, cells, cells)).to(device, dtype)
        scale = torch.full((1,), GUIDANCE_SCALE, device=device, dtype=dtype)
        embeds = torch.zeros(1, count_tokens(), self.unet.config.cross_attention_dim)
        prompt = PromptEmbeds(embeds.to(device, dtype))
        predict = guide(bind(self.unet, (self.side,) * 2, scale, dtype), prompt, prompt, scale)
        latents = start_latents(scheduler, noise)
        for step in denoise(predict, scheduler, latents, scheduler.timesteps):
            latents = step.latents
        return latents

    def run(self) -> tuple[float, float]:
        """Seconds of the loop, and of the decoder; the device has finished at each reading."""
        begin = _read_clock(self.setting.device)
        latents = self.denoise()
        middle = _read_clock(self.setting.device)
        pixels = self.codec.decode(latents)
        end = _read_clock(self.setting.device)
        if not pixels.isfinite().all():
            raise RenderError(f"{self.rung.name} at {self.side} px: not finite numbers")
        return middle - begin, end - middle

    def watch(self) -> None:
        """One run more, for the most memory of the loop and of the decoder."""
        latents: list[Latents] = []
        device = self.setting.device
        loop = watch_peak(device, lambda: latents.append(self.denoise()))
        self.peaks = loop, watch_peak(device, lambda: self.codec.decode(latents[0]))

    @property
    def reading(self) -> Reading:
        """The medians of the rounds."""
        steps = [loop / self.setting.num_inference_steps for loop, _ in self.seconds]
        low, _, high = quantiles(steps, n=4, method="inclusive") if len(steps) > 1 else (0, 0, 0)
        return Reading(
            rung=self.rung.name,
            side=self.side,
            rounds=len(steps),
            step_seconds=median(steps),
            fastest_step_seconds=min(steps),
            step_seconds_iqr=high - low,
            decode_seconds=median(decoder for _, decoder in self.seconds),
            step_peak_bytes=self.peaks[0],
            decode_peak_bytes=self.peaks[1],
            cost=self.cost,
            decode_cost=self.decode_cost,
        )


class _Budget:
    """Foresees how long a trial takes, by its FLOPs, and refuses what would take too long.

    The best rate counts that its rung has shown, because small trials are slow for their FLOPs;
    where the rung is new, a share of what matrix products reach. A rung that was refused at one
    side is refused at all that are larger.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._spent = 0.0
        self._guess = _GUESS * _rate_products(setting.device, setting.dtype)
        self._rates: dict[str, float] = {}  # FLOP/s by rung
        self._promised = 0.0
        self._over: set[str] = set()

    def say(self, trial: _Trial) -> Progress:
        """How far it is, with `trial` next."""
        text = f"{trial.rung.name}, {trial.side} px"
        return Progress(done=self._spent, total=self._setting.budget, text=text)

    def refuse(self, trial: _Trial) -> str | None:
        """Why `trial` is not made, or None."""
        name = trial.rung.name
        if name in self._over:
            return "smaller pictures were too much already"
        reason = self._find_reason(trial)
        if reason is not None:
            self._over.add(name)
        return reason

    def admit(self, trial: _Trial, seconds: float) -> None:
        """`trial` takes `seconds` a run, and will have its rounds."""
        rate, name = trial.flops / seconds, trial.rung.name
        self._rates[name] = max(rate, self._rates.get(name, 0))
        self._promised += self._setting.rounds * seconds

    def _find_reason(self, trial: _Trial) -> str | None:
        free = _free_bytes(self._setting.device)
        if free is not None and free < trial.bytes:
            needed, left = (size / 2**30 for size in (trial.bytes, free))
            return f"it wants {needed:.1f} GiB of memory, {left:.1f} are free"
        foreseen = trial.flops / self._rates.get(trial.rung.name, self._guess)
        seconds = (_WARMUPS + _WATCHED + self._setting.rounds) * foreseen
        left = max(self._setting.budget - self._spent - self._promised, 0)
        return (
            f"it would take {seconds:.0f} s, {left:.0f} of the budget are left"
            if seconds > left
            else None
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """What happens inside is paid from the budget."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - begin


def _prepare(setting: Setting) -> list[_Trial]:
    """Every rung at every side, the smallest first; each network is made once, and its shape."""
    rungs = [rung.scaled(setting.width) for rung in build_ladder()]
    config = scale_vae(read_layout("sd1", "vae"), setting.width)
    where = setting.device, setting.dtype
    unets = {rung.name: create_unet(rung.config, *where) for rung in rungs}
    shapes = {rung.name: create_unet(rung.config, META, setting.dtype) for rung in rungs}
    vae, vae_shape = create_vae(config, *where), create_vae(config, META, setting.dtype)
    return [
        _Trial(
            setting=setting,
            rung=rung,
            side=side,
            unet=unets[rung.name],
            codec=VaeCodec(vae) if rung.downscale > 1 else PixelCodec(),
            unet_shape=shapes[rung.name],
            vae_shape=vae_shape,
        )
        for side in sorted(setting.sides)
        for rung in rungs
    ]


def _try_out(trial: _Trial, budget: _Budget) -> str | None:
    """Warm `trial` up and watch its memory; why it is left out, or None."""
    try:
        with budget.running():
            for _ in range(_WARMUPS):
                seconds = sum(trial.run())
            trial.watch()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    budget.admit(trial, seconds)
    return None


def _rate_products(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product that is large for a CPU; the best of three."""
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(3):
        begin = _read_clock(device)
        matrix @ matrix
        seconds.append(_read_clock(device) - begin)
    return float(2 * side**3 / min(seconds))


def _read_clock(device: torch.device) -> float:
    """Seconds, read when `device` has finished all that it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()


def _free_bytes(device: torch.device) -> int | None:
    """Memory that is free: of a CUDA device, of a Linux system. None where nobody says."""
    if device.type != "cpu":
        return free_bytes(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024
