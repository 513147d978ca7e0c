"""The figures of the embedded model: retrieval, what its codec loses, arithmetic, variety.

The judge is judged with it: the renders themselves are its ceiling, noise and a model that has
learnt nothing are chance. Parts can be taken one by one; what was drawn is written beside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.errors import SpecError
from pipeline.files import prepare_folder
from pipeline.model import Model, load_model
from pipeline.path import Point
from pipeline.pictures import to_images
from pipeline.prompts import pad_embeds
from pipeline.render import points
from pipeline.spec import ModelSpec, Sampling, StillSpec
from pipeline.tensors import Pixels
from scripts.embedded.emojis import Emoji
from scripts.embedded.export import SHEET_PROMPTS, save_sheet, write_untrained
from scripts.embedded.judge import measure_distances, rank
from scripts.embedded.retrieval import (
    FIRST_SEED,
    Renders,
    Request,
    choose_held_out,
    choose_seen,
    count_hits,
    draw_points,
    draw_prompts,
    match_grounds,
    rank_requests,
)
from scripts.embedded.specs import EvaluationSpec, PartName

BATCH = 16
SHEET_SEEDS = 4
SHEET_COLUMNS = 8
UNTRAINED_PROMPTS, UNTRAINED_STEPS = 32, 5  # noise stays noise, however long it is denoised
CEILING_EVERY = 10  # of the renders one in so many, and all held-out faces
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket")
"""Those of scikit-image's colour photographs that its package brings along."""

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

Figure = tuple[str, float | int | str]
"""A name, and what was found."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the figures are taken from: a model, how it is sampled, and where sheets go."""

    model: Model
    sampling: Sampling
    prompts: int
    out: Path

    @cached_property
    def renders(self) -> Renders:
        """What the font draws; it takes some seconds, and is needed by most parts."""
        return Renders.load()

    def save_pairs(self, name: str, drawn: Pixels, own: Sequence[Pixels]) -> None:
        """A sheet of pictures, each beside the one that it should be."""
        shown = drawn[: len(own)]
        alike = F.interpolate(torch.cat([*own]), shown.shape[2:], mode="area")
        pairs = torch.stack([shown, alike], 1).flatten(0, 1)
        save_sheet(to_images(pairs), self.out / f"{name}.png", columns=16)


def evaluate(spec: EvaluationSpec, out: Path) -> Iterator[Figure]:
    """Every figure as it is found; sheets are written to `out`.

    Raises `SpecError` where a package is missing.
    """
    parts = {name: PARTS[name] for name in spec.only or PARTS}
    _check_packages(parts)
    prepare_folder(out)
    model = load_model(spec.model)
    sampling = model.complete(spec.sampling.replace(batch_size=BATCH))
    bench = Bench(model=model, sampling=sampling, prompts=spec.prompts, out=out)

    yield "model", model.name
    yield "hash", model.hash
    yield "device", model.device.type
    for name in ("num_inference_steps", "guidance_scale", "scheduler"):
        yield name, getattr(sampling, name)
    for judge in parts.values():
        for name, value in judge(bench):
            yield name, round(value, 4) if isinstance(value, float) else value


def _check_packages(parts: Collection[str]) -> None:
    """What only some parts need: names from `emoji`, photographs from `skimage`."""
    needed = {"emoji": set(parts) - {"sheet"}, "skimage": set(parts) & {"codec"}}
    for package in needed:
        if needed[package] and find_spec(package) is None:
            raise SpecError(f"package {package} is missing: pip install -e '.[train]' brings it")


def judge_sheet(bench: Bench) -> Iterator[Figure]:
    """Prompts × seeds on a sheet; seeds of one prompt should differ, but less than prompts do."""
    spec = StillSpec(prompt="", plain=True, count=SHEET_SEEDS, sampling=bench.sampling)
    all_points = (
        point for text in SHEET_PROMPTS for point in points(bench.model, spec.replace(prompt=text))
    )
    drawn = draw_points(bench.model, bench.sampling, all_points)
    drawn = drawn.unflatten(0, (len(SHEET_PROMPTS), SHEET_SEEDS))

    rows = [half.transpose(0, 1).flatten(0, 1) for half in drawn.split(SHEET_COLUMNS)]
    save_sheet(to_images(torch.cat(rows)), bench.out / "prompts.png", columns=SHEET_COLUMNS)
    within = torch.stack([torch.pdist(seeds.flatten(1)).mean() for seeds in drawn]).mean()
    between = torch.pdist(drawn[:, 0].flatten(1)).mean()
    yield "variety", (within / between).item()


def judge_prompts(bench: Bench) -> Iterator[Figure]:
    """Retrieval: names that training has seen, and compositions that it has not."""
    emojis = bench.renders.emojis
    groups = choose_seen(emojis, bench.prompts) | choose_held_out(emojis)
    seconds, ranks = [], {}
    for name, requests in groups.items():
        if not requests:
            continue
        drawing = draw_prompts(bench.model, bench.sampling, [r.prompt for r in requests])
        seconds += [drawing.seconds] * len(requests)
        own = [bench.renders.draw(r.index, r.colour) for r in requests[:40]]
        bench.save_pairs(name, drawing.pixels, own)
        ranks[name] = rank_requests(drawing.pixels, requests, bench.renders)
        yield from _count(name, ranks[name])
        if name == "held_out_faces":
            right = match_grounds(drawing.pixels, requests)
            yield "held_out_faces_ground", right.float().mean().item()

    if held_out := [r for name, r in ranks.items() if name.startswith("held_out")]:
        yield from _count("held_out", torch.cat(held_out))
    yield "seconds_per_image", sum(seconds) / len(seconds)


def judge_judge(bench: Bench) -> Iterator[Figure]:
    """Chance and ceiling: can the judge fail, and can a perfect model pass?"""
    emojis = bench.renders.emojis
    some = [
        Request(prompt=emojis[i].name, index=i) for i in range(0, len(emojis), CEILING_EVERY)
    ] + choose_held_out(emojis)["held_out_faces"]
    own = torch.cat([bench.renders.draw(r.index, r.colour) for r in some])
    yield from _count("ceiling", rank_requests(own, some, bench.renders))
    back = _round_trip(bench.model, own)
    yield from _count("ceiling_through_codec", rank_requests(back, some, bench.renders))

    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    indices = torch.tensor([request.index for request in some])
    yield from _count("chance_of_noise", rank(noise, bench.renders.looks("white"), indices))
    asked = choose_seen(emojis, UNTRAINED_PROMPTS)
    yield from _judge_untrained(bench, asked["things"] + asked["people"])


def _judge_untrained(bench: Bench, requests: list[Request]) -> Iterator[Figure]:
    """The same architecture with weights freshly drawn."""
    sampling = bench.sampling.replace(num_inference_steps=UNTRAINED_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        write_untrained(bench.model.checkpoint.folder, Path(folder) / "untrained")
        model = load_model(ModelSpec(source=f"{folder}/untrained"))
        drawn = draw_prompts(model, sampling, [r.prompt for r in requests]).pixels
    yield from _count("chance_of_untrained", rank_requests(drawn, requests, bench.renders))


def judge_codec(bench: Bench) -> Iterator[Figure]:
    """What a round trip keeps: of compositions that training never saw, and of photographs."""
    held_out = [
        bench.renders.draw(r.index, r.colour)
        for requests in choose_held_out(bench.renders.emojis).values()
        for r in requests
    ]
    held = torch.cat(held_out)
    back = _round_trip(bench.model, held)
    yield "held_out_psnr", _measure_psnr(held, back)

    photographs, kept = [_load_photograph(name) for name in PHOTOGRAPHS], []
    for name, photograph in zip(PHOTOGRAPHS, photographs, strict=True):
        kept.append(_round_trip(bench.model, photograph))
        yield f"photograph_{name}_psnr", _measure_psnr(photograph, kept[-1])
    psnr = [_measure_psnr(p, k) for p, k in zip(photographs, kept, strict=True)]
    yield "photographs_psnr", sum(psnr) / len(psnr)

    step = max(1, len(held) // 28)
    shown = [back[::step][:28], *(_cut_middle(k) for k in kept)]
    own = [*held[::step][:28].split(1), *(_cut_middle(p) for p in photographs)]
    bench.save_pairs("codec", torch.cat(shown), own)


def _round_trip(model: Model, pixels: Pixels) -> Pixels:
    parts = [model.codec.decode(model.codec.encode(p.to(model.device))) for p in pixels.split(8)]
    return torch.cat(parts).float().cpu().clamp(-1, 1)


def _measure_psnr(pixels: Pixels, back: Pixels) -> float:
    """Mean PSNR in decibels of pictures in [-1, 1]."""
    error = ((pixels - back) / 2).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item()


def _load_photograph(name: str) -> Pixels:
    """A photograph that scikit-image brings in its package, cut to multiples of 64."""
    from skimage import data

    image = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None]
    height, width = (side // 64 * 64 for side in image.shape[2:])
    return image[..., :height, :width].float() / 127.5 - 1


def _cut_middle(pixels: Pixels, side: int = 128) -> Pixels:
    top, left = ((length - side) // 2 for length in pixels.shape[2:])
    return pixels[..., top : top + side, left : left + side]


def judge_arithmetic(bench: Bench) -> Iterator[Figure]:
    """a − b + c in prompt embeds, drawn: is it nearest d among all that come in skin tones?"""
    people = _find_people(bench.renders.emojis)
    names = [bench.renders.emojis[i].name for i in people]
    drawn = draw_points(bench.model, bench.sampling, _add(bench))
    looks = bench.renders.looks("white")[people]
    nearest = measure_distances(drawn, looks).argmin(1).tolist()
    wanted = [d for *_, d in ARITHMETIC]
    hits = [names[n] == d for n, d in zip(nearest, wanted, strict=True)]
    own = [bench.renders.draw(people[names.index(d)]) for d in wanted]
    bench.save_pairs("arithmetic", drawn, own)
    yield "arithmetic_hits", sum(hits)
    yield "arithmetic_sums", len(hits)


def _find_people(emojis: Sequence[Emoji]) -> list[int]:
    """Indices of those that have no skin tone, and could have one."""
    toned = {emoji.base for emoji in emojis if emoji.tones}
    return [i for i, emoji in enumerate(emojis) if not emoji.tones and emoji.base in toned]


def _add(bench: Bench) -> Iterator[Point]:
    """The points of the sums; each token's vector points as the sum does, and is as long as a's."""
    spec = StillSpec(prompt="", plain=True, sampling=bench.sampling)
    for index, terms in enumerate(ARITHMETIC):
        specs = (spec.replace(prompt=term, seed=FIRST_SEED + index) for term in terms[:3])
        three = [next(points(bench.model, s)) for s in specs]
        tokens = max(point.prompt_embeds.embeds.shape[1] for point in three)
        a, b, c = (
            pad_embeds(point.prompt_embeds, bench.model.empty_embeds, tokens) for point in three
        )
        total = F.normalize(a.embeds - b.embeds + c.embeds, dim=-1)
        lengths = a.embeds.norm(dim=-1, keepdim=True)  # else a sum is longer than any prompt is
        yield replace(three[0], prompt_embeds=replace(a, embeds=total * lengths))


def _count(name: str, ranks: torch.Tensor) -> Iterator[Figure]:
    yield f"{name}_prompts", len(ranks)
    for top, share in count_hits(ranks).items():
        yield f"{name}_{top}", share


PARTS: dict[PartName, Callable[[Bench], Iterator[Figure]]] = {
    "sheet": judge_sheet,
    "prompts": judge_prompts,
    "judge": judge_judge,
    "codec": judge_codec,
    "arithmetic": judge_arithmetic,
}
