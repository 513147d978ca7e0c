"""Runs by their id: an id names a folder of ours or nothing, whatever it looks like."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SpecError
from pipeline.files import new_run_id
from ui.runs import EXAMPLE, Runs

NO_IDS = [
    "",
    ".",
    "..",
    "../secret",
    "/etc/passwd",
    "~",
    "secret",
    f"../{EXAMPLE}",
    f"{EXAMPLE}/..",
    f"{EXAMPLE}/../../secret",
    f"{EXAMPLE}/",
    f"/{EXAMPLE}",
    f"./{EXAMPLE}",
    f"{EXAMPLE}\n",
    f"{EXAMPLE}\0",
    f" {EXAMPLE}",
    EXAMPLE.upper(),
    EXAMPLE[:-1],
    f"{EXAMPLE}0",
    EXAMPLE.replace("2", "２"),
    EXAMPLE.replace("-", "/"),
    "x" * 10_000,
    None,
    7,
    ["20260131-174500-0a1b2c"],
    {"path": "/etc/passwd"},
]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """A folder of runs, with a secret beside it that looks like one."""
    for folder in (tmp_path / "secret", tmp_path / "morphs"):
        folder.mkdir()
    (tmp_path / "secret" / "plan.json").write_text("{}")
    return Runs(tmp_path / "morphs")


@pytest.mark.parametrize("id", NO_IDS, ids=lambda id: repr(id)[:30])
def test_what_is_no_id_names_nothing(runs: Runs, id: Any) -> None:
    """T6."""
    for answer in (runs.folder, runs.open):
        with pytest.raises(SpecError) as raised:
            answer(id)
        assert str(raised.value).endswith(f": must be an id such as {EXAMPLE}")
        assert len(str(raised.value)) < 200
        assert "\n" not in str(raised.value)


def test_an_id_of_no_run(runs: Runs) -> None:
    with pytest.raises(SpecError, match=rf"^run '{EXAMPLE}': there is none of that id$"):
        runs.open(EXAMPLE)


def test_a_link_is_no_run(runs: Runs) -> None:
    (runs.root / EXAMPLE).symlink_to(runs.root.parent / "secret")
    with pytest.raises(SpecError, match="there is none of that id"):
        runs.open(EXAMPLE)


@pytest.mark.parametrize("plan", ["", "{}", "[1]", "no", '{"spec": 7}'])
def test_a_damaged_plan_is_said_without_its_place(runs: Runs, plan: str) -> None:
    (runs.root / EXAMPLE).mkdir()
    (runs.root / EXAMPLE / "plan.json").write_text(plan)
    with pytest.raises(SpecError) as raised:
        runs.open(EXAMPLE)
    assert str(raised.value) == f"run '{EXAMPLE}': cannot be read, its plan is damaged"
    assert runs.open_all(9) == []


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_run_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", id) for id in ids)


def test_the_newest_are_listed_first_and_nothing_else(runs: Runs) -> None:
    ids = [f"2026010{k}-000000-abcdef" for k in range(1, 6)]
    for name in [*ids, "models", ".hidden", "20260101"]:
        (runs.root / name).mkdir()
    assert runs.list(3) == ids[:1:-1]
    assert Runs(runs.root / "nowhere").list(3) == []


def test_a_timeline_from_elsewhere_leads_to_no_file(runs: Runs) -> None:
    """T8: what it names as keys are paths."""
    folder = runs.root / EXAMPLE
    folder.mkdir()
    keyframes = [{"prompt": "a"}, {"prompt": "b"}]
    plan = {
        "spec": {"keyframes": keyframes, "num_frames": 2},
        "model_name": "m",
        "model_hash": "0",
        "device": "cpu",
        "dtype": "float32",
        "versions": {},
    }
    places = [
        {"position": k, "key": key, "is_rendered": True}
        for k, key in enumerate(["../../../secret/plan", "0" * 64])
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "timeline.json").write_text(json.dumps({"keyframes": [0, 1], "frames": places}))
    (folder / "morph.mp4").symlink_to(runs.root.parent / "secret" / "plan.json")
    (folder / "report.png").symlink_to(runs.root.parent / "secret" / "plan.json")
    (folder / "film.json").write_text(json.dumps({"file": "morph.mp4", "sha256": "0"}))
    (folder / "report.json").write_text(json.dumps({"verdict": ["<b>"]}))

    stored = runs.open(EXAMPLE)

    assert [stored.frame(k) for k in (-1, 0, 1, 2)] == [None] * 4
    assert (stored.film, stored.report, stored.verdict) == (None, None, None)
    assert stored.count_frames() == 0
