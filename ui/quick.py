"""Pictures in seconds: what keyframes look like, and what lies between them. Nothing is written.

Few steps and few frames: near enough to choose by, and not what the film is made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.spec import Keyframe, MorphSpec, Sampling, StillSpec
from ui.draw import duration
from ui.thumbs import Thumb, make_thumb

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.render import Progress

STEPS = 5  # of the loop at most, for any quick picture
FRAMES = 8  # from end to end of a preview, about


def draw_keyframe(
    model: Model, keyframe: Keyframe, sampling: Sampling
) -> Iterator[Progress | Thumb]:
    """The steps of one keyframe's picture, and the picture."""
    from pipeline.render import Progress, points, render_steps

    if keyframe.guidance_scale is not None:
        sampling = sampling.replace(guidance_scale=keyframe.guidance_scale)
    still = model.resolve(
        StillSpec(
            prompt=keyframe.prompt,
            negative_prompt=keyframe.negative_prompt,
            plain=keyframe.plain,
            seed=keyframe.seed,
            sampling=sampling,
        )
    )
    quick = _hurry(still.sampling)
    for event in render_steps(model, quick, points(model, still.replace(sampling=quick))):
        if isinstance(event, Progress):
            yield event
        else:
            yield make_thumb(event.image, f"seed {keyframe.seed}")


def draw_path(model: Model, spec: MorphSpec) -> Iterator[Progress | Thumb]:
    """The steps of a few pictures along the morph's path, and the pictures, from end to end."""
    from pipeline.morph import find_path
    from pipeline.render import Progress, render_steps

    spec = model.resolve(spec)
    spec = spec.replace(sampling=_hurry(spec.sampling))
    path = find_path(model, spec)
    positions = spread(path.bounds, loop=spec.loop)
    for event in render_steps(model, spec.sampling, map(path, positions)):
        if isinstance(event, Progress):
            yield event
        else:
            yield make_thumb(event.image, f"{positions[event.index]:.3f}")


def spread(bounds: Sequence[float], *, loop: bool) -> list[float]:
    """About `FRAMES` positions, evenly on each way between `bounds`, all keyframes among them."""
    steps = max(2, round(FRAMES / (len(bounds) - 1)))
    positions = [
        start + (end - start) * k / steps for start, end in pairwise(bounds) for k in range(steps)
    ]
    return positions if loop else [*positions, bounds[-1]]


def _hurry(sampling: Sampling) -> Sampling:
    steps = sampling.num_inference_steps
    assert steps is not None  # of a resolved spec
    return sampling.replace(num_inference_steps=min(STEPS, steps))


class Stopwatch:
    """What a step takes, so that what a morph will take can be told before it begins."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds: list[float] = []

    def note(self, event: Progress | Thumb) -> None:
        """Measure from one step to the next; what is between batches is no step."""
        now, is_step = time.monotonic(), not isinstance(event, Thumb)
        if is_step and self._last is not None:
            self._seconds.append(now - self._last)
        self._last = now if is_step else None

    def say_cost(self, model: Model, spec: MorphSpec) -> str:
        """Such as "48 frames from 9 to 81 renders, at most 168 calls of the UNet: 3 s to 18 s"."""
        from pipeline.course import find_cost

        cost = find_cost(model, spec)
        said = say_cost(cost.num_frames, cost.least, cost.most, cost.unet_calls)
        if not self._seconds:
            return said
        each = sorted(self._seconds)[len(self._seconds) // 2]
        least = -(-cost.least // cost.batch_size) * cost.calls
        return f"{said}: {duration(least * each)} to {duration(cost.unet_calls * each)}"


def say_cost(num_frames: int, least: int, most: int, unet_calls: int) -> str:
    """What a morph takes, in words."""
    renders = f"{most} renders" if least == most else f"{least} to {most} renders"
    return f"{num_frames} frames from {renders}, at most {unet_calls} calls of the UNet"
