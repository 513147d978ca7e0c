"""What is offered: the models folder as it is, and a short list that is true as far as we know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.catalogue import MIN_CHECKPOINT_BYTES, WELL_KNOWN, Listed, list_models
from pipeline.sources import is_hub_id


def write(path: Path, size: int = 1) -> Path:
    """A file of so many bytes, which take no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def test_folders_and_large_files_are_listed_by_name(tmp_path: Path) -> None:
    write(tmp_path / "tiny" / "model_index.json", 100)
    write(tmp_path / "tiny" / "unet" / "diffusion_pytorch_model.safetensors", 1000)
    write(tmp_path / "Sub" / "sd.safetensors", MIN_CHECKPOINT_BYTES)
    write(tmp_path / "Sub" / "XL.SAFETENSORS", MIN_CHECKPOINT_BYTES + 1)

    assert list_models(tmp_path) == [
        Listed("Sub/sd.safetensors", tmp_path / "Sub" / "sd.safetensors", "file", 500_000_000),
        Listed("Sub/XL.SAFETENSORS", tmp_path / "Sub" / "XL.SAFETENSORS", "file", 500_000_001),
        Listed("tiny", tmp_path / "tiny", "folder", 1100),
    ]


def test_what_is_no_model_is_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "lora.safetensors", MIN_CHECKPOINT_BYTES - 1)
    write(tmp_path / "model.ckpt", MIN_CHECKPOINT_BYTES)
    write(tmp_path / ".hidden" / "model_index.json")
    write(tmp_path / "readme.txt")
    (tmp_path / "empty").mkdir()

    assert list_models(tmp_path) == []


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside / "tiny" / "model_index.json")
    large = write(outside / "large.safetensors", MIN_CHECKPOINT_BYTES)
    models = tmp_path / "models"
    inside = write(models / "real" / "model_index.json", 10).parent
    (models / "tiny").symlink_to(outside / "tiny")
    (models / "large.safetensors").symlink_to(large)
    (models / "all").symlink_to(outside)
    (models / "same").symlink_to(inside)
    (inside / "unet").symlink_to(outside)

    listed = list_models(models)

    assert [(model.name, model.bytes) for model in listed] == [("real", 10), ("same", 10)]


@pytest.mark.parametrize("target", [".", "..", "loop"])
def test_a_circle_of_links_ends(tmp_path: Path, target: str) -> None:
    models = tmp_path / "models"
    write(models / "tiny" / "model_index.json")
    (models / "loop").symlink_to(target)

    assert [model.name for model in list_models(models)] == ["tiny"]


def test_folders_are_not_searched_for_ever(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c" / "near" / "model_index.json")
    write(tmp_path / "a" / "b" / "c" / "d" / "far" / "model_index.json")

    assert [model.name for model in list_models(tmp_path)] == ["a/b/c/near"]


def test_a_model_is_not_searched_for_models(tmp_path: Path) -> None:
    write(tmp_path / "tiny" / "model_index.json")
    write(tmp_path / "tiny" / "unet" / "weights.safetensors", MIN_CHECKPOINT_BYTES)

    assert [model.name for model in list_models(tmp_path)] == ["tiny"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list_models(tmp_path / "nowhere") == []
    assert list_models(write(tmp_path / "file")) == []


def test_models_are_looked_for_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "models" / "tiny" / "model_index.json")

    (listed,) = list_models()

    assert (listed.name, listed.path) == ("tiny", Path("models/tiny"))


def test_the_well_known_are_hub_ids_with_size_licence_and_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert len({model.source for model in WELL_KNOWN}) == len(WELL_KNOWN)
    for model in WELL_KNOWN:
        assert is_hub_id(model.source)
        assert model.about and model.use and model.licence
        assert 10**9 < model.full_bytes < 2 * 10**10
        assert model.half_bytes in (None, model.full_bytes // 2)
        assert model.page == f"https://huggingface.co/{model.source}"


def test_the_list_is_there_before_the_heavy_libraries(root: Path) -> None:
    heavy = ("torch", "diffusers", "transformers", "huggingface_hub", "numpy", "PIL")
    code = (
        "import sys, pipeline.catalogue, pipeline.download, pipeline.sources;"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env=dict(os.environ)
    )

    assert done.stdout.strip() == "[]", done.stderr
