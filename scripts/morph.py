"""A morph from a spec: words to frames on the disk, frames to a film. Knows nothing of how.

The same command goes on where it was stopped, and several processes may be started on one folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import OutputError, SpecError
from pipeline.spec import MorphSpec
from pipeline.values import load_spec, parse_spec
from scripts.command import (
    create_app,
    fetch_model,
    option,
    output_folder,
    override,
    require_places,
    run_command,
    say,
    write_lora,
)
from scripts.morphing import Worker, make, read_plan

if TYPE_CHECKING:
    from pipeline.record import Plan

app, verify_app = create_app(), create_app()

# Numbers arrive as text: what is wrong with them is said by the spec, as everywhere.
Text = str | None
Texts = list[str] | None
Opt = Annotated
Flag = bool | None

TEXTS = {
    "kind": "video.kind",
    "scheduler": "sampling.scheduler",
    "model": "model.source",
    "vae": "model.vae",
    "device": "model.device",
    "dtype": "model.dtype",
}
NUMBERS = {
    "frames": "num_frames",
    "fps": "video.fps",
    "easing": "easing",
    "num_inference_steps": "sampling.num_inference_steps",
    "guidance_scale": "sampling.guidance_scale",
    "width": "sampling.width",
    "height": "sampling.height",
    "batch_size": "sampling.batch_size",
}
FLAGS = {"loop": "loop", "exact": "exact", "even": "even", "boomerang": "video.boomerang"}
"""Options by the key of the spec that they override."""


@dataclass(frozen=True)
class Ends:
    """Keyframes as they are said on the command line: a prompt, those it goes to, their seeds."""

    start: str | None
    ends: list[str]
    seed: str | None
    end_seeds: list[str]
    negative_prompt: str | None

    @property
    def keyframes(self) -> list[dict[str, Any]] | None:
        """The spec's own, or None where none are said. Raises `SpecError` for half of them."""
        if self.start is None:
            self._refuse_lonely()
            return None
        count = len(self.ends) or len(self.end_seeds)
        if not count:
            raise SpecError("from: leads nowhere: say with --to what to, or --to-seed")
        if self.ends and self.end_seeds and len(self.end_seeds) != count:
            raise SpecError(f"{len(self.end_seeds)} to-seed for {count} to: must be as many")
        prompts = [self.start, *(self.ends or [self.start] * count)]
        seed = _parse_seed(self.seed or "0")
        seeds = [seed, *(map(_parse_seed, self.end_seeds) if self.end_seeds else [seed] * count)]
        shared = {} if self.negative_prompt is None else {"negative_prompt": self.negative_prompt}
        return [{"prompt": p, "seed": s, **shared} for p, s in zip(prompts, seeds, strict=True)]

    def _refuse_lonely(self) -> None:
        """Say of what needs --from that it does."""
        given = {
            "to": self.ends,
            "to-seed": self.end_seeds,
            "seed": self.seed,
            "negative-prompt": self.negative_prompt,
        }
        for name, value in given.items():
            if value not in (None, []):
                raise SpecError(f"{name}: goes with --from; a file's keyframes have their own")


def _parse_seed(text: str) -> int | str:
    """A number where it is one; what else it is, the spec refuses."""
    try:
        return int(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    source: Path | None
    ends: Ends
    overrides: list[str]
    out: Path
    metadata: bool
    report: bool


@app.command(epilog="python -m scripts.morph verify FOLDER checks what a run has left on the disk.")
def parse(
    source: Opt[
        Path | None,
        typer.Argument(metavar="SOURCE", help="A TOML file, or a run, film or frame of ours."),
    ] = None,
    from_: Opt[Text, option("PROMPT", "What it begins with, without a SOURCE.", "--from")] = None,
    to: Opt[Texts, option("PROMPT", "What it goes to; repeatable.")] = None,
    negative_prompt: Opt[Text, option("TEXT", "What they should not show.")] = None,
    seed: Opt[Text, option("N", "The seed of all of them. [default: 0]")] = None,
    to_seed: Opt[Texts, option("N", "The seed of each --to, if it is another.")] = None,
    frames: Opt[Text, option("N", "How many. [default: 48]")] = None,
    fps: Opt[Text, option("X", "Frames a second. [default: 24]")] = None,
    loop: Opt[Flag, option(None, "Back to the beginning, smoothly.", "--loop/--no-loop")] = None,
    boomerang: Opt[
        Flag, option(None, "There and back again.", "--boomerang/--no-boomerang")
    ] = None,
    easing: Opt[Text, option("NAME", "linear, smoothstep or [x1, y1, x2, y2].")] = None,
    even: Opt[
        Flag,
        option(None, "At even speed, or the path's. [default: even]", "--even/--no-even"),
    ] = None,
    exact: Opt[
        Flag, option(None, "Render every frame; none is solved.", "--exact/--no-exact")
    ] = None,
    num_inference_steps: Opt[Text, option("N", "[default: the model's]")] = None,
    guidance_scale: Opt[Text, option("X", "[default: the model's]")] = None,
    scheduler: Opt[Text, option("NAME", "[default: the model's]")] = None,
    width: Opt[Text, option("N", "In pixels. [default: the model's]")] = None,
    height: Opt[Text, option("N", "In pixels. [default: the model's]")] = None,
    batch_size: Opt[Text, option("N", "Frames that are rendered together. [default: 4]")] = None,
    kind: Opt[Text, option("NAME", "mp4, webp, gif or png. [default: mp4]")] = None,
    model: Opt[Text, option("SOURCE", "A folder, a file or a hub id. [default: embedded]")] = None,
    vae: Opt[Text, option("SOURCE", "Another autoencoder.")] = None,
    lora: Opt[Texts, option("FILE[=X]", "A LoRA and its weight; repeatable.")] = None,
    device: Opt[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    dtype: Opt[Text, option("NAME", "[default: what suits the device]")] = None,
    out: Opt[
        Path | None, option("FOLDER", "Where all of it goes. [default: outputs/NAME, or the run]")
    ] = None,
    set_: Opt[Texts, option("KEY=VALUE", "Any key of the spec; repeatable.", "--set")] = None,
    metadata: Opt[
        bool, option(None, "Whether the settings go into the files.", "--metadata/--no-metadata")
    ] = True,
    report: Opt[
        bool, option(None, "Whether the film is measured, too.", "--report/--no-report")
    ] = True,
) -> Request:
    """Make a morph; the same command goes on after a stop. The film's path is stdout's last line.

    Several GPUs share the work: accelerate launch --multi_gpu -m scripts.morph …
    """
    given = locals()
    texts = {key: given[name] for name, key in TEXTS.items()}
    numbers = {key: given[name] for name, key in NUMBERS.items()}
    flags = {k: None if given[n] is None else str(given[n]).lower() for n, k in FLAGS.items()}
    overrides = [*(set_ or []), *override(texts, {**numbers, **flags})]
    if lora:
        overrides.append(f"model.loras=[{', '.join(map(write_lora, lora))}]")
    ends = Ends(from_, to or [], seed, to_seed or [], negative_prompt)
    return Request(source, ends, overrides, out or _default_folder(source), metadata, report)


def _default_folder(source: Path | None) -> Path:
    if source is None:
        return Path("outputs/morph")
    return source if os.path.isdir(source) else Path("outputs") / source.stem


def run(request: Request) -> None:
    """Make what was asked for; everything that needs no model is refused before one is loaded."""
    plan = read_plan(request.source)
    spec = _read_spec(request, plan)
    worker = Worker.here()
    with output_folder(request.out):
        model = fetch_model(worker.choose_device(spec.model))
        if worker.is_first:
            say(model.summary)
        if worker.is_first and plan is not None and plan.model_hash != model.hash:
            say(
                f"warning: not the same checkpoint: made with {plan.model_name} "
                f"({plan.model_hash[:10]}), this is {model.name} ({model.hash[:10]})"
            )
        make(request.out, model, spec, worker, metadata=request.metadata, report=request.report)


def _read_spec(request: Request, plan: Plan | None) -> MorphSpec:
    keyframes, overrides = request.ends.keyframes, request.overrides
    if keyframes is not None and request.source is not None:
        raise SpecError(f"from: goes without a SOURCE, which is {str(request.source)!r}")
    if plan is not None:
        spec = parse_spec(MorphSpec, plan.spec.model_dump(), overrides)
        require_places(spec.model, plan.model_name, plan.model_hash, overrides)
        return spec
    if request.source is not None:
        return load_spec(MorphSpec, request.source, overrides)
    if keyframes is None:
        raise SpecError("keyframes: are missing: give a SOURCE, or --from and --to")
    return parse_spec(MorphSpec, {"keyframes": keyframes}, overrides)


@verify_app.command()
def parse_folder(
    folder: Opt[Path, typer.Argument(metavar="FOLDER", help="Where a morph was made.")],
) -> Path:
    """Check all that a morph is made of: its frames, its timeline, its film. One line a fault."""
    return folder


def check(folder: Path) -> None:
    """Say what is wrong with the run in `folder`. Raises `OutputError` where anything is."""
    from pipeline.outcome import open_run, verify

    faults = 0
    for fault in verify(folder):
        say(f"{fault.name}: {fault.reason}")
        faults += 1
    if faults:
        found = "1 fault" if faults == 1 else f"{faults} faults"
        raise OutputError(f"{folder}: {found}; the command that made it makes it good")
    _, plan, _ = open_run(folder)
    say(f"{folder}: whole, {plan.spec.num_frames} frames and their film")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code. `verify` is a command of its own."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["verify"]:
        return run_command("morph verify", verify_app, check, arguments[1:])
    return run_command("morph", app, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
