"""What commands share: the bar, signals, and options as overrides."""

from __future__ import annotations

import io
import re
import signal
import threading
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.spec import EmbeddingSpec, LoraSpec, ModelSpec
from scripts.command import override, progress_bar, require_places, stoppable, write_lora


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_signals_interrupt_once(number: signal.Signals) -> None:
    """What comes twice at once is one wish: the second must not cut short the tidying up."""
    before = signal.getsignal(number)
    is_tidied = False

    with stoppable():
        try:
            signal.raise_signal(number)
            pytest.fail("went on")
        except KeyboardInterrupt:
            signal.raise_signal(number)
            is_tidied = True

    assert is_tidied
    assert signal.getsignal(number) is before


def test_a_later_signal_interrupts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.command.ONE_WISH", 0.0)

    with stoppable():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def test_signals_are_the_main_threads() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [before]


def test_a_lora_is_a_table() -> None:
    assert tomllib.loads(f"lora = {write_lora('a=b.safetensors=-0.5')}")["lora"] == {
        "source": "a=b.safetensors",
        "weight": -0.5,
    }


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (ModelSpec(source="sd"), "checkpoint 'sd' (0123456789): say with --model"),
        (ModelSpec(vae="v"), "autoencoder 'v': say with --vae"),
        (ModelSpec(loras=(LoraSpec(source="l"),)), "LoRA 'l': say with --lora"),
        (
            ModelSpec(embeddings=(EmbeddingSpec(source="e", token="t"),)),
            "textual inversions: say with --set",
        ),
        (ModelSpec(config="c"), "config 'c': say with --set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_ours_does_not_choose_what_is_read(model: ModelSpec, line: str) -> None:
    with pytest.raises(SpecError, match=rf"made with the {re.escape(line)} where it is"):
        require_places(model, "sd", "0123456789abc", ["seed=3"])

    (key,) = {"source", "vae", "loras", "embeddings", "config"} & {
        name for name, value in model if value != getattr(ModelSpec(), name)
    }
    require_places(model, "sd", "0123456789abc", [f"model.{key} = 1"])


def test_more_places_may_be_required() -> None:
    with pytest.raises(SpecError, match="made with the picture 'x': say so where it is"):
        require_places(ModelSpec(), "m", "0", [], image_source="picture 'x': say so")
    require_places(ModelSpec(), "m", "0", ["image.source=y"], image_source="picture 'x': say so")
