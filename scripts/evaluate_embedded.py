"""Judge a model of the embedded kind: does it draw what is asked for, what does its codec lose?

A table on stdout, then one JSON document as the last line. Prompts are taken literally.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from scripts.command import create_app, run_command

app = create_app()


@app.command()
def parse(
    model: Annotated[str, typer.Option(help="embedded, or a model folder.")] = "embedded",
    prompts: Annotated[int, typer.Option(help="How many prompts training has seen.", min=1)] = 500,
    steps: Annotated[int | None, typer.Option(help="[default: the model's]", min=1)] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="[default: the model's]")] = None,
    scheduler: Annotated[str | None, typer.Option(help="[default: the model's]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("outputs/evaluation"),
) -> dict[str, object]:
    """Judge a model of the embedded kind; the last line is one JSON document."""
    return dict(locals())


def run(request: dict[str, object]) -> None:
    """Evaluate and print."""
    from scripts.embedded.evaluate import Settings, evaluate

    figures = evaluate(Settings(**request))
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print(json.dumps(figures))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("evaluate_embedded", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
