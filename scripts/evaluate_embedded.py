"""Judge a model of the embedded kind: does it draw what is asked for, what does its codec lose?

A table on stdout, then one JSON document as the last line. Prompts are taken literally.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated as Opt

from scripts.command import create_app, option, override, run_command

app = create_app()

Text = str | None


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    overrides: list[str]
    out: Path


@app.command()
def parse(
    model: Opt[Text, option("SOURCE", "A model folder. [default: embedded]")] = None,
    prompts: Opt[Text, option("N", "How many that training has seen. [default: 500]")] = None,
    num_inference_steps: Opt[Text, option("N", "[default: the model's]")] = None,
    guidance_scale: Opt[Text, option("X", "[default: the model's]")] = None,
    scheduler: Opt[Text, option("NAME", "[default: the model's]")] = None,
    only: Opt[
        list[str] | None,
        option("PART", "sheet, prompts, judge, codec or arithmetic; repeatable."),
    ] = None,
    out: Opt[Path, option("FOLDER", "Where the sheets go.")] = Path("outputs/evaluation"),
) -> Request:
    """Judge a model of the embedded kind; the last line is one JSON document."""
    numbers = {
        "prompts": prompts,
        "sampling.num_inference_steps": num_inference_steps,
        "sampling.guidance_scale": guidance_scale,
        "only": json.dumps(only) if only else None,
    }
    overrides = override({"model.source": model, "sampling.scheduler": scheduler}, numbers)
    return Request(overrides, out)


def run(request: Request) -> None:
    """Print every figure as it is found, then all of them."""
    from pipeline.values import parse_spec
    from scripts.embedded.specs import EvaluationSpec

    spec = parse_spec(EvaluationSpec, {}, request.overrides)

    from scripts.embedded.evaluate import evaluate

    figures = {}
    for name, value in evaluate(spec, request.out):
        print(f"{name:32} {value}", flush=True)
        figures[name] = value
    print(json.dumps(figures))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("evaluate_embedded", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
