"""What commands share: the bar, and options as overrides."""

from __future__ import annotations

import io
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.command import override, progress_bar


class Terminal(io.StringIO):
    """A stream that people watch."""

    def isatty(self) -> bool:
        return True


def test_the_bar_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")

    with progress_bar(4) as advance:
        advance(2.5, "step 3 of 20")

    assert "step 3 of 20" in stream.getvalue()


def test_where_nobody_watches_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)

    with progress_bar(4) as advance:
        advance(2.5, "step 3 of 20")

    assert stream.getvalue() == ""


def test_what_was_not_given_overrides_nothing() -> None:
    assert override({"prompt": None}, {"seed": None}) == []
    assert override({"prompt": ""}, {"seed": "0"}) == ["seed=0", 'prompt=""']


@given(text=st.text())
def test_any_text_survives_as_an_override(text: str) -> None:
    (line,) = override({"prompt": text}, {})
    assert tomllib.loads(line)["prompt"] == text
    assert "\n" not in line
