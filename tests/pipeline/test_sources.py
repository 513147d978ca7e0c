"""A name leads to a folder; what others read of it is never a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.sources import EMBEDDED, anonymous_source, find_folder


def test_the_shipped_model_is_beside_the_code(root: Path) -> None:
    assert find_folder(EMBEDDED) == root / "pipeline" / "embedded"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find_folder(str(tmp_path)) == tmp_path


def test_a_folder_goes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ana" / "model").mkdir(parents=True)

    assert find_folder("ana/model") == Path("ana/model")


def test_a_hub_id_is_asked_for_by_its_revision_and_for_safetensors_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def download(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    assert find_folder("ana/model", "abc123") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("ana/model", "abc123")
    assert not any("bin" in str(p) or "ckpt" in str(p) for p in asked["allow_patterns"])


@pytest.mark.parametrize("source", ["nowhere", "/no/such", "../nowhere", "~/nowhere", "a/b/c"])
def test_what_is_nothing_is_refused_with_what_is_allowed(source: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder; allowed are 'embedded', a folder"):
        find_folder(source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("embedded", "embedded"),
        ("owner/name", "owner/name"),
        ("/home/ana/models/sd-15", "sd-15"),
        ("/home/ana/models/sd-15/", "sd-15"),
        ("../models/sd-15", "sd-15"),
        ("~/sd-15", "sd-15"),
        ("./sd-15", "sd-15"),
        ("models/sub/sd-15", "sd-15"),
        ("C:\\Users\\ana\\sd-15", "sd-15"),
        ("/home/ana/my model.safetensors", "my model.safetensors"),
        ("~", "model"),
        (".", "model"),
        ("..", "model"),
        ("/", "model"),
    ],
)
def test_sources_lose_their_place(source: str, name: str) -> None:
    assert anonymous_source(source) == name


def test_a_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert anonymous_source("ana/model") == "ana/model"

    (tmp_path / "ana" / "model").mkdir(parents=True)
    assert anonymous_source("ana/model") == "model"
