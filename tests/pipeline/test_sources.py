"""A name leads to a folder, a file or the hub's cache; what others read of it is never a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, SpecError
from pipeline.repository import PICKLES
from pipeline.sources import (
    EMBEDDED,
    anonymous_source,
    find_adapter,
    find_source,
    is_hub_id,
    pinned_revision,
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has ever been downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_the_shipped_model_is_beside_the_code(root: Path) -> None:
    assert find_source(EMBEDDED) == root / "pipeline" / "embedded"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find_source(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["sd.safetensors", "SD.SAFETENSORS", "my model.v2.safetensors"])
def test_a_safetensors_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"looked into later")

    assert find_source(str(file)) == file


def test_a_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sd-15").mkdir()

    assert find_source("~/sd-15") == tmp_path / "sd-15"


def test_what_lies_here_goes_before_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("ana/model")

    (tmp_path / "ana" / "model").mkdir(parents=True)

    assert not is_hub_id("ana/model")
    assert find_source("ana/model") == Path("ana/model")


@pytest.mark.parametrize("suffix", sorted(PICKLES))
@pytest.mark.parametrize("there", [True, False])
def test_a_pickle_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, there: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (f"model{suffix}", f"ana/model{suffix.upper()}"):
        if there:
            (tmp_path / "ana").mkdir(exist_ok=True)
            (tmp_path / source).write_bytes(b"cos\nsystem\n")

        with pytest.raises(CheckpointError) as caught:
            find_source(source)

        assert str(caught.value) == (
            f"model {source!r}: is a pickle, which can run code and is never opened: convert it"
            " elsewhere to safetensors, with the hub's space safetensors/convert or in a machine"
            " you can throw away"
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m.onnx", "a .onnx file"), ("m.zip", "a .zip file"), ("m", "a file without a suffix")],
)
def test_other_files_are_refused_with_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"")

    with pytest.raises(CheckpointError, match=f"is {kind}; allowed are 'embedded', a folder, a .s"):
        find_source(name)


@pytest.mark.parametrize(
    "source",
    [
        "nowhere", "/no/such", "../nowhere", "~/nowhere", "~nobody/at/home", "a/b/c", "",
        "x" * 5000, "sd.safetensors", "ana/sd.safetensors", "a\0b", "a b/c",
        "https://huggingface.co/ana/model",
    ],
)  # fmt: skip
def test_what_is_nothing_is_refused_with_what_is_allowed(source: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file; allowed are 'embedded', a"):
        find_source(source)


def test_a_link_to_nothing_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ana").mkdir()
    (tmp_path / "ana" / "model").symlink_to("nowhere")

    with pytest.raises(CheckpointError, match="no such folder or file"):
        find_source("ana/model")


@pytest.mark.parametrize(
    ("is_offline", "line"),
    [
        (True, "is not on this machine, and HF_HUB_OFFLINE is set: unset it, or give a folder"),
        (False, "is not on this machine yet: it has to be downloaded first"),
    ],
)
def test_a_hub_id_is_never_downloaded_on_the_way(
    monkeypatch: pytest.MonkeyPatch, is_offline: bool, line: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(CheckpointError) as caught:
        find_source("ana/model")

    assert str(caught.value) == f"model 'ana/model': {line}"


@pytest.mark.parametrize("source", [EMBEDDED, ".", "nowhere"])
def test_a_revision_is_for_hub_ids(source: str) -> None:
    with pytest.raises(SpecError, match=f"revision = 'abc': is for a hub id, which '{source}' is"):
        find_source(source, "abc")


def test_an_adapter_is_a_safetensors_file(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"looked into later")

    assert find_adapter(str(file)) == file
    with pytest.raises(CheckpointError, match=r"^'style\.pt': is a pickle, which can run code"):
        find_adapter("style.pt")
    for source in (str(tmp_path), "nowhere.safetensors", "style.txt", "", "a\0b", "x" * 5000):
        with pytest.raises(CheckpointError, match=r"no such \.safetensors file"):
            find_adapter(source)


def test_what_has_no_revision_is_not_pinned(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 40)

    assert pinned_revision(EMBEDDED, find_source(EMBEDDED)) is None
    assert pinned_revision(str(folder), folder) is None
    assert pinned_revision("ana/model", folder) == "a" * 40


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
