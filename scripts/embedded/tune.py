"""Which steps, scheduler and guidance a model is best sampled with, by a measured table.

Retrieval against seconds, in stages, since a table of all combinations would take an hour: steps ×
scheduler at the present guidance over few prompts, guidance at the best two of those over more, and
the best three of these, with the present defaults, over all. Knows nothing of where it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from pipeline.files import prepare_folder
from pipeline.model import load_model
from pipeline.pictures import to_images
from pipeline.spec import SCHEDULERS, Sampling
from scripts.embedded.export import SHEET_PROMPTS, save_sheet
from scripts.embedded.retrieval import (
    Renders,
    choose_seen,
    count_hits,
    draw_prompts,
    rank_requests,
)
from scripts.embedded.specs import TuningSpec

BATCH = 16
STEPS = (5, 8, 12, 20)
GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
DISTILLED = {"lcm", "tcd"}  # schedulers for models that were trained to take few steps
SHARES = (0.2, 0.3, 1.0)
"""Of the prompts, how many each stage takes."""

RULE = "among those whose top 1 is within one standard error of the best, the least seconds"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to sample."""

    scheduler: str
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a setting gave over so many prompts; `seconds` are those of one picture."""

    stage: int
    setting: Setting
    prompts: int
    top1: float
    top5: float
    seconds: float

    @property
    def values(self) -> dict[str, float | int | str]:
        """Everything by name, flat."""
        flat = {**asdict(self), **asdict(self.setting)}
        del flat["setting"]
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in flat.items()}


Measure = Callable[[int, Setting, int], Row]
"""`measure(stage, setting, prompts)`."""


def recommend(rows: Sequence[Row]) -> Row:
    """By `RULE`. The error is that of the best share of hits, √(p(1 − p)/n)."""
    best = max(rows, key=lambda row: row.top1)
    error = math.sqrt(best.top1 * (1 - best.top1) / best.prompts)
    level = [row for row in rows if row.top1 >= best.top1 - error]
    return min(level, key=lambda row: (row.seconds, -row.top1, -row.top5))


def shortlist(rows: Sequence[Row], count: int) -> list[Setting]:
    """The recommended setting, then those with the most hits: a fast one and good ones."""
    first = recommend(rows)
    others = sorted(
        (row for row in rows if row != first), key=lambda r: (r.top1, r.top5, -r.seconds)
    )
    return [row.setting for row in [first, *reversed(others)]][:count]


def tune(measure: Measure, present: Setting, prompts: int) -> Iterator[Row]:
    """Every row as it is measured; the last stage's are those to choose from."""
    few, some, every = (max(1, round(share * prompts)) for share in SHARES)
    coarse = []
    for setting in list_coarse(present):
        coarse.append(measure(1, setting, few))
        yield coarse[-1]

    fine = []
    for kept in shortlist(coarse, 2):
        for scale in GUIDANCE_SCALES:
            setting = Setting(**{**asdict(kept), "guidance_scale": scale})
            fine.append(measure(2, setting, some))
            yield fine[-1]

    for setting in dict.fromkeys([*shortlist(fine, 3), present]):
        yield measure(3, setting, every)


def list_coarse(present: Setting) -> list[Setting]:
    """Steps × schedulers at the present guidance."""
    return [
        Setting(scheduler=name, num_inference_steps=n, guidance_scale=present.guidance_scale)
        for name in SCHEDULERS
        if name not in DISTILLED
        for n in STEPS
    ]


class Bench:
    """A model, and the prompts and renders that it is measured by: things and people in turn."""

    def __init__(self, spec: TuningSpec, out: Path) -> None:
        prepare_folder(out)
        self.out, self.model = out, load_model(spec.model)
        self.renders = Renders.load()
        groups = choose_seen(self.renders.emojis, spec.prompts)
        turns = zip_longest(groups["things"], groups["people"])  # any first few hold both
        self.requests = [request for turn in turns for request in turn if request is not None]
        warm_up = Sampling(num_inference_steps=2, batch_size=BATCH)
        draw_prompts(self.model, warm_up, [self.requests[0].prompt])

    @property
    def present(self) -> Setting:
        """What the model brings along."""
        sampling = self.model.complete(Sampling())
        assert sampling.scheduler is not None and sampling.num_inference_steps is not None
        assert sampling.guidance_scale is not None
        return Setting(
            scheduler=sampling.scheduler,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
        )

    def measure(self, stage: int, setting: Setting, prompts: int) -> Row:
        """Draw the first `prompts` of the fixed sample, always with the same seeds."""
        requests = self.requests[:prompts]
        drawing = draw_prompts(self.model, _sample(setting), [r.prompt for r in requests])
        hits = count_hits(rank_requests(drawing.pixels, requests, self.renders))
        return Row(
            stage=stage,
            setting=setting,
            prompts=len(requests),
            seconds=drawing.seconds,
            **hits,
        )

    def save_finalists(self, rows: Sequence[Row]) -> None:
        """A sheet: a line of pictures for each of `rows`, all of the same prompts and seeds."""
        lines = [
            draw_prompts(self.model, _sample(row.setting), SHEET_PROMPTS).pixels for row in rows
        ]
        file = self.out / "finalists.png"
        save_sheet(to_images(torch.cat(lines)), file, columns=len(SHEET_PROMPTS))


def _sample(setting: Setting) -> Sampling:
    return Sampling(**asdict(setting), batch_size=BATCH)
