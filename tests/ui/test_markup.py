"""What the pages show in HTML is theirs alone: words from elsewhere stay words."""

from __future__ import annotations

import pytest

from pipeline.spec import ModelSpec, Sampling, StillSpec
from ui import markup

EVIL = "<script>alert(1)</script>\" onload='x'"


@pytest.mark.parametrize(
    "html",
    [
        markup.header(EVIL, "ready"),
        markup.progress(EVIL, 0.5),
        markup.settings(StillSpec(prompt=EVIL, negative_prompt=EVIL, model=ModelSpec(source=EVIL))),
    ],
)
def test_words_from_elsewhere_are_escaped(html: str) -> None:
    assert "<script" not in html
    assert "alert(1)" in html


def test_a_bar_is_as_full_as_the_work_is_done() -> None:
    assert "width: 25.0%" in markup.progress("a quarter", 0.25)
    assert "gc-waiting" in markup.progress("nobody knows")
    assert "gc-waiting" not in markup.progress("nothing to do", kind="idle")


def test_settings_name_what_was_given_and_no_path() -> None:
    sampling = Sampling(num_inference_steps=7, guidance_scale=2.5, height=64, width=128)
    model = ModelSpec(source="/home/ada/models/mine", device="cpu", dtype="float32")
    html = markup.settings(StillSpec(prompt="a pear", seed=5, sampling=sampling, model=model))

    for text in ("a pear", ">5<", ">7<", "2.5", "128 × 64", "mine on cpu in float32"):
        assert text in html
    assert "/home/ada" not in html
    assert "negative" not in html
    assert "scheduler" not in html
