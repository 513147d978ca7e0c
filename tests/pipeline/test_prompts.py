"""Text becomes embeds as in the stock pipeline, and no word of a long prompt is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import SpecError
from pipeline.model import Model, load_model
from pipeline.prompts import pad_embeds
from pipeline.spec import ModelSpec
from pipeline.weighting import parse_weights


def window(model: Model) -> int:
    """How many tokens the model's encoder reads at once."""
    return model.text.encoders[0].room + 2


def test_a_short_prompt_is_one_window(tiny: Model):
    embeds = tiny.text.encode("a red apple").embeds

    assert embeds.shape == (1, window(tiny), tiny.text.encoders[0].encoder.config.hidden_size)


def test_a_prompt_that_just_fits_is_not_split(tiny: Model):
    room = window(tiny) - 2

    assert tiny.text.encode(" ".join(["apple"] * room)).embeds.shape[1] == window(tiny)
    assert tiny.text.encode(" ".join(["apple"] * (room + 1))).embeds.shape[1] == 2 * window(tiny)


def test_the_last_word_of_a_long_prompt_still_counts(tiny: Model):
    words = ["apple"] * 100

    assert not torch.equal(
        tiny.text.encode(" ".join([*words, "red"])).embeds,
        tiny.text.encode(" ".join([*words, "pear"])).embeds,
    )


def test_a_window_of_a_long_prompt_is_what_it_would_be_alone(tiny: Model):
    room = window(tiny) - 2
    first, second = ["apple"] * room, ["pear", "table"]

    embeds = tiny.text.encode(" ".join([*first, *second])).embeds

    assert torch.equal(embeds[:, window(tiny) :], tiny.text.encode(" ".join(second)).embeds)


def test_a_window_ends_behind_a_comma_if_one_is_near(tiny: Model):
    room = window(tiny) - 2
    first = " ".join(["apple"] * (room - 3)) + ","
    rest = "pear table pear table"

    embeds = tiny.text.encode(f"{first} {rest}").embeds

    assert torch.equal(embeds[:, : window(tiny)], tiny.text.encode(first).embeds)
    assert torch.equal(embeds[:, window(tiny) :], tiny.text.encode(rest).embeds)


def test_break_starts_a_window(tiny: Model):
    embeds = tiny.text.encode("a red apple BREAK a pear").embeds

    apart = [tiny.text.encode(text).embeds for text in ("a red apple", "a pear")]
    assert torch.equal(embeds, torch.cat(apart, 1))


def test_a_weight_scales_its_tokens_and_the_mean_is_given_back(tiny: Model):
    """AUTOMATIC1111's rule, written out: start, a, red, apple, end, padding."""
    plain = tiny.text.encode("a red apple").embeds
    (tokens,) = tiny.text.encoders[0].split(parse_weights("a (red:1.5) apple"))
    assert [weight for _, weight in tokens] == [1, *[1.5] * (len(tokens) - 2), 1]

    scale = torch.ones(window(tiny), 1)
    scale[2 : len(tokens)] = 1.5
    expected = plain * scale
    expected *= plain.mean() / expected.mean()

    assert torch.equal(tiny.text.encode("a (red:1.5) apple").embeds, expected)


def test_a_plain_prompt_is_read_as_it_stands(tiny: Model):
    weighted = tiny.text.encode("a (red:1.5) apple").embeds
    literally = tiny.text.encode("a (red:1.5) apple", plain=True).embeds
    escaped = tiny.text.encode(r"a \(red:1.5\) apple").embeds

    assert torch.equal(literally, escaped)
    assert not torch.equal(literally, weighted)


def test_brackets_without_a_weight_of_their_own_change_nothing_else(tiny: Model):
    assert torch.equal(
        tiny.text.encode("a ([red]) apple").embeds, tiny.text.encode("a red apple").embeds
    )


def test_words_that_were_taught_are_read_whole_and_nowhere_else(tiny: Model):
    taught = replace(tiny.text, words={"cat": "red pear", "<toy>": "apple table"})

    def same(prompt: str, spelled: str) -> bool:
        return torch.equal(taught.encode(prompt).embeds, tiny.text.encode(spelled).embeds)

    assert same("a cat, (Cat:1.2) concat", "a red pear, (red pear:1.2) concat")
    assert same("a<toy>!", "aapple table!")


def test_both_encoders_of_xl_stand_side_by_side(tiny_xl: Model):
    prompt = tiny_xl.text.encode("a red apple")

    widths = [e.encoder.config.hidden_size for e in tiny_xl.text.encoders]
    assert prompt.embeds.shape == (1, window(tiny_xl), sum(widths))
    assert prompt.pooled is not None
    assert prompt.pooled.shape == (1, tiny_xl.text.encoders[1].encoder.config.projection_dim)


def test_the_pooled_vector_is_the_first_windows(tiny_xl: Model):
    first = tiny_xl.text.encode("a red apple").pooled
    both = tiny_xl.text.encode("a red apple BREAK a green pear").pooled

    assert first is not None
    assert both is not None
    assert torch.equal(first, both)


def test_layers_that_are_skipped_are_normalised_after_in_sd(tiny_folder: Path):
    """Written out, as diffusers means it: its own line fails under transformers 5."""
    skipped = load_model(ModelSpec(source=str(tiny_folder), device="cpu", clip_skip=1))
    encoder = skipped.text.encoders[0]
    ids = encoder.tokenizer("a red apple", padding="max_length", return_tensors="pt").input_ids

    states = encoder.encoder(ids, output_hidden_states=True).hidden_states
    expected = encoder.encoder.final_layer_norm(states[-2])

    assert torch.equal(skipped.text.encode("a red apple").embeds, expected)


def test_more_layers_than_there_are_cannot_be_skipped(tiny_folder: Path, tiny_xl_folder: Path):
    for folder, most in ((tiny_folder, 1), (tiny_xl_folder, 1)):
        with pytest.raises(SpecError, match=f"clip_skip = 2: must be between 0 and {most}"):
            load_model(ModelSpec(source=str(folder), device="cpu", clip_skip=2))


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
        assert embedded.text.encode(prompt).embeds.isfinite().all()


def test_padding_repeats_the_empty_prompt(tiny_xl: Model):
    empty, prompt = tiny_xl.empty_embeds, tiny_xl.text.encode("a red apple")

    padded = pad_embeds(prompt, empty, 3 * window(tiny_xl))

    assert torch.equal(padded.embeds, torch.cat([prompt.embeds, empty.embeds, empty.embeds], 1))
    assert padded.pooled is prompt.pooled
    assert torch.equal(pad_embeds(prompt, empty, window(tiny_xl)).embeds, prompt.embeds)
