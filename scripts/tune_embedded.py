"""Measure how a model of the embedded kind is best sampled: steps × scheduler × guidance.

A table on stdout, then one JSON document as the last line. It recommends by a rule that it states;
what ships is set by hand, in `greatcircle.json` of the model and in the recipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated as Opt

from scripts.command import create_app, option, override, run_command

app = create_app()

Text = str | None

COLUMNS = "stage scheduler        steps guidance prompts  top 1  top 5  seconds"


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    overrides: list[str]
    out: Path


@app.command()
def parse(
    model: Opt[Text, option("SOURCE", "A model folder. [default: embedded]")] = None,
    prompts: Opt[Text, option("N", "How many for the last stage. [default: 160]")] = None,
    out: Opt[Path, option("FOLDER", "Where the sheet goes.")] = Path("outputs/tuning"),
) -> Request:
    """Measure how a model is best sampled; the last line is one JSON document."""
    return Request(override({"model.source": model}, {"prompts": prompts}), out)


def run(request: Request) -> None:
    """Print every row as it is measured, the recommendation, then all of it."""
    from pipeline.values import parse_spec
    from scripts.embedded.specs import TuningSpec

    spec = parse_spec(TuningSpec, {}, request.overrides)

    from scripts.embedded.tune import RULE, Bench, recommend, tune

    bench = Bench(spec, request.out)
    rows = []
    print(COLUMNS, flush=True)
    for row in tune(bench.measure, bench.present, spec.prompts):
        rows.append(row)
        setting = row.setting
        print(
            f"{row.stage:5} {setting.scheduler:16} {setting.num_inference_steps:5} "
            f"{setting.guidance_scale:8g} {row.prompts:7} {row.top1:6.1%} {row.top5:6.1%} "
            f"{row.seconds:8.3f}",
            flush=True,
        )

    finalists = [row for row in rows if row.stage == rows[-1].stage]
    bench.save_finalists(finalists)
    recommended = asdict(recommend(finalists).setting)
    print(f"recommended, {RULE}: {recommended}")
    print(
        json.dumps(
            {
                "model": bench.model.name,
                "hash": bench.model.hash,
                "device": bench.model.device.type,
                "rule": RULE,
                "present": asdict(bench.present),
                "recommended": recommended,
                "rows": [row.values for row in rows],
            }
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("tune_embedded", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
