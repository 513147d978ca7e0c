"""The study in miniature: one line a content, a figure, and JSON last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from scripts import study_cards, study_latents
from scripts.study_latents import main
from tests.tiny_autoencoders import create_small


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one scene a content, without packages, with a small autoencoder's folder."""
    monkeypatch.setattr(study_cards, "SCENES", 1)
    monkeypatch.setattr(study_cards, "find_spec", lambda name: None)
    monkeypatch.setattr(study_latents, "SIDES", (64, 32))
    monkeypatch.setattr(study_latents, "BITS", (8, 1))
    create_small("AutoencoderKL").save_pretrained(tmp_path / "vae", safe_serialization=True)
    return tmp_path


def test_everything_is_printed_drawn_and_told(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small / "study"

    code = main(["--vae", str(small / "vae"), "--out", str(out), "--device", "cpu"])

    written = capsys.readouterr()
    *table, last = written.out.splitlines()
    document = json.loads(last)
    assert code == 0
    assert [line.split()[0] for line in table] == ["kept", "edges", "text", "colours", "noise"]
    assert list(document["contents"]) == ["edges", "text", "colours", "noise"]
    for content in document["contents"].values():
        assert set(content["kept"]) == set(content["psnr"]) == {"64", "32"}
        assert set(content["kept_in_bits"]) == {"8", "1"}
        assert content["scenes"] == 1
    # 3 · 256² numbers over 4 channels of 32² and of 16² cells, two pixels wide
    assert document["compression"] == {"64": 48.0, "32": 192.0}
    assert len(written.err.splitlines()) == 3  # the autoencoder, and what was left out
    with Image.open(out / "latent-space.png") as figure:
        assert figure.width > 500
        assert figure.height > 800


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--device", "gpu"], "device = 'gpu': must be cpu, cuda, cuda:N or mps"),
        (["--model", "no/such/folder"], "model 'no/such/folder': no such folder or file"),
        (["--modle", "x"], "No such option: --modle"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*argv, "--out", str(tmp_path / "study")])

    written = capsys.readouterr()
    assert (code, written.out) == (2, "")
    assert written.err.startswith(f"error: {line}")
    assert written.err.count("\n") == 1
    assert not (tmp_path / "study").exists()
