"""The figures of the embedded model: retrieval, what its codec loses, arithmetic, variety.

The judge is judged with it: the renders themselves are its ceiling, noise is chance.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from pipeline.files import prepare_folder
from pipeline.model import Model, load_model
from pipeline.path import Point
from pipeline.pictures import to_images
from pipeline.render import points, render
from pipeline.spec import ModelSpec, Sampling, StillSpec
from pipeline.tensors import Embeds, Pixels
from scripts.embedded.compose import place
from scripts.embedded.emojis import Emoji, draw_emojis, list_emojis
from scripts.embedded.export import save_sheet
from scripts.embedded.judge import measure_distances, rank

BATCH = 16
FIRST_SEED = 1_000_000  # far from any seed that a sheet was chosen by

# a − b + c is nearest d; the parts differ in one thing that has a name.
ARITHMETIC = [
    ("prince", "man", "woman", "princess"),
    ("man detective", "man", "woman", "woman detective"),
    ("woman health worker", "woman", "man", "man health worker"),
    ("man astronaut", "man", "woman", "woman astronaut"),
    ("woman cook", "woman", "man", "man cook"),
    ("old man", "man", "woman", "old woman"),
    ("boy", "man", "woman", "girl"),
    ("man farmer", "man", "woman", "woman farmer"),
    ("woman vampire", "woman", "man", "man vampire"),
    ("woman singer", "woman", "person", "singer"),
]


class Settings(BaseModel):
    """What is judged, and how it is sampled; None is the model's own default."""

    model: str
    prompts: int
    steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    out: Path


def evaluate(settings: Settings) -> dict[str, float | int | str]:
    """Every figure by name; sheets of what was drawn are written beside."""
    prepare_folder(settings.out)
    torch.manual_seed(0)
    model = load_model(ModelSpec(source=settings.model))
    sampling = Sampling(
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        scheduler=settings.scheduler,
        batch_size=BATCH,
    )
    emojis = list_emojis()
    renders = _draw_on_white(emojis)
    chosen = _choose(emojis, settings.prompts)

    started = time.monotonic()
    figures = _judge_prompts(model, sampling, emojis, renders, chosen, settings.out)
    figures["seconds_per_image"] = (time.monotonic() - started) / sum(map(len, chosen.values()))
    figures |= _judge_judge(renders)
    figures |= _judge_codec(model, emojis, renders, settings.out)
    figures |= _judge_arithmetic(model, sampling, emojis, renders)
    figures |= _judge_variety(model, sampling)
    figures = {name: round(value, 4) for name, value in figures.items()}
    resolved = model.complete(sampling)
    return {
        "model": model.name,
        "hash": model.hash,
        "device": model.device.type,
        "num_inference_steps": resolved.num_inference_steps or 0,
        "guidance_scale": resolved.guidance_scale or 0.0,
        "scheduler": resolved.scheduler or "",
        **figures,
    }


def _draw_on_white(emojis: list[Emoji]) -> Pixels:
    rgba = torch.from_numpy(draw_emojis(emojis))
    white, still = torch.ones(1, 3, 1, 1), torch.ones(1)
    parts = [place(r[None], white, still, torch.zeros(1, 2)) for r in rgba]
    return torch.cat(parts)


def _choose(emojis: list[Emoji], prompts: int) -> dict[str, list[int]]:
    """Indices of the emoji that are asked for: half things, half people, and all held out."""
    draw = random.Random(0)
    seen = [i for i, e in enumerate(emojis) if not e.held_out]
    things = [i for i in seen if not emojis[i].tones]
    people = [i for i in seen if emojis[i].tones]
    return {
        "things": draw.sample(things, min(len(things), prompts - prompts // 2)),
        "people": draw.sample(people, min(len(people), prompts // 2)),
        "held_out": [i for i, e in enumerate(emojis) if e.held_out],
    }


def _judge_prompts(
    model: Model,
    sampling: Sampling,
    emojis: list[Emoji],
    renders: Pixels,
    chosen: dict[str, list[int]],
    out: Path,
) -> dict[str, float]:
    figures = {}
    for name, indices in chosen.items():
        drawn = draw_prompts(model, sampling, [emojis[i].name for i in indices])
        ranks = rank(drawn, renders, torch.tensor(indices))
        figures[f"{name}_prompts"] = float(len(indices))
        figures[f"{name}_top1"] = (ranks < 1).float().mean().item()
        figures[f"{name}_top5"] = (ranks < 5).float().mean().item()
        both = torch.stack([drawn[:40], renders[indices[:40]]], 1).flatten(0, 1)
        save_sheet(to_images(both), out / f"{name}.png", columns=16)
    return figures


def draw_prompts(model: Model, sampling: Sampling, prompts: list[str]) -> Pixels:
    """One picture of each of `prompts`, each with a seed of its own."""

    def all_points() -> Iterator[Point]:
        for index, prompt in enumerate(prompts):
            spec = StillSpec(prompt=prompt, seed=FIRST_SEED + index, sampling=sampling)
            yield from points(model, spec)

    return torch.cat([frame.pixels for frame in render(model, sampling, all_points())])


def _judge_judge(renders: Pixels) -> dict[str, float]:
    """Chance and ceiling: noise in the place of pictures, and the renders themselves."""
    some = torch.arange(0, len(renders), 10)
    noise = torch.randn(renders[some].shape).clamp(-1, 1)
    return {
        "chance_top1": (rank(noise, renders, some) < 1).float().mean().item(),
        "ceiling_top1": (rank(renders[some], renders, some) < 1).float().mean().item(),
    }


def _judge_codec(model: Model, emojis: list[Emoji], renders: Pixels, out: Path) -> dict[str, float]:
    held = renders[[i for i, e in enumerate(emojis) if e.held_out]]
    back = _round_trip(model, held)
    both = torch.stack([held[:32], back[:32]], 1).flatten(0, 1)
    save_sheet(to_images(both), out / "codec.png", columns=16)
    photographs = [_measure_psnr(p, _round_trip(model, p)) for p in _load_photographs()]
    return {
        "held_out_psnr": _measure_psnr(held, back),
        "photographs_psnr": sum(photographs) / len(photographs),
        "photographs": float(len(photographs)),
    }


def _round_trip(model: Model, pixels: Pixels) -> Pixels:
    parts = [model.codec.decode(model.codec.encode(p.to(model.device))) for p in pixels.split(8)]
    return torch.cat(parts).float().cpu().clamp(-1, 1)


def _measure_psnr(pixels: Pixels, back: Pixels) -> float:
    """Mean PSNR in decibels of pictures in [-1, 1]."""
    error = ((pixels - back) / 2).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item()


def _load_photographs() -> list[Pixels]:
    """The photographs that scikit-image brings in its package, cut to multiples of 64."""
    from skimage import data

    photographs = []
    for name in ("astronaut", "cat", "coffee", "rocket"):
        image = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None]
        height, width = (side // 64 * 64 for side in image.shape[2:])
        photographs.append(image[..., :height, :width].float() / 127.5 - 1)
    return photographs


def _judge_arithmetic(
    model: Model, sampling: Sampling, emojis: list[Emoji], renders: Pixels
) -> dict[str, float]:
    """a − b + c in prompt embeds, drawn, nearest among people without a skin tone."""
    words = {"man", "woman", "person", "boy", "girl", "prince", "princess", "old", "singer"}
    people = [i for i, e in enumerate(emojis) if not e.tones and words & set(e.name.split())]
    names = [emojis[i].name for i in people]

    def all_points() -> Iterator[Point]:
        for index, (a, b, c, _) in enumerate(ARITHMETIC):
            spec = StillSpec(prompt=a, seed=FIRST_SEED + index, sampling=sampling)
            (point,) = points(model, spec)
            embeds: Embeds = point.prompt_embeds - model.text.encode(b) + model.text.encode(c)
            yield replace(point, prompt_embeds=embeds)

    drawn = torch.cat([frame.pixels for frame in render(model, sampling, all_points())])
    nearest = measure_distances(drawn, renders[people]).argmin(1).tolist()
    hits = [names[n] == d for n, (*_, d) in zip(nearest, ARITHMETIC, strict=True)]
    return {"arithmetic_hits": float(sum(hits)), "arithmetic_sums": float(len(hits))}


def _judge_variety(model: Model, sampling: Sampling) -> dict[str, float]:
    """Mean distance between seeds of one prompt over the mean between prompts."""
    prompts = ["red apple", "cat face", "woman", "pizza", "snowman", "rocket", "tulip", "house"]
    spec = StillSpec(prompt="", count=4, sampling=sampling)

    drawn: list[Tensor] = []
    for prompt in prompts:
        frames = render(model, sampling, points(model, spec.replace(prompt=prompt)))
        drawn.append(torch.cat([frame.pixels for frame in frames]))

    within = torch.stack([torch.pdist(d.flatten(1)).mean() for d in drawn]).mean()
    between = torch.pdist(torch.stack([d[0] for d in drawn]).flatten(1)).mean()
    return {"variety": (within / between).item()}
