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
    fetch_model,
    hand_over,
    option,
    output_folder,
    override,
    progress_bar,
    require_places,
    run_command,
    say,
    write_lora,
)

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.record import Record
    from pipeline.spec import StillSpec

app = create_app()

# Numbers arrive as text: what is wrong with them is said by the spec, as everywhere.
Text = str | None
Texts = list[str] | None
Opt = Annotated

TEXTS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "image": "image.source",
    "scheduler": "sampling.scheduler",
    "model": "model.source",
    "vae": "model.vae",
    "device": "model.device",
    "dtype": "model.dtype",
}
NUMBERS = {
    "seed": "seed",
    "count": "count",
    "variation_seed": "variation.seed",
    "variation_strength": "variation.strength",
    "strength": "sampling.strength",
    "num_inference_steps": "sampling.num_inference_steps",
    "guidance_scale": "sampling.guidance_scale",
    "width": "sampling.width",
    "height": "sampling.height",
}
"""Options by the key of the spec that they override."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    file: Path | None
    overrides: list[str]
    out: Path
    metadata: bool
    show_weights: bool


@app.command()
def parse(
    prompt: Opt[Text, typer.Argument(metavar="PROMPT", help="What they show.")] = None,
    negative_prompt: Opt[Text, option("TEXT", "What they should not show.")] = None,
    seed: Opt[Text, option("N", "The first one's; others count on. [default: 0]")] = None,
    count: Opt[Text, option("N", "How many pictures. [default: 1]")] = None,
    variation_seed: Opt[Text, option("N", "A second noise to go some way to.")] = None,
    variation_strength: Opt[Text, option("X", "How far, from 0 to 1. [default: 0.2]")] = None,
    image: Opt[Text, option("FILE", "A picture to start from.")] = None,
    strength: Opt[Text, option("X", "How far to leave it, up to 1. [default: 0.8]")] = None,
    num_inference_steps: Opt[Text, option("N", "[default: the model's]")] = None,
    guidance_scale: Opt[Text, option("X", "[default: the model's]")] = None,
    scheduler: Opt[Text, option("NAME", "[default: the model's]")] = None,
    width: Opt[Text, option("N", "In pixels. [default: the model's]")] = None,
    height: Opt[Text, option("N", "In pixels. [default: the model's]")] = None,
    model: Opt[Text, option("SOURCE", "A folder, a file or a hub id. [default: embedded]")] = None,
    vae: Opt[Text, option("SOURCE", "Another autoencoder.")] = None,
    lora: Opt[Texts, option("FILE[=X]", "A LoRA and its weight; repeatable.")] = None,
    device: Opt[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    dtype: Opt[Text, option("NAME", "[default: what suits the device]")] = None,
    plain: Opt[bool, option(None, "Take brackets in prompts literally.", "--plain")] = False,
    show_weights: Opt[bool, option(None, "Say how the prompt is read.", "--show-weights")] = False,
    out: Opt[Path, option("FOLDER", "Where the pictures go.")] = Path("outputs"),
    set_: Opt[Texts, option("KEY=VALUE", "Any key of the spec; repeatable.", "--set")] = None,
    spec: Opt[
        Path | None, option("FILE", "A TOML file or a picture of ours to start with.")
    ] = None,
    metadata: Opt[
        bool, option(None, "Whether the settings go into the PNG.", "--metadata/--no-metadata")
    ] = True,
) -> Request:
    """Make pictures. Their paths go to stdout, one per line."""
    given = locals()
    texts = {key: given[name] for name, key in TEXTS.items()}
    numbers = {key: given[name] for name, key in NUMBERS.items()}
    overrides = [*(set_ or []), *override(texts, numbers)]
    if lora:
        overrides.append(f"model.loras=[{', '.join(map(write_lora, lora))}]")
    if plain:
        overrides.append("plain=true")
    return Request(spec, overrides, out, metadata, show_weights)


def run(request: Request) -> None:
    """Make what was asked for; everything that needs no model is refused before one is loaded."""
    record = _read_record(request.file)
    spec = _read_spec(request, record)
    if request.show_weights:
        say(_describe_weights(spec))
    with output_folder(request.out):
        model = fetch_model(spec.model)
        say(model.summary)
        resolved = model.resolve(spec)
        if record is not None:
            _compare(record, model, resolved)
        _generate(model, resolved, request)


def _describe_weights(spec: StillSpec) -> str:
    from pipeline.weighting import literal, parse_weights, show_weights

    return show_weights(literal(spec.prompt) if spec.plain else parse_weights(spec.prompt))


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
    from pipeline.spec import StillSpec
    from pipeline.values import load_spec, parse_spec

    if record is not None:
        spec = parse_spec(StillSpec, record.spec.model_dump(), request.overrides)
        image = spec.image
        require_places(
            spec.model,
            record.model_name,
            record.model_hash,
            request.overrides,
            image_source=f"picture {image.source!r}: say with --image" if image else None,
        )
        return spec
    if request.file is not None:
        return load_spec(StillSpec, request.file, request.overrides)
    return parse_spec(StillSpec, {}, request.overrides)


def _compare(record: Record, model: Model, spec: StillSpec) -> None:
    """Say what differs from what the picture was made with."""
    from pipeline.stills import describe

    found = describe(model, spec.single(0))
    if found.model_hash != record.model_hash:
        say(
            f"warning: not the same checkpoint: made with {record.model_name} "
            f"({record.model_hash[:10]}), this is {model.name} ({model.hash[:10]})"
        )
    if found.hashes != record.hashes:
        say("warning: not the same autoencoder, LoRAs or textual inversions as it was made with")
    if record.image and found.image and found.image.hash != record.image.hash:
        say("warning: not the same start image as it was made with")


def _generate(model: Model, spec: StillSpec, request: Request) -> None:
    """Render, save and hand over each picture as it is finished."""
    from pipeline.render import Frame, points, render_steps
    from pipeline.stills import Stills

    stills = Stills(request.out, model, spec, metadata=request.metadata)
    kept = 0
    try:
        with progress_bar(spec.count) as advance:
            for event in render_steps(model, spec.sampling, points(model, spec)):
                if isinstance(event, Frame):
                    if event.flagged:
                        say(f"the safety checker flags picture {event.index + 1}, kept as it is")
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
