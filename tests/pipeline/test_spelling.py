"""Names of weights: at the published sizes they are those that diffusers' own converters read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.families import LAYOUTS
from pipeline.spelling import (
    Place,
    Spelling,
    spell_clip,
    spell_open_clip,
    spell_plainly,
    spell_unet,
    spell_vae,
)
from tests.tiny_single import join_parts


def read(family: str, part: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((LAYOUTS / family / part / "config.json").read_text())
    return values


def create(family: str) -> dict[str, nn.Module]:
    """The parts of a family at their published sizes, their weights on no device."""
    import diffusers
    import transformers

    index = json.loads((LAYOUTS / family / "model_index.json").read_text())
    parts: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for part, pair in index.items():
            if not (LAYOUTS / family / part / "config.json").exists():
                continue
            if pair[0] == "diffusers":
                parts[part] = getattr(diffusers, pair[1]).from_config(read(family, part))
            else:
                kind = getattr(transformers, pair[1])
                parts[part] = kind(transformers.CLIPTextConfig(**read(family, part)))
    return parts


@pytest.fixture(scope="module", params=["sd1", "sd2", "xl"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def parts(family: str) -> dict[str, nn.Module]:
    return create(family)


@pytest.fixture(scope="module")
def file(family: str, parts: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """A single file of the published sizes, with nothing in it."""
    return join_parts(family, {part: module.state_dict() for part, module in parts.items()})


def spellings(family: str) -> dict[str, Spelling]:
    stage = "conditioner.embedders.0" if family == "xl" else "cond_stage_model"
    found = {
        "unet": spell_unet("model.diffusion_model.", [2] * (3 if family == "xl" else 4)),
        "vae": spell_vae("first_stage_model.", 4),
        "text_encoder": spell_clip(f"{stage}.transformer."),
        "text_encoder_2": spell_open_clip("conditioner.embedders.1.model."),
    }
    if family == "sd2":
        found["text_encoder"] = spell_open_clip("cond_stage_model.model.")
    return found


def test_the_published_sizes_are_those_of_the_published_weights(
    family: str, parts: dict[str, nn.Module]
) -> None:
    """Weights of each part, as the model cards and papers count them."""
    clip_l, vae = 123_060_480, 83_653_863
    counts = {
        "sd1": {"unet": 859_520_964, "vae": vae, "text_encoder": clip_l},
        "sd2": {"unet": 865_910_724, "vae": vae, "text_encoder": 340_387_840},
        "xl": {
            "unet": 2_567_463_684,
            "vae": vae,
            "text_encoder": clip_l,
            "text_encoder_2": 694_659_840,
        },
    }
    found = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    assert found == counts[family]


def test_diffusers_takes_the_file_for_what_it_is(
    family: str, file: dict[str, torch.Tensor]
) -> None:
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    assert infer_diffusers_model_type(file) == {"sd1": "v1", "sd2": "v2", "xl": "xl_base"}[family]


def test_every_weight_is_found_in_its_shape(
    family: str, parts: dict[str, nn.Module], file: dict[str, torch.Tensor]
) -> None:
    used = set()
    for part, module in parts.items():
        for name, weight in module.state_dict().items():
            place = next(p for p in spellings(family)[part](name) if p.name in file)
            assert place.cut(file[place.name]).squeeze().shape == weight.squeeze().shape
            assert place.outer_shape(tuple(weight.shape)) == file[place.name].shape[: weight.ndim]
            used.add(place.name)

    left = {name.rpartition(".")[2] for name in set(file) - used}
    assert left <= {"logit_scale", "text_projection"}


def test_diffusers_converters_find_the_same(
    family: str, parts: dict[str, nn.Module], file: dict[str, torch.Tensor]
) -> None:
    """Which tensor becomes which weight: each tensor here is one, so that it can be told."""
    from diffusers.loaders import single_file_utils as utils

    found = {
        "unet": utils.convert_ldm_unet_checkpoint(file, read(family, "unet")),
        "vae": utils.convert_ldm_vae_checkpoint(file, read(family, "vae")),
    }
    if family == "sd2":
        found["text_encoder"] = utils.convert_open_clip_checkpoint(parts["text_encoder"], file)
    else:
        found["text_encoder"] = utils.convert_ldm_clip_checkpoint(file)
    if family == "xl":
        encoder, prefix = parts["text_encoder_2"], "conditioner.embedders.1.model."
        found["text_encoder_2"] = utils.convert_open_clip_checkpoint(encoder, file, prefix)
    for part, tensors in found.items():
        by_name = {name.removeprefix("text_model."): t for name, t in tensors.items()}
        for name in parts[part].state_dict():
            place = next(p for p in spellings(family)[part](name) if p.name in file)
            theirs = by_name[name.removeprefix("text_model.")]
            is_whole = theirs.shape == file[place.name].shape and not place.is_turned
            assert not is_whole or theirs is file[place.name], name


@pytest.mark.parametrize(
    ("spelling", "path", "names"),
    [
        (
            spell_unet("", [1, 2, 3]),
            "down_blocks.1.resnets.1.conv_shortcut.weight",
            ["input_blocks.4.0.skip_connection.weight"],
        ),
        (
            spell_unet("", [1, 2, 3]),
            "up_blocks.1.upsamplers.0.conv.bias",
            ["output_blocks.6.2.conv.bias", "output_blocks.6.1.conv.bias"],
        ),
        (
            spell_vae("", 3),
            "decoder.up_blocks.0.resnets.2.conv_shortcut.bias",
            ["decoder.up.2.block.2.nin_shortcut.bias"],
        ),
        (
            spell_vae("", 3),
            "encoder.mid_block.attentions.0.to_out.0.weight",
            ["encoder.mid.attn_1.proj_out.weight", "encoder.mid.attn_1.to_out.0.weight"],
        ),
        (
            spell_plainly,
            "encoder.mid_block.attentions.0.to_out.0.weight",
            [
                "encoder.mid_block.attentions.0.to_out.0.weight",
                "encoder.mid_block.attentions.0.proj_attn.weight",
            ],
        ),
        (
            spell_clip("c."),
            "text_model.final_layer_norm.bias",
            ["c.text_model.final_layer_norm.bias", "c.final_layer_norm.bias"],
        ),
    ],
)
def test_names_by_hand(spelling: Spelling, path: str, names: list[str]) -> None:
    assert spelling(path) == tuple(Place(name) for name in names)


def test_open_clip_keeps_three_projections_in_one_tensor_and_the_last_one_turned() -> None:
    spell = spell_open_clip("c.")
    stacked = torch.arange(12.0).reshape(6, 2)

    (place,) = spell("encoder.layers.3.self_attn.k_proj.weight")
    assert place == Place("c.transformer.resblocks.3.attn.in_proj_weight", third=1)
    assert place.outer_shape((2, 2)) == (6, 2)
    assert torch.equal(place.cut(stacked), stacked[2:4])

    (place,) = spell("text_projection.weight")
    assert place == Place("c.text_projection", is_turned=True)
    assert place.outer_shape((2, 6)) == (6, 2)
    assert torch.equal(place.cut(stacked), stacked.T)


def test_the_layouts_are_small() -> None:
    assert sum(file.stat().st_size for file in Path(LAYOUTS).rglob("*") if file.is_file()) < 2e6
