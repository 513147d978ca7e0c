"""What to make, as plain frozen values: stills, and morphs between keyframes.

Knows no tensors and no model: what only a checkpoint can tell (its size, steps, guidance) is None
here until `with_defaults` fills it in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.errors import SpecError
from pipeline.timing import Easing, Moment, check_easing, lay_out
from pipeline.values import Spec
from pipeline.weighting import parse_weights

SchedulerName = Literal[
    "ddim",
    "pndm",
    "euler",
    "euler-ancestral",
    "heun",
    "dpm++2m",
    "dpm++2m-karras",
    "dpm++2m-sde",
    "unipc",
    "lcm",
    "tcd",
]
SCHEDULERS: tuple[str, ...] = get_args(SchedulerName)

DtypeName = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[str, ...] = get_args(DtypeName)

PredictionType = Literal["epsilon", "v_prediction", "sample"]
BlendMode = Literal["nlerp", "slerp", "lerp"]
VideoKind = Literal["mp4", "webp", "gif", "png"]
Fit = Literal["crop", "pad"]
FITS: tuple[str, ...] = get_args(Fit)

DEFAULT_STRENGTH = 0.8
STILL_BATCH, MORPH_BATCH = 1, 4
"""Frames that are denoised together unless a spec says otherwise: it is part of what they are."""

TOLERANCE_DB = 48.0
"""How near a solved picture must come to a render it does not know, in decibels.

It is measured where nothing rendered is near; between renders the error is mostly less. 48 is a
root mean square of one grey level of 255.
"""

# Browsers take 10 ms a frame or less for a mistake and show it for 100, and a GIF counts in 10 ms.
MAX_FPS: dict[VideoKind, int] = {"mp4": 240, "webp": 90, "gif": 50, "png": 240}

MAX_SEED = 2**32 - 1  # the CPU generator folds longer seeds onto shorter ones

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Prompt = Annotated[str, Field(max_length=10_000)]
Source = Annotated[str, Field(min_length=1, max_length=4096)]
Side = Annotated[int, Field(ge=16, le=8192)]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0.001, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)]
CheckedEasing = Annotated[Easing, BeforeValidator(check_easing)]
LoraWeight = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]


def _check_device(name: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SpecError(f"device = {name!r}: must be cpu, cuda, cuda:N or mps")
    return name


def _check_prompts(plain: bool, *prompts: str | None) -> None:
    """Read the weights in `prompts`, unless they are plain, to refuse what cannot be read."""
    for prompt in prompts:
        if prompt is not None and not plain:
            parse_weights(prompt)


class LoraSpec(Spec):
    """A low-rank change to the weights, and how much of it."""

    source: Source
    weight: LoraWeight = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """FILE or FILE=WEIGHT; what is no number after the last = belongs to the name."""
        source, equals, weight = text.rpartition("=")
        try:
            return cls(source=source, weight=float(weight)) if equals else cls(source=text)
        except SpecError:
            raise
        except ValueError:
            return cls(source=text)


class EmbeddingSpec(Spec):
    """A textual inversion, and the word in prompts that stands for it."""

    source: Source
    token: Annotated[str, Field(pattern=r"^\S+$", max_length=100)]


class ModelSpec(Spec):
    """Which checkpoint, what is added to it, and how it is held. None: the model's or device's own.

    `clip_skip` counts the text encoder's layers that are left out at its end.
    """

    source: Source = "embedded"
    revision: str | None = None
    config: Source | None = None
    vae: Source | None = None
    loras: tuple[LoraSpec, ...] = ()
    embeddings: tuple[EmbeddingSpec, ...] = ()
    clip_skip: Annotated[int, Field(ge=0, le=12)] | None = None
    prediction_type: PredictionType | None = None
    safety_checker: bool = False
    device: Annotated[str, AfterValidator(_check_device)] | None = None
    dtype: DtypeName | None = None
    low_memory: bool | None = None


class Sampling(Spec):
    """How noise becomes latents. None: the model's own default.

    `strength` is the share of the steps that a start image goes through.
    """

    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    strength: Strength | None = None
    height: Side | None = None
    width: Side | None = None
    scheduler: SchedulerName | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)] | None = None

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        first, last = self.guidance_interval
        if first > last:
            raise SpecError(f"guidance_interval = {first}, {last}: must not end before it begins")
        return self


class ImageSpec(Spec):
    """A picture to start from, and how it is brought to the size of the result."""

    source: Source
    fit: Fit = "crop"


class Variation(Spec):
    """A second noise, and how far the way to it is gone: 0 stays, 1 arrives."""

    seed: Seed
    strength: Share = 0.2


class StillSpec(Spec):
    """Pictures of one prompt: `count` of them, with seeds `seed`, `seed` + 1, …

    With a variation the seed stays and the variation's seed counts on. A `plain` prompt is read
    as it stands: a bracket in it is no weight.
    """

    prompt: Prompt
    negative_prompt: Prompt | None = None
    plain: bool = False
    seed: Seed = 0
    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    variation: Variation | None = None
    image: ImageSpec | None = None
    sampling: Sampling = Sampling()
    model: ModelSpec = ModelSpec()

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        first = self.variation.seed if self.variation else self.seed
        if first + self.count - 1 > MAX_SEED:
            name = "variation.seed" if self.variation else "seed"
            raise SpecError(f"{name} = {first}, count = {self.count}: seeds end at {MAX_SEED}")
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        _check_prompts(self.plain, self.prompt, self.negative_prompt)
        return self

    @model_validator(mode="after")
    def _check_strength(self) -> Self:
        if self.image is None and self.sampling.strength is not None:
            strength = self.sampling.strength
            raise SpecError(f"sampling.strength = {strength}: is for an image, and none is given")
        return self

    def single(self, index: int) -> Self:
        """The spec of picture `index` alone."""
        if self.variation is None:
            return self.replace(seed=self.seed + index, count=1)
        variation = self.variation.replace(seed=self.variation.seed + index)
        return self.replace(variation=variation, count=1)


class Keyframe(Spec):
    """A picture that a morph goes through, and how it goes on from there.

    It stands still for `hold` seconds. `easing` and `duration` are those of the way to the next
    keyframe: how speed goes along it, and how long it takes in comparison with the other ways.
    """

    prompt: Prompt
    negative_prompt: Prompt | None = None
    plain: bool = False
    seed: Seed = 0
    guidance_scale: Guidance | None = None
    hold: Seconds = 0.0
    easing: CheckedEasing | None = None
    duration: Duration = 1.0

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        _check_prompts(self.plain, self.prompt, self.negative_prompt)
        return self


class VideoSpec(Spec):
    """The film that the frames become; "png" is a folder of numbered pictures."""

    fps: Annotated[float, Field(ge=1 / 60, le=240, allow_inf_nan=False)] = 24.0
    kind: VideoKind = "mp4"
    boomerang: bool = False

    @model_validator(mode="after")
    def _check_fps(self) -> Self:
        most = MAX_FPS[self.kind]
        if self.fps > most:
            raise SpecError(f"fps = {self.fps:g}: must be at most {most} in a {self.kind}")
        return self


class MorphSpec(Spec):
    """A morph through keyframes, and in a loop from the last to the first again.

    The path between them is `smooth`, without a corner at any keyframe, or `straight` from each to
    the next. `even` speed means that the picture changes evenly; otherwise the path is travelled
    evenly. Frames within `tolerance_db` of a render are not rendered, unless `exact`.
    """

    keyframes: Annotated[tuple[Keyframe, ...], Field(max_length=1000)]
    num_frames: Annotated[int, Field(ge=2, le=100_000)] = 48
    loop: bool = False
    path: Literal["smooth", "straight"] = "smooth"
    blend: BlendMode = "nlerp"
    easing: CheckedEasing = "linear"
    even: bool = True
    exact: bool = False
    tolerance_db: Annotated[float, Field(ge=20, le=200, allow_inf_nan=False)] = TOLERANCE_DB
    video: VideoSpec = VideoSpec()
    sampling: Sampling = Sampling()
    model: ModelSpec = ModelSpec()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.keyframes) < 2:
            raise SpecError(f"{len(self.keyframes)} keyframes: a morph has at least 2")
        if self.blend == "slerp" and self.is_smooth:
            raise SpecError("blend = 'slerp': is between two prompts, needs path = 'straight'")
        if self.loop and self.video.boomerang:
            raise SpecError("boomerang = true: a loop comes back by itself")
        if self.sampling.strength is not None:
            strength = self.sampling.strength
            raise SpecError(f"sampling.strength = {strength}: is for an image, and none is given")
        self.moments()
        return self

    @property
    def is_smooth(self) -> bool:
        """Whether a path without corners differs from the straight one: of two, it is the same."""
        return self.path == "smooth" and len(self.keyframes) > 2

    def fill_in(self) -> Self:
        """What keyframes leave open, as the morph itself says it."""
        scale, easing = self.sampling.guidance_scale, self.easing
        filled = tuple(
            one.replace(
                guidance_scale=scale if one.guidance_scale is None else one.guidance_scale,
                easing=one.easing or easing,
            )
            for one in self.keyframes
        )
        return self.replace(keyframes=filled)

    def moments(self) -> list[Moment]:
        """Where each frame lies in time. Raises `SpecError` where there are too few frames."""
        holds = [round(keyframe.hold * self.video.fps) for keyframe in self.keyframes]
        ways = self.keyframes if self.loop else self.keyframes[:-1]
        return lay_out(self.num_frames, holds, [way.duration for way in ways], loop=self.loop)


def with_defaults(sampling: Sampling, defaults: Mapping[str, Any]) -> Sampling:
    """`sampling` with every None replaced by the model's default of that name."""
    missing = {k: defaults[k] for k, value in sampling if value is None and k in defaults}
    return sampling.replace(**missing)
