"""A morph that takes a moment, for the tests of the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.model import Model, load_model
from pipeline.spec import ModelSpec
from scripts.morph import main
from tests.tiny import write_tiny_checkpoint

Command = Callable[..., tuple[int, list[str], list[str]]]

SMALL = [
    *("--from", "a red apple", "--to", "a green pear", "--seed", "3", "--to-seed", "4"),
    *("--frames", "5", "--num-inference-steps", "1", "--width", "16", "--height", "16"),
    *("--batch-size", "2", "--scheduler", "euler"),
]
"""A morph on the tiny model; at random weights every frame is rendered."""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    """The tiny model, loaded through the door."""
    return load_model(ModelSpec(source=str(tiny_folder), device="cpu"))


@pytest.fixture
def command(
    tiny: Model,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """`scripts.morph` in this process: its exit code, the lines of stdout, the lines of stderr.

    The tiny model is not loaded anew.
    """
    from pipeline import model

    load = model.load_model
    monkeypatch.setattr(
        model, "load_model", lambda s: tiny if s.source == str(tiny_folder) else load(s)
    )
    monkeypatch.chdir(tmp_path)
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)

    def run(*argv: str) -> tuple[int, list[str], list[str]]:
        code = main(list(argv))
        written = capsys.readouterr()
        return code, written.out.splitlines(), written.err.splitlines()

    return run


@pytest.fixture
def small(tiny_folder: Path) -> list[str]:
    """Options of a small morph on the tiny model."""
    return [*SMALL, "--model", str(tiny_folder)]
