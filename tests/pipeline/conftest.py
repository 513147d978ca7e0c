"""Models that the library's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.model import Model, load_model
from pipeline.spec import ModelSpec
from tests.tiny import TURBO, write_tiny_checkpoint, write_tiny_xl


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


@pytest.fixture(scope="session")
def tiny_lcm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint whose UNet takes guidance as an input."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-lcm"
    return write_tiny_checkpoint(folder, {"time_cond_proj_dim": 12}, _class_name="LCMScheduler")


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XL."""
    return write_tiny_xl(tmp_path_factory.mktemp("tiny") / "tiny-xl")


@pytest.fixture(scope="session")
def tiny_turbo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XL with the scheduler config of SDXL-Turbo."""
    return write_tiny_xl(tmp_path_factory.mktemp("tiny") / "tiny-turbo", **TURBO)


@pytest.fixture(scope="session")
def tiny_lcm(tiny_lcm_folder: Path) -> Model:
    """The tiny LCM, loaded through the door."""
    return load_model(ModelSpec(source=str(tiny_lcm_folder), device="cpu"))


@pytest.fixture(scope="session")
def tiny_xl(tiny_xl_folder: Path) -> Model:
    """The tiny XL, loaded through the door."""
    return load_model(ModelSpec(source=str(tiny_xl_folder), device="cpu"))


@pytest.fixture(scope="session")
def tiny_turbo(tiny_turbo_folder: Path) -> Model:
    """The tiny turbo XL, loaded through the door."""
    return load_model(ModelSpec(source=str(tiny_turbo_folder), device="cpu"))
