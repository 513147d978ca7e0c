"""Pictures from a prompt: words to a spec, frames to files. Knows nothing of how they are made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import SpecError
from scripts.command import (
    Stopped,
    create_app,
    hand_over,
    option,
    output_folder,
    override,
    progress_bar,
    run_command,
    say,
)

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.record import Record
    from pipeline.spec import StillSpec

app = create_app()

# Numbers arrive as text: what is wrong with them is said by the spec, as everywhere.
Text = str | None


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    file: Path | None
    overrides: list[str]
    out: Path
    metadata: bool


@app.command()
def parse(
    prompt: Annotated[Text, typer.Argument(metavar="PROMPT", help="What they show.")] = None,
    negative_prompt: Annotated[Text, option("TEXT", "What they should not show.")] = None,
    seed: Annotated[Text, option("N", "The first one's; others count on. [default: 0]")] = None,
    count: Annotated[Text, option("N", "How many pictures. [default: 1]")] = None,
    num_inference_steps: Annotated[Text, option("N", "[default: the model's]")] = None,
    guidance_scale: Annotated[Text, option("X", "[default: the model's]")] = None,
    scheduler: Annotated[Text, option("NAME", "[default: the model's]")] = None,
    width: Annotated[Text, option("N", "In pixels. [default: the model's]")] = None,
    height: Annotated[Text, option("N", "In pixels. [default: the model's]")] = None,
    model: Annotated[Text, option("SOURCE", "A folder or a hub id. [default: embedded]")] = None,
    device: Annotated[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    dtype: Annotated[Text, option("NAME", "[default: what suits the device]")] = None,
    out: Annotated[Path, option("FOLDER", "Where the pictures go.")] = Path("outputs"),
    set_: Annotated[
        list[str] | None, option("KEY=VALUE", "Any key of the spec; repeatable.", "--set")
    ] = None,
    spec: Annotated[
        Path | None, option("FILE", "A TOML file or a picture of ours; options override it.")
    ] = None,
    metadata: Annotated[
        bool, option(None, "Whether the settings go into the PNG.", "--metadata/--no-metadata")
    ] = True,
) -> Request:
    """Make pictures. Their paths go to stdout, one per line."""
    texts = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "sampling.scheduler": scheduler,
        "model.source": model,
        "model.device": device,
        "model.dtype": dtype,
    }
    numbers = {
        "seed": seed,
        "count": count,
        "sampling.num_inference_steps": num_inference_steps,
        "sampling.guidance_scale": guidance_scale,
        "sampling.width": width,
        "sampling.height": height,
    }
    return Request(spec, [*(set_ or []), *override(texts, numbers)], out, metadata)


def run(request: Request) -> None:
    """Make what was asked for; everything that needs no model is refused before one is loaded."""
    record = _read_record(request.file)
    spec = _read_spec(request, record)
    with output_folder(request.out):
        from pipeline.model import load_model

        model = load_model(spec.model)
        say(model.summary)
        if record is not None and model.hash != record.model_hash:
            say(f"warning: not the same checkpoint: {_describe_difference(record, model)}")
        _generate(model, model.resolve(spec), request)


def _read_record(file: Path | None) -> Record | None:
    """The record inside a picture, where a picture was given."""
    if file is None or file.suffix.lower() == ".toml":
        return None
    if file.suffix.lower() != ".png":
        raise SpecError(
            f"spec {file.name!r}: must be a .toml file or a .png with its settings inside"
        )
    from pipeline.pictures import read_record

    return read_record(file)


def _read_spec(request: Request, record: Record | None) -> StillSpec:
    from pipeline.spec import StillSpec, load_spec, parse_spec

    if record is not None:
        spec = parse_spec(StillSpec, record.spec.model_dump(), request.overrides)
        _require_model(spec, record, request)
        return spec
    if request.file is not None:
        return load_spec(StillSpec, request.file, request.overrides)
    return parse_spec(StillSpec, {}, request.overrides)


def _require_model(spec: StillSpec, record: Record, request: Request) -> None:
    """A picture does not say where its checkpoint lies, and must not choose what is downloaded."""
    keys = {line.partition("=")[0].strip() for line in request.overrides}
    named = not keys.isdisjoint({"model", "model.source"})
    if spec.model.source != "embedded" and not named:
        raise SpecError(
            f"made with the checkpoint {record.model_name!r} ({record.model_hash[:10]}): "
            "say with --model where it is"
        )


def _describe_difference(record: Record, model: Model) -> str:
    return (
        f"made with {record.model_name} ({record.model_hash[:10]}), "
        f"this is {model.name} ({model.hash[:10]})"
    )


def _generate(model: Model, spec: StillSpec, request: Request) -> None:
    """Render, save and hand over each picture as it is finished."""
    from pipeline.render import Frame, points, render_steps
    from pipeline.run import Stills

    stills = Stills(request.out, model, spec, metadata=request.metadata)
    kept = 0
    try:
        with progress_bar(spec.count) as advance:
            for event in render_steps(model, spec.sampling, points(model, spec)):
                if isinstance(event, Frame):
                    path = stills.save(event)
                    kept += 1
                    hand_over(path)
                else:
                    share = (event.index + 1) / event.count
                    done = event.indices.start + share * len(event.indices)
                    advance(done, f"step {event.index + 1} of {event.count}")
    except (KeyboardInterrupt, Stopped):
        raise Stopped(f"{kept} of {spec.count} pictures kept in {request.out}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("generate", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
