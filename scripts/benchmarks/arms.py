"""The ways to make one film that are timed against each other, and whether they can be compared.

Knows diffusers' own pipeline, the algorithm of stable-diffusion-videos and this program. Knows no
rounds and no table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from pipeline.encoders import encode
from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.morph import find_path
from pipeline.network import is_xl
from pipeline.path import Point
from pipeline.spec import MorphSpec
from pipeline.timeline import find_times
from scripts.benchmarks.counts import counting
from scripts.benchmarks.films import Film, Maker, Stopwatch, ours, theirs
from scripts.benchmarks.walk import create_stock_pipeline

THEIR_BATCH = 16
"""What stable-diffusion-videos is given beside its default."""

_DRAWING = ("euler-ancestral", "dpm++2m-sde", "lcm", "tcd")
_SIZES = {"cpu": (1, 4, 8), "other": (1, 2, 4, 8, 16, 32, 64)}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to make the film: `create` gives its maker for a resolved spec.

    `is_same` says whether its frames are those of the plain pipeline, but for rounding. `is_lossy`
    says whether frames are solved, `is_even` whether the film's speed is made even.
    """

    name: str
    batch_size: int
    create: Callable[[MorphSpec], Maker]
    is_same: bool = False
    is_lossy: bool = False
    is_even: bool = False


def check_comparable(model: Model, spec: MorphSpec) -> None:
    """Raise `SpecError` unless the stock pipeline can make the frames of a resolved `spec`."""
    sampling, scales = spec.sampling, sorted({one.guidance_scale or 0 for one in spec.keyframes})
    if is_xl(model.unet) or len(model.text.encoders) > 1:
        raise SpecError(f"model {model.name!r}: must have one text encoder, and be no XL")
    if len(scales) > 1:
        raise SpecError(f"guidance_scale = {scales[0]:g}, {scales[1]:g}: must be one for all")
    if sampling.guidance_interval != (0.0, 1.0):
        first, last = sampling.guidance_interval
        raise SpecError(f"guidance_interval = {first:g}, {last:g}: must be 0, 1, all that peers do")
    if sampling.scheduler in _DRAWING:
        raise SpecError(f"scheduler = {sampling.scheduler!r}: must be one that draws no noise")
    if spec.video.kind != "mp4" or spec.video.boomerang:
        raise SpecError(f"video.kind = {spec.video.kind!r}: must be 'mp4', without a boomerang")
    prompt = find_path(model, spec).keypoints[0].prompt_embeds
    window = model.text.encoders[0].tokenizer.model_max_length
    if prompt.embeds.shape[1] > window:
        raise SpecError(f"prompts: one is longer than {window} tokens, where peers cut it off")


def build_arms(model: Model, spec: MorphSpec, best: int, theirs_most: int) -> list[Arm]:
    """All ways; `best` is the strong baseline's batch, `theirs_most` that of their second run."""
    size = spec.sampling.batch_size
    assert size is not None  # of a resolved spec

    def ours_with(**changes: bool) -> Callable[[MorphSpec], Maker]:
        return lambda spec: ours(model, spec.replace(**changes))

    def theirs_in(batch_size: int) -> Callable[[MorphSpec], Maker]:
        return lambda spec: theirs(model, spec, batch_size)

    def strong_in(batch_size: int) -> Callable[[MorphSpec], Maker]:
        return lambda spec: strong(model, spec, batch_size)

    return [
        Arm(name="plain", batch_size=1, create=lambda spec: plain(model, spec), is_same=True),
        Arm(name="strong", batch_size=best, create=strong_in(best), is_same=True),
        Arm(name="videos", batch_size=1, create=theirs_in(1)),
        Arm(name="videos, batched", batch_size=theirs_most, create=theirs_in(theirs_most)),
        Arm(
            name="ours, exact",
            batch_size=size,
            create=ours_with(exact=True, even=False),
            is_same=True,
        ),
        Arm(
            name="ours, solved",
            batch_size=size,
            create=ours_with(exact=False, even=False),
            is_lossy=True,
        ),
        Arm(
            name="ours, solved, even",
            batch_size=size,
            create=ours_with(exact=False, even=True),
            is_lossy=True,
            is_even=True,
        ),
    ]


def plain(model: Model, spec: MorphSpec) -> Maker:
    """A call of the stock pipeline and a PNG for each frame; the film is made of the PNGs.

    Prompts are encoded once, which is in its favour.
    """
    from pipeline.video import write_video

    def make(folder: Path) -> Film:
        watch = Stopwatch()
        folder.mkdir(parents=True)
        files: list[Path] = []
        path = find_path(model, spec)
        for image in render_stock(model, spec, map(path, find_times(spec, path.bounds)), 1):
            files.append(folder / f"{len(files):06d}.png")
            image.save(files[-1])
        write_video(iter(files), folder / "film.mp4", fps=spec.video.fps, kind="mp4")
        return Film(**watch.read(), renders=len(files), files=files)

    return make


def strong(model: Model, spec: MorphSpec, batch_size: int) -> Maker:
    """What the stock pipeline gives at its best: batches, prompts encoded once, no PNG.

    No picture is rendered twice, and the film goes straight into the encoder, unverified. The
    frames are put on the disk when the clock has stopped.
    """

    def make(folder: Path) -> Film:
        watch = Stopwatch()
        folder.mkdir(parents=True)
        path = find_path(model, spec)
        times = find_times(spec, path.bounds)
        places = list(dict.fromkeys(times))
        rendered = render_stock(model, spec, map(path, places), batch_size)
        images = dict(zip(places, rendered, strict=True))
        rate = Fraction(spec.video.fps).limit_denominator(1001)
        size = images[places[0]].size
        frames = (images[place] for place in times)
        encode(frames, size, folder / "film.mp4", kind="mp4", rate=rate, loop=False, comment=None)
        spent = watch.read()
        return Film(**spent, renders=len(images), files=_save(folder, images, times))

    return make


def render_stock(
    model: Model, spec: MorphSpec, points: Iterable[Point], batch_size: int
) -> Iterator[Image.Image]:
    """Pictures of `points` by the stock pipeline; the last batch is not padded."""
    pipe, sampling, remaining = create_stock_pipeline(model, spec), spec.sampling, iter(points)
    while batch := list[Point](islice(remaining, batch_size)):
        yield from pipe(
            prompt_embeds=torch.cat([point.prompt_embeds.embeds for point in batch]),
            negative_prompt_embeds=torch.cat(
                [point.negative_prompt_embeds.embeds for point in batch]
            ),
            latents=torch.cat([point.noise for point in batch]).to(model.dtype),
            height=sampling.height,
            width=sampling.width,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=batch[0].guidance_scale,
        ).images


def counted(model: Model, make: Maker) -> Maker:
    """The same maker, whose films say what was asked of the networks."""

    def make_counted(folder: Path) -> Film:
        with counting(model) as counts:
            film = make(folder)
        return replace(film, counts=counts)

    return make_counted


def find_best_batch(model: Model, spec: MorphSpec) -> int:
    """The batch in which the stock pipeline makes most pictures in a second."""
    best, fastest = 1, float("inf")
    for size in _SIZES["cpu" if model.device.type == "cpu" else "other"]:
        if size > max(spec.num_frames, 1):
            break
        try:
            seconds = min(_time_batch(model, spec, size) for _ in range(2)) / size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if seconds < fastest:
            best, fastest = size, seconds
    return best


def find_their_batch(model: Model, spec: MorphSpec) -> int:
    """`THEIR_BATCH`, or the largest half, quarter, … of it that fits into memory."""
    size = THEIR_BATCH
    while size > 1:
        try:
            _time_batch(model, spec, size)
            return size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            size //= 2
    return size


def shorten(spec: MorphSpec, batch_size: int) -> MorphSpec:
    """A film with a whole batch on each way and no more, to warm up with."""
    ways = len(spec.keyframes) - (not spec.loop)
    keyframes = tuple(one.replace(hold=0.0, duration=1.0) for one in spec.keyframes)
    frames = max(batch_size, 2) * ways + 1
    return spec.replace(keyframes=keyframes, num_frames=min(frames, max(spec.num_frames, ways + 1)))


def _time_batch(model: Model, spec: MorphSpec, size: int) -> float:
    path = find_path(model, spec)
    points = [path(k / size) for k in range(size)]
    began = time.perf_counter()
    for _ in render_stock(model, spec, points, size):
        pass  # each is in the processor's memory by now
    return time.perf_counter() - began


def _save(
    folder: Path, images: dict[float, Image.Image], places: Sequence[float]
) -> Sequence[Path]:
    files: list[Path] = []
    for place in places:
        files.append(folder / f"{len(files):06d}.png")
        images[place].save(files[-1])
    return files
