"""The model that ships with the program: small, whole, and it draws what is asked for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.model import Model, load_model
from pipeline.pictures import to_pixels
from pipeline.render import points, render
from pipeline.spec import ModelSpec, Sampling, StillSpec
from scripts.embedded.judge import measure_distances, rank

REFERENCES = Path(__file__).resolve().parent.parent / "data" / "references"
FILES = sorted(REFERENCES.glob("*.png"))
NAMES = [file.stem.replace("-", " ") for file in FILES]
ASKED = ["red apple", "grinning face", "snowman", "prince", "cat face"]
"""What is drawn; the other references only stand by, to be mistaken for."""


@pytest.fixture(scope="session")
def references() -> torch.Tensor:
    pictures = []
    for file in FILES:
        with Image.open(file) as image:
            pictures.append(to_pixels(image.convert("RGB")))
    return torch.cat(pictures)


def _draw(model: Model, prompt: str, seed: int = 0, **values: float) -> torch.Tensor:
    spec = StillSpec(prompt=prompt, seed=seed, sampling=Sampling(**values))
    (frame,) = render(model, spec.sampling, points(model, spec))
    return frame.pixels


@pytest.fixture(scope="session")
def drawn(embedded: Model) -> torch.Tensor:
    return torch.cat([_draw(embedded, prompt) for prompt in ASKED])


def test_prompts_are_nearest_to_their_own_renders(drawn: torch.Tensor, references: torch.Tensor):
    """The references are so unlike each other that a miss is a picture of something else."""
    own = torch.tensor([NAMES.index(prompt) for prompt in ASKED])

    missed = rank(drawn, references, own)

    assert {p for p, m in zip(ASKED, missed.tolist(), strict=True) if m} == set()


def test_the_judge_can_fail(drawn: torch.Tensor, references: torch.Tensor):
    """Other prompts' pictures are no hits, and noise is nobody's picture."""
    own = torch.tensor([NAMES.index(prompt) for prompt in ASKED])
    noise = torch.randn(references.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    assert (rank(drawn.roll(1, 0), references, own) > 0).all()
    assert (rank(noise, references, torch.arange(len(NAMES))) == 0).sum() <= 1


def test_the_judge_knows_a_render_that_was_moved_and_zoomed(references: torch.Tensor):
    moved = torch.nn.functional.pad(references, (3, -3, -2, 2), value=1.0)

    assert (rank(moved, references, torch.arange(len(NAMES))) == 0).all()


def test_a_ground_that_is_asked_for_is_there(embedded: Model):
    blue = _draw(embedded, "a red apple on a sky blue background")
    white = _draw(embedded, "a red apple")

    corners = [blue[..., :8, :8].mean((0, 2, 3)), white[..., :8, :8].mean((0, 2, 3))]

    # Sky blue is (135, 206, 235): less red than blue by 0.78 of the range from -1 to 1.
    assert corners[0][2] - corners[0][0] > 0.4
    assert corners[1].min() > 0.7


def test_another_seed_is_another_picture(embedded: Model):
    first, second = _draw(embedded, "cat face"), _draw(embedded, "cat face", seed=1)

    assert (first - second).abs().mean() > 0.005  # one grey level of 255 is 0.008


def test_guidance_makes_a_difference(embedded: Model):
    plain = _draw(embedded, "cat face", guidance_scale=1.0)
    guided = _draw(embedded, "cat face", guidance_scale=5.0)

    assert (plain - guided).abs().mean() > 0.01


def test_a_round_trip_keeps_the_picture(embedded: Model, references: torch.Tensor):
    back = embedded.codec.decode(embedded.codec.encode(references)).clamp(-1, 1)

    psnr = -10 * ((back - references) / 2).square().mean((1, 2, 3)).log10()

    # The recipe asks for 24 dB over held-out pictures when it is trained on a CPU.
    assert psnr.mean() > 24
    assert measure_distances(back, references).argmin(1).tolist() == list(range(len(NAMES)))


def test_it_is_small(embedded: Model):
    parts = (embedded.unet, embedded.codec.vae, embedded.text.encoders[0].encoder)
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    size = sum(f.stat().st_size for f in embedded.checkpoint.folder.rglob("*") if f.is_file())

    assert parameters < 16.5e6
    assert size < 32 * 2**20


def test_its_card_says_what_one_must_know(embedded: Model):
    card = (embedded.checkpoint.folder / "README.md").read_text().lower()

    for word in ("noto color emoji", "sil open font license", "128", "english", "train_embedded"):
        assert word in card


def test_it_loads_in_under_two_seconds(embedded: Model):
    """In processor time, which a busy machine does not change; the libraries are already in."""
    started = time.process_time()
    load_model(ModelSpec(device="cpu"))

    assert time.process_time() - started < 2
