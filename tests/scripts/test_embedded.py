"""The recipe of the embedded model, without its pictures: captions, resuming, normalising."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scripts.embedded.captions import COLOURS, WHITE, is_held_out, write_caption
from scripts.embedded.compose import draw_procedural, place
from scripts.embedded.emojis import Emoji
from scripts.embedded.recipe import TextRecipe, load_recipe
from scripts.embedded.state import Training
from scripts.embedded.text import tokenize, train_tokenizer
from scripts.embedded.unet import measure_loss
from scripts.embedded.vae import create_vae, normalise

APPLE = Emoji(characters="x", name="red apple", tones=(), base="red apple", aliases=())
DETECTIVE = Emoji(
    characters="x",
    name="woman detective, medium-dark skin tone",
    tones=("medium-dark",),
    base="woman detective",
    aliases=(),
)
FRANCE = Emoji(characters="x", name="flag of france", tones=(), base="flag of france", aliases=())


def test_a_ground_is_named_unless_it_is_white():
    draw = random.Random(0)

    captions = {c: [write_caption(APPLE, c, draw) for _ in range(200)] for c in COLOURS}

    for colour in set(COLOURS) - {WHITE}:
        assert all(colour in caption for caption in captions[colour])
    named = sum("white" in caption for caption in captions[WHITE])
    assert 5 < named < 40  # one in ten of 200


def test_captions_vary_and_keep_what_matters():
    draw = random.Random(0)

    captions = {write_caption(DETECTIVE, WHITE, draw) for _ in range(200)}

    assert len(captions) > 4
    assert all("woman detective" in c and "medium-dark skin" in c for c in captions)
    assert {"flag of france", "france flag"} < {
        write_caption(FRANCE, WHITE, draw) for _ in range(200)
    }


def test_what_is_held_out_follows_from_names_alone():
    tones = ["light", "medium-light", "medium", "medium-dark", "dark"]
    people = [
        Emoji(
            characters="x",
            name=f"{who} {role}, {tone} skin tone",
            tones=(tone,),
            base=f"{who} {role}",
            aliases=(),
        )
        for who in ("man", "woman", "person")
        for role in ("cook", "pilot", "judge", "singer", "farmer", "teacher", "student")
        for tone in tones
    ]

    held = [p.name for p in people if p.held_out]

    assert 5 < len(held) < 30  # one in seven of 105
    assert not APPLE.held_out
    assert not any(is_held_out(APPLE, colour) for colour in COLOURS)
    assert all(is_held_out(p, WHITE) for p in people if p.held_out)


def test_a_face_is_never_held_out_on_white():
    faces = [
        Emoji(characters="x", name=f"face {i}", tones=(), base=f"face {i}", aliases=())
        for i in range(50)
    ]

    held = sum(is_held_out(f, c) for f in faces for c in COLOURS)

    assert not any(is_held_out(f, WHITE) for f in faces)
    assert 50 < held < 120  # one in nine of 750


def test_a_picture_is_placed_on_its_ground_where_it_was_drawn():
    rgba = torch.zeros(1, 128, 128, 4, dtype=torch.uint8)
    rgba[:, 32:96, 32:96] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)
    ground = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)

    still = place(rgba, ground, torch.ones(1), torch.zeros(1, 2))
    larger = place(rgba, ground, torch.full((1,), 1.5), torch.zeros(1, 2))
    window = place(rgba, ground, torch.ones(1), torch.zeros(1, 2), side=64)

    assert still[0, :, 64, 64].tolist() == [1, -1, -1]
    assert still[0, :, 5, 5].tolist() == [-1, -1, 1]
    # 64 of 128 pixels a side are red, or 96 when enlarged; half a pixel at each edge is mixed.
    assert (still[0, 0] > 0).sum() == pytest.approx(64**2, rel=0.05)
    assert (larger[0, 0] > 0).sum() == pytest.approx(96**2, rel=0.05)
    assert window.shape == (1, 3, 64, 64)
    assert torch.equal(window[0, :, 8:56, 8:56], still[0, :, 40:88, 40:88])


def test_procedural_pictures_are_pictures():
    pictures = draw_procedural(8, seed=1)

    assert pictures.shape == (8, 3, 128, 128)
    assert pictures.min() >= -1 and pictures.max() <= 1
    assert (pictures.flatten(1).std(1) > 0.05).all()
    assert torch.equal(pictures, draw_procedural(8, seed=1))


def test_the_tokenizer_reads_every_byte_and_its_own_words_whole():
    recipe = TextRecipe(vocabulary=700, length=16, width=16, layers=1, heads=2)
    tokenizer = train_tokenizer(["a red apple", "woman detective"] * 10, recipe)

    ids = tokenize(tokenizer, ["red apple", "日本 ünïcode \x7f", ""])

    assert ids.shape == (3, 16)
    assert len(tokenizer("apple", add_special_tokens=False).input_ids) == 1
    assert ids[2, 0] == tokenizer.bos_token_id
    assert (ids[2, 1:] == tokenizer.eos_token_id).all()
    words = tokenizer("日本", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in words[:-1] and len(words) >= 2


def _train(file: Path, until: int) -> Training:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"line": nn.Linear(3, 2)})
    training = Training(
        modules=modules, file=file, minutes=60, learning_rate=0.01, ema_decay=0.9, warmup=1
    )
    for step in training.steps():
        if step == until:
            break
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        training.seconds = 60.0 * step
        training.update(modules["line"](inputs).square().mean())
    return training


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The learning rate follows the seconds spent; those of this machine are left out.
    monkeypatch.setattr("scripts.embedded.state.time", SimpleNamespace(monotonic=lambda: 0.0))

    whole = _train(tmp_path / "whole.safetensors", 6)

    halted = _train(tmp_path / "halted.safetensors", 3)
    halted.save()
    resumed = _train(tmp_path / "halted.safetensors", 6)

    assert resumed.step == 6
    for name, value in whole.modules.state_dict().items():
        assert torch.equal(resumed.modules.state_dict()[name], value)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(resumed.average.state_dict()[name], value)


def test_training_ends_with_its_budget(tmp_path: Path):
    modules = nn.ModuleDict({"line": nn.Linear(3, 2)})
    training = Training(
        modules=modules,
        file=tmp_path / "state.safetensors",
        minutes=1,
        learning_rate=0.01,
        ema_decay=0.9,
        seconds=60.0,
    )

    assert list(training.steps()) == []
    assert training.file.exists()


def test_normalising_moves_the_scale_and_changes_no_picture(root: Path):
    torch.manual_seed(0)
    vae = create_vae(load_recipe(root / "configs/embedded.toml").vae).eval().requires_grad_(False)
    pixels = draw_procedural(8, seed=0)[..., :64, :64].contiguous()
    before = vae.encode(pixels).latent_dist
    decoded = vae.decode(before.mean).sample

    normalise(vae, pixels)
    after = vae.encode(pixels).latent_dist

    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-4  # float32 sums of 512 numbers
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    scale = before.mean.std((0, 2, 3)).view(1, -1, 1, 1)
    assert torch.allclose(after.std * scale, before.std, rtol=1e-3)
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)


def test_a_right_velocity_costs_nothing_and_a_wrong_one_does(root: Path):
    recipe = load_recipe(root / "configs/embedded.toml").unet
    latents, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    alpha_bar = torch.tensor([0.9, 0.1])
    a = alpha_bar.view(-1, 1, 1, 1)
    velocity = a.sqrt() * noise - (1 - a).sqrt() * latents

    assert measure_loss(velocity, latents, noise, alpha_bar, recipe) == 0
    assert measure_loss(velocity + 1, latents, noise, alpha_bar, recipe) > 0.1


@pytest.mark.parametrize(
    ("alpha_bar", "clamped"),
    [(0.001, 1.0), (0.2, 1.0), (0.75, 3.0), (0.99, 5.0)],
    ids=["the noisiest", "below the floor", "between", "above the ceiling"],
)
def test_an_error_in_the_latents_weighs_as_their_clamped_snr(
    root: Path, alpha_bar: float, clamped: float
):
    """In terms of v that is clamp(SNR)/(SNR + 1): an error in v is one of √(1 - ᾱ) in latents."""
    recipe = load_recipe(root / "configs/embedded.toml").unet
    recipe = recipe.model_copy(update={"snr_floor": 1.0, "snr_ceiling": 5.0})
    zeros, one = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)

    weight = measure_loss(one, zeros, zeros, torch.tensor([alpha_bar]), recipe).item()

    assert weight == pytest.approx(clamped * (1 - alpha_bar), rel=1e-4)  # 1/(SNR + 1) is 1 - ᾱ
