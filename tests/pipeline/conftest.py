"""Models that the library's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.model import Model, load_model
from pipeline.spec import ModelSpec
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint that predicts noise."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-sd")


@pytest.fixture(scope="session")
def tiny_velocity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint that predicts velocity."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-sd-v"
    return write_tiny_checkpoint(folder, prediction_type="v_prediction")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    """The tiny model, loaded through the door."""
    return load_model(ModelSpec(source=str(tiny_folder), device="cpu"))


@pytest.fixture(scope="session")
def tiny_velocity(tiny_velocity_folder: Path) -> Model:
    """The tiny velocity model, loaded through the door."""
    return load_model(ModelSpec(source=str(tiny_velocity_folder), device="cpu"))
