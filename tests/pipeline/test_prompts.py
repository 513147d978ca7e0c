"""Text becomes embeds as in the stock pipeline, and no word of a long prompt is lost."""

from __future__ import annotations

import torch

from pipeline.model import Model
from pipeline.prompts import pad_embeds


def test_a_short_prompt_is_one_window(tiny: Model):
    embeds = tiny.text.encode("a red apple")

    assert embeds.shape == (1, tiny.text.window, tiny.text.encoder.config.hidden_size)


def test_a_prompt_that_just_fits_is_not_split(tiny: Model):
    room = tiny.text.window - 2

    assert tiny.text.encode(" ".join(["apple"] * room)).shape[1] == tiny.text.window
    assert tiny.text.encode(" ".join(["apple"] * (room + 1))).shape[1] == 2 * tiny.text.window


def test_the_last_word_of_a_long_prompt_still_counts(tiny: Model):
    words = ["apple"] * 100

    assert not torch.equal(
        tiny.text.encode(" ".join([*words, "red"])), tiny.text.encode(" ".join([*words, "pear"]))
    )


def test_a_window_of_a_long_prompt_is_what_it_would_be_alone(tiny: Model):
    room = tiny.text.window - 2
    first, second = ["apple"] * room, ["pear", "table"]

    embeds = tiny.text.encode(" ".join([*first, *second]))

    assert torch.equal(embeds[:, tiny.text.window :], tiny.text.encode(" ".join(second)))


def test_any_text_can_be_read(embedded: Model):
    for prompt in [
        "",
        " ",
        "\n",
        "日本語",
        "naïve café",
        "👩‍🚀",
        "a" * 5000,
        "<|endoftext|> x",
        "\x00",
    ]:
        assert embedded.text.encode(prompt).isfinite().all()


def test_padding_repeats_the_empty_prompt(tiny: Model):
    empty, embeds = tiny.empty_embeds, tiny.text.encode("a red apple")

    padded = pad_embeds(embeds, empty, 3 * tiny.text.window)

    assert torch.equal(padded, torch.cat([embeds, empty, empty], 1))
    assert pad_embeds(embeds, empty, tiny.text.window) is not None
