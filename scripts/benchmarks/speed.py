"""Speed: one film made several ways with the same weights, and the limit that none can pass.

From prompts to the closed mp4, in interleaved rounds. Cards on stdout, then one JSON document as
the last line. What is not exact stands beside how far off it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from pipeline.values import Spec
from scripts.command import fetch_model, option, override, progress_bar, say

if TYPE_CHECKING:
    import torch

    from pipeline.model import Model
    from pipeline.spec import ModelSpec, MorphSpec
    from scripts.benchmarks.trials import Trials

NAME = "speed"
FILM = Path(__file__).resolve().parents[2] / "configs" / "man-to-woman.toml"

# One core is done with these in four minutes. In shorter films hardly a frame is solved.
_FRAMES = {"cpu": 33, "other": 97}
_ROUNDS = {"cpu": 2, "other": 7}
_WARMUPS = {"cpu": 1, "other": 3}

Opt = Annotated
Text = str | None


class SpeedSpec(Spec):
    """How often each film is made; what is None follows the device."""

    rounds: Annotated[int, Field(ge=1, le=100)] | None = None
    warmups: Annotated[int, Field(ge=0, le=100)] | None = None


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    file: Path | None
    overrides: list[str]
    repeats: list[str]


def parse(
    file: Opt[
        Path | None, typer.Argument(metavar="[TOML]", help="The morph. [default: man to woman]")
    ] = None,
    rounds: Opt[Text, option("N", "Films of each kind. [default: 2, 7 on a GPU]")] = None,
    warmups: Opt[Text, option("N", "Short films before. [default: 1, 3 on a GPU]")] = None,
    frames: Opt[Text, option("N", "[default: the file's; without one 33, 97 on a GPU]")] = None,
    num_inference_steps: Opt[Text, option("N", "[default: the model's]")] = None,
    batch_size: Opt[Text, option("N", "Of this program's own films. [default: 4]")] = None,
    model: Opt[
        Text, option("SOURCE", "Or random-sd15: its networks, random weights. [default: embedded]")
    ] = None,
    device: Opt[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    dtype: Opt[Text, option("NAME", "[default: what suits the device]")] = None,
    set_: Opt[
        list[str] | None, option("KEY=VALUE", "Any key of the spec; repeatable.", "--set")
    ] = None,
) -> Request:
    """Frames a second from prompts to the film: diffusers' pipeline, a peer, ours, the limit.

    Films are interleaved, the median counts. Random weights tell of speed and of nothing else.
    """
    texts = {"model.source": model, "model.device": device, "model.dtype": dtype}
    numbers = {
        "num_frames": frames,
        "sampling.num_inference_steps": num_inference_steps,
        "sampling.batch_size": batch_size,
    }
    repeats = override({}, {"rounds": rounds, "warmups": warmups})
    return Request(file, [*(set_ or []), *override(texts, numbers)], repeats)


def run(request: Request) -> None:
    """Make all films and print what was measured; everything bad is refused before that."""
    from pipeline.model import choose_device, choose_dtype
    from pipeline.spec import MorphSpec
    from pipeline.values import load_spec, parse_spec

    repeats = parse_spec(SpeedSpec, {}, request.repeats)
    spec = load_spec(MorphSpec, request.file or FILM, request.overrides)
    device = choose_device(spec.model.device)
    dtype = choose_dtype(spec.model.dtype, device)
    kind = "cpu" if device.type == "cpu" else "other"
    given = {line.partition("=")[0].strip() for line in request.overrides}
    if request.file is None and "num_frames" not in given:
        spec = spec.replace(num_frames=_FRAMES[kind])

    from scripts.benchmarks.machine import describe_machine, warn_if_busy

    machine = describe_machine(device)  # before this makes it busy
    if warning := warn_if_busy(machine):
        say(warning)
    model = _open(spec.model, device, dtype)
    trials = _run_trials(
        model,
        model.resolve(spec),
        _ROUNDS[kind] if repeats.rounds is None else repeats.rounds,
        _WARMUPS[kind] if repeats.warmups is None else repeats.warmups,
    )

    from scripts.benchmarks.speed_card import describe_trials, print_card

    document = {"benchmark": NAME, **describe_trials(trials), **_describe_run(machine)}
    print_card(document)
    print(json.dumps(document))


def _open(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Model:
    from scripts.benchmarks.random_model import RANDOM, create_random_model

    return create_random_model(device, dtype) if spec.source == RANDOM else fetch_model(spec)


def _run_trials(model: Model, spec: MorphSpec, rounds: int, warmups: int) -> Trials:
    import torch

    from scripts.benchmarks.trials import Trials

    def open_float32() -> Model:
        return _open(spec.model.replace(dtype="float32"), model.device, torch.float32)

    trials = Trials(model, spec, rounds, warmups, open_float32)
    say(trials.summary)
    with progress_bar(trials.total) as advance:
        for done, text in enumerate(trials.run()):
            advance(done, text)
    return trials


def _describe_run(machine: dict[str, Any]) -> dict[str, Any]:
    from pipeline.record import current_versions
    from scripts.benchmarks.machine import find_commit

    return {"machine": machine, "versions": current_versions(), "commit": find_commit()}
