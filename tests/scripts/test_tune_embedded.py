"""Tuning: the rule, the stages, and the command on a tiny model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from pipeline.loaders import DEFAULTS_FILE
from scripts import tune_embedded
from scripts.embedded.export import SHEET_PROMPTS
from scripts.embedded.retrieval import Renders
from scripts.embedded.tune import (
    GUIDANCE_SCALES,
    STEPS,
    Row,
    Setting,
    list_coarse,
    recommend,
    shortlist,
    tune,
)
from tests.scripts.toys import create_renders
from tests.tiny import write_tiny_checkpoint

PRESENT = Setting(scheduler="dpm++2m", num_inference_steps=20, guidance_scale=4.0)


def _row(top1: float, seconds: float, prompts: int = 100, steps: int = 20) -> Row:
    setting = Setting(scheduler="ddim", num_inference_steps=steps, guidance_scale=4.0)
    return Row(stage=3, setting=setting, prompts=prompts, top1=top1, top5=0.9, seconds=seconds)


def _measure(stage: int, setting: Setting, prompts: int) -> Row:
    """A world in which dpm++2m and a guidance of 3 are best, and eight steps are as good as 20."""
    top1 = 0.8 if setting.scheduler == "dpm++2m" else 0.4
    top1 -= 0.3 * (setting.num_inference_steps < 8) + 0.1 * abs(setting.guidance_scale - 3)
    return Row(
        stage=stage,
        setting=setting,
        prompts=prompts,
        top1=max(0.0, top1),
        top5=0.9,
        seconds=0.01 * setting.num_inference_steps,
    )


def test_within_one_standard_error_of_the_best_the_quickest_is_chosen():
    # √(0.8 · 0.2 / 100) is 0.04.
    rows = [_row(0.80, 0.5), _row(0.765, 0.2), _row(0.75, 0.1)]

    assert recommend(rows) == rows[1]


def test_of_equally_quick_settings_the_better_is_chosen():
    rows = [_row(0.78, 0.2), _row(0.80, 0.2), _row(0.79, 0.2)]

    assert recommend(rows) == rows[1]


def test_certainty_leaves_no_error():
    rows = [_row(1.0, 0.5), _row(0.99, 0.1)]

    assert recommend(rows) == rows[0]


def test_a_shortlist_has_the_recommended_one_first_and_then_the_best():
    rows = [_row(0.5, 0.1, steps=5), _row(0.8, 0.9, steps=30), _row(0.79, 0.2, steps=10)]

    assert shortlist(rows, 2) == [rows[2].setting, rows[1].setting]


def test_the_stages_find_what_is_best():
    rows = list(tune(_measure, PRESENT, prompts=100))

    stages = Counter(row.stage for row in rows)
    assert stages[1] == len(list_coarse(PRESENT)) and stages[2] == 2 * len(GUIDANCE_SCALES)
    assert {row.prompts for row in rows if row.stage == 1} == {20}
    assert {row.prompts for row in rows if row.stage == 3} == {100}
    last = [row for row in rows if row.stage == 3]
    assert PRESENT in [row.setting for row in last] and len(last) in (3, 4)
    assert len({row.setting for row in last}) == len(last)
    best = Setting(scheduler="dpm++2m", num_inference_steps=8, guidance_scale=3.0)
    assert recommend(last).setting == best


def test_the_first_stage_is_every_scheduler_by_every_number_of_steps():
    settings = list_coarse(PRESENT)

    schedulers = {setting.scheduler for setting in settings}
    assert {"ddim", "euler", "dpm++2m", "unipc"} < schedulers
    assert not {"lcm", "tcd"} & schedulers  # for models that were trained to take few steps
    assert len(settings) == len(schedulers) * len(STEPS)
    assert {setting.guidance_scale for setting in settings} == {PRESENT.guidance_scale}


def test_the_command_ends_with_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = write_tiny_checkpoint(tmp_path / "tiny-sd")
    (folder / DEFAULTS_FILE).write_text('{"num_inference_steps": 3, "guidance_scale": 1.5}')
    toys = create_renders(["apple", "pear"], tones=["light"])
    monkeypatch.setattr(Renders, "load", lambda: toys)
    monkeypatch.setattr("scripts.embedded.tune.SCHEDULERS", ("ddim", "dpm++2m"))
    monkeypatch.setattr("scripts.embedded.tune.STEPS", (1, 2))
    monkeypatch.setattr("scripts.embedded.tune.GUIDANCE_SCALES", (1.0, 2.0))
    monkeypatch.setattr("scripts.embedded.tune.SHEET_PROMPTS", SHEET_PROMPTS[:3])
    monkeypatch.setattr("scripts.embedded.tune.BATCH", 4)
    out = tmp_path / "tuning"

    assert tune_embedded.main(["--model", str(folder), "--prompts", "4", "--out", str(out)]) == 0

    lines = capsys.readouterr().out.splitlines()
    document = json.loads(lines[-1])
    assert len(document["rows"]) == len(lines) - 3  # the heading, the recommendation, the document
    assert document["recommended"] in [
        {name: row[name] for name in document["recommended"]}
        for row in document["rows"]
        if row["stage"] == 3
    ]
    finalists = sum(row["stage"] == 3 for row in document["rows"])
    with Image.open(out / "finalists.png") as sheet:
        assert sheet.size[0] // 3 == sheet.size[1] // finalists


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for options, words in {
        ("--model", "no-such-model"): "no-such-model",
        ("--prompts", "1"): "prompts = 1",
    }.items():
        assert tune_embedded.main([*options, "--out", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
