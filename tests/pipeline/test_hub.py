"""What is in the hub's cache is found when it is whole; refusals are one line of our own."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, OutputError, SpecError
from pipeline.hub import check_revision, explaining, find_snapshot, find_store, note_commit
from tests.pipeline.test_repository import CLUTTER, SD_1, XL

NAME = "ana/model"
COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def keep(names: list[str], parts: tuple[str, ...] = ("unet", "vae")) -> Path:
    """A snapshot with these files in the cache, whose index names `parts`."""
    folder = find_store(NAME) / "snapshots" / COMMIT
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    index = {part: ["library", "Class"] for part in parts}
    if "model_index.json" in names:
        (folder / "model_index.json").write_text(json.dumps(index | {"safety_checker": ["a", "B"]}))
    return folder


def test_a_store_is_where_the_hubs_programs_look(cache: Path) -> None:
    assert find_store("ana/model") == cache / "models--ana--model"


def test_nothing_is_found_in_an_empty_cache() -> None:
    assert find_snapshot(NAME) is None
    assert find_snapshot(NAME, COMMIT) is None


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "refs/pr/1"])
def test_a_branch_leads_to_its_commit(revision: str | None) -> None:
    folder = keep([*SD_1, *CLUTTER])
    assert find_snapshot(NAME, COMMIT) == folder
    assert find_snapshot(NAME, revision) is None

    note_commit(NAME, revision or "main", COMMIT)

    assert find_snapshot(NAME, revision) == folder


@pytest.mark.parametrize("kept", ["", "../../../..", "/", "a" * 40])
def test_a_branch_leads_to_no_place_but_a_snapshot(kept: str) -> None:
    keep(SD_1)
    note_commit(NAME, "main", kept)

    assert find_snapshot(NAME) is None


def test_half_precision_is_whole() -> None:
    names = [name.replace(".safetensors", ".fp16.safetensors") for name in SD_1]

    assert find_snapshot(NAME, COMMIT) is None
    assert keep(names) == find_snapshot(NAME, COMMIT)


@pytest.mark.parametrize(
    "lost", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"]
)
def test_what_is_not_whole_is_said(lost: str) -> None:
    keep([name for name in SD_1 if name != lost])

    with pytest.raises(CheckpointError, match=r"^model 'ana/model': is not whole on this machine:"):
        find_snapshot(NAME, COMMIT)


def test_the_index_says_which_parts_must_be_there() -> None:
    keep(SD_1, parts=("unet", "text_encoder_2"))

    with pytest.raises(CheckpointError, match="has no text_encoder_2"):
        find_snapshot(NAME, COMMIT)

    folder = keep(XL, parts=("unet", "text_encoder_2"))
    assert find_snapshot(NAME, COMMIT) == folder


def test_a_link_whose_content_is_gone_is_not_there() -> None:
    folder = keep(SD_1)
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").symlink_to("../../../blobs/gone")

    with pytest.raises(CheckpointError, match=r"unet: has no config\.json"):
        find_snapshot(NAME, COMMIT)


@pytest.mark.parametrize("index", ["", "[1]", "{", '{"a": 1, "a": 2}', "\udcff"])
def test_what_is_wrong_with_an_index_is_left_to_who_reads_it(index: str) -> None:
    folder = keep(SD_1)
    (folder / "model_index.json").write_text(index, errors="surrogateescape")

    assert find_snapshot(NAME, COMMIT) == folder


def test_a_single_file_is_found() -> None:
    folder = keep(["lora.safetensors", "README.md"])

    assert find_snapshot(NAME, COMMIT) == folder / "lora.safetensors"


@pytest.mark.parametrize("revision", ["", "../main", "a b", "-x", "a\\b", "/etc", "x" * 300, "a\0"])
def test_a_revision_that_cannot_be_one_is_refused(revision: str) -> None:
    with pytest.raises(SpecError, match="must be a branch, a tag or a commit of the hub"):
        check_revision(revision)


def test_the_main_branch_is_meant_where_none_is_named() -> None:
    assert check_revision(None) == "main"


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (OSError(errno.ENOSPC, "no space"), OutputError, "the disk is full; what has arrived"),
        (OSError(errno.EACCES, "No access"), OutputError, "cannot be written to: No access"),
        (RuntimeError("hf_secret at http://a"), CheckpointError, "be reached (RuntimeError)"),
        (SpecError("as it was"), SpecError, "as it was"),
    ],
)  # fmt: skip
def test_whatever_is_raised_becomes_one_line(error: Exception, kind: type, line: str) -> None:
    with pytest.raises(kind) as caught, explaining(NAME, "main"):
        raise error

    assert line in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_interruption_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), explaining(NAME, "main"):
        raise KeyboardInterrupt
