"""What commands share: a parser, errors in one line, exit codes, a progress bar.

Knows no model and no picture. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.errors import GreatcircleError, SpecError
from pipeline.spec import LoraSpec

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.spec import ModelSpec

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

ONE_WISH = 2.0
"""Seconds in which a second signal says no more than the first: launchers pass on what came."""

# Of its usage errors typer exports this one, and from what it derives all others do.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Stopped(Exception):
    """Interrupted by whoever runs the command; the line says what was kept."""


def create_app() -> typer.Typer:
    """An app in plain text that leaves every error to `run_command`."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def option(metavar: str | None, text: str, *names: str) -> Any:
    """An option with its help; its name is the parameter's unless `names` are given."""
    return typer.Option(*names, metavar=metavar, help=text)


def run_command(
    name: str, app: typer.Typer, run: Callable[[Any], None], argv: Sequence[str] | None = None
) -> int:
    """Parse `argv` with `app`, whose command returns a request; `run` it; the exit code.

    What goes wrong on purpose, usage errors too, is one line on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as it is on the disk
    if not sys.stderr.isatty():  # the bars of the libraries that load and download
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with stoppable():
            request = _parse(name, app, argv)
            if not isinstance(request, int):
                run(request)
    except (GreatcircleError, _UsageError) as error:
        return _leave(BAD_INPUT, f"error: {error}")
    except Stopped as error:
        return _leave(INTERRUPTED, f"interrupted: {error}")
    except KeyboardInterrupt:
        return _leave(INTERRUPTED, "interrupted: nothing was written")
    return DONE


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM interrupt the block as Ctrl-C does, and take both at once for one wish."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    last = -ONE_WISH

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= ONE_WISH:
            raise KeyboardInterrupt

    numbers = signal.SIGINT, signal.SIGTERM
    former = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def _parse(name: str, app: typer.Typer, argv: Sequence[str] | None) -> Any:
    """The request in `argv`, or the exit code where help was all that was asked for."""
    parser = typer.main.get_command(app)
    arguments = sys.argv[1:] if argv is None else list(argv)
    return parser.main(arguments, prog_name=f"python -m scripts.{name}", standalone_mode=False)


def _leave(code: int, line: str) -> int:
    say(" ".join(line.splitlines()))
    return code


def say(line: str) -> None:
    """One line for who is watching: stderr, where no program reads."""
    print(line, file=sys.stderr, flush=True)


def hand_over(path: Path) -> None:
    """One path to who reads stdout, at once. Raises `Stopped` where nobody reads any more."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)  # the bar's line; it comes again
    try:
        print(path, flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Stopped("nobody reads the paths any more") from None


def override(texts: Mapping[str, str | None], numbers: Mapping[str, str | None]) -> list[str]:
    """Options that were given, as overrides of a spec.

    Numbers go as they were typed, so that the spec itself says what is wrong with them; texts are
    quoted, so that a prompt such as `7` stays a text.
    """
    quoted = {key: None if text is None else quote(text) for key, text in texts.items()}
    return [f"{key}={text}" for key, text in {**numbers, **quoted}.items() if text is not None]


def write_lora(text: str) -> str:
    """FILE or FILE=X as a TOML table."""
    lora = LoraSpec.parse(text)
    return f"{{source={quote(lora.source)}, weight={lora.weight}}}"


def require_places(
    model: ModelSpec, name: str, digest: str, overrides: Sequence[str], **more: str | None
) -> None:
    """Raise `SpecError` unless `overrides` say where what `model` names lies.

    A file of ours holds names; what is read must not be chosen by it. `more` are further hints, by
    the key of the spec with _ for its dots.
    """
    given = {line.partition("=")[0].strip() for line in overrides}
    needed = {
        "model.source": f"checkpoint {name!r} ({digest[:10]}): say with --model"
        if model.source != "embedded"
        else None,
        "model.vae": f"autoencoder {model.vae!r}: say with --vae" if model.vae else None,
        "model.loras": f"LoRA {model.loras[0].source!r}: say with --lora" if model.loras else None,
        "model.embeddings": "textual inversions: say with --set" if model.embeddings else None,
        "model.config": f"config {model.config!r}: say with --set" if model.config else None,
        **{key.replace("_", "."): hint for key, hint in more.items()},
    }
    for key, hint in needed.items():
        if hint is not None and given.isdisjoint({key, key.partition(".")[0]}):
            raise SpecError(f"made with the {hint} where it is")


def quote(text: str) -> str:
    """`text` as a TOML string, which is JSON's but for one control character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def fetch_model(spec: ModelSpec) -> Model:
    """The model; one that the hub has and this machine has not is downloaded, and its size said."""
    from pipeline.model import load_model

    download_missing(spec)
    return load_model(spec)


def download_missing(spec: ModelSpec) -> None:
    """Download what the hub has of a model and this machine has not; its size is said before."""
    from pipeline.download import download, say_bytes
    from pipeline.model import plan_missing

    for plan in plan_missing(spec):
        say(f"downloading {plan.summary}")
        with progress_bar(plan.total_bytes) as advance:
            for progress in download(plan):
                advance(progress.done_bytes, say_bytes(progress.done_bytes))


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """`folder`, tried before the work; taken away again if it was made for nothing."""
    from pipeline.files import prepare_folder

    was_there = os.path.exists(folder)  # unlike Path.exists, for every name
    prepare_folder(folder)
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):  # it is not empty: something was kept
                folder.rmdir()


@contextmanager
def progress_bar(total: float) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr, moved by `advance(done, text)`; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, text: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    # The bar moves only when told to and leaves the streams alone: see `hand_over`.
    bar = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text, refresh=True)
