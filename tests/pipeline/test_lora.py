"""A LoRA's file is known by its names: what can be applied passes, the rest is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.lora import check_lora
from tests.tiny import create_text_encoder, create_tokenizer, create_unet
from tests.tiny_adapters import create_lora, layers_of, write_tensors

KOHYA = "lora_unet_mid_block_attentions_0_proj_in"
DIFFUSERS = "unet.mid_block.attentions.0.proj_in"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "style.safetensors"


def kohya(layer: str = KOHYA, rank: int = 2) -> dict[str, Tensor]:
    return {
        f"{layer}.lora_down.weight": torch.ones(rank, 4),
        f"{layer}.lora_up.weight": torch.ones(4, rank),
    }


def peft(layer: str = DIFFUSERS) -> dict[str, Tensor]:
    return {
        f"{layer}.lora_A.weight": torch.ones(2, 4),
        f"{layer}.lora_B.weight": torch.ones(4, 2),
    }


@pytest.mark.parametrize("naming", ["kohya", "sgm", "peft", "diffusers", "processors"])
def test_every_naming_is_read(file: Path, naming: str) -> None:
    unet, encoder = create_unet(cross_attention_dim=16), create_text_encoder(create_tokenizer())
    tensors = create_lora(naming, unet, [encoder], alpha=lambda path: 2.0)

    lora = check_lora(write_tensors(file, tensors), "style")

    read = {name for pair in lora.pairs.values() for name in (pair.down, pair.up, pair.alpha)}
    assert read == set(tensors)
    if naming != "processors":  # which are of attention alone
        assert len(lora.pairs) == len(layers_of(unet)) + len(layers_of(encoder))


REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "Flux of kohya": (kohya("lora_unet_double_blocks_0_img_attn_proj"), "is for Flux"),
    "Flux of diffusers": (
        peft("transformer.single_transformer_blocks.0.attn.to_q"), "is for Flux .*single_transfor",
    ),
    "Flux of others": (peft("diffusion_model.double_blocks.0.img_attn.qkv"), "is for Flux"),
    "SD3 of kohya": (
        kohya("lora_unet_joint_blocks_0_x_block_attn_proj"), "is for Stable Diffusion 3",
    ),
    "SD3 text encoder": (kohya() | kohya("lora_te3_encoder_block_0"), "is for Stable Diffusion 3"),
    "SD3 of diffusers": (
        peft("transformer.transformer_blocks.0.attn.to_q"), "is for a diffusion transformer",
    ),
    "LoHa": (
        {f"{KOHYA}.hada_w1_a": torch.ones(4, 2)},
        r"no plain LoRA but LoHa \(tensor .*hada_w1_a'\), which",
    ),
    "LoKr": ({f"{KOHYA}.lokr_w1": torch.ones(2, 2)}, "no plain LoRA but LoKr"),
    "LoKr in part": (kohya() | {"lora_unet_x.lokr_w2_a": torch.ones(2, 2)}, "LoRA but LoKr"),
    "DoRA of kohya": (kohya() | {f"{KOHYA}.dora_scale": torch.ones(4, 1)}, "LoRA but DoRA"),
    "DoRA of diffusers": (
        peft() | {f"{DIFFUSERS}.lora_magnitude_vector": torch.ones(4)}, "no plain LoRA but DoRA",
    ),
    "OFT": ({f"{KOHYA}.oft_blocks": torch.ones(2, 2, 2)}, "no plain LoRA but OFT"),
    "IA3": ({f"{KOHYA}.on_input": torch.ones(1)}, "no plain LoRA but IA3"),
    "GLoRA": ({f"{KOHYA}.a1.weight": torch.ones(2, 2)}, "no plain LoRA but GLoRA"),
    "three matrices": (
        kohya() | {f"{KOHYA}.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "LoCon of three matrices",
    ),
    "differences": ({f"{KOHYA}.diff": torch.ones(4, 4)}, "but full differences"),
    "Control-LoRA": ({"lora_controlnet": torch.ones(1)} | kohya(), "LoRA but Control-LoRA"),
    "checkpoint": (
        {"model.diffusion_model.out.2.weight": torch.ones(1)}, "not a LoRA but a checkpoint: name",
    ),
    "UNet": ({"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, "but a checkpoint"),
    "VAE": ({"decoder.conv_in.weight": torch.ones(1)}, "is not a LoRA but a VAE: name it as"),
    "inversion": ({"emb_params": torch.ones(1, 4)}, "but a textual inversion: name it among"),
    "inversion of XL": (
        {"clip_g": torch.ones(1, 4), "clip_l": torch.ones(1, 4)}, "but a textual inversion",
    ),
    "anything": ({"weight": torch.ones(1)}, "is not a LoRA$"),
    "another name": (kohya() | {"bundle_emb.x": torch.ones(1)}, "'bundle_emb.x' is not of a LoRA"),
    "another prefix": (kohya() | kohya("lora_prior_x"), "'lora_prior_x.lora_.*is not of a LoRA"),
    "peft's own": (peft("base_model.model.down_blocks.0.to_q"), "'base_model.* is not of a LoRA"),
    "bias": (peft() | {f"{DIFFUSERS}.lora_B.bias": torch.ones(4)}, "lora_B.bias' is not of a LoRA"),
    "down alone": (
        {f"{KOHYA}.lora_down.weight": torch.ones(2, 4)}, "lora_down.weight' has no up matrix",
    ),
    "up alone": (kohya() | {"unet.x.lora_B.weight": torch.ones(4, 2)}, "has no down matrix"),
    "alpha alone": (kohya() | {"lora_unet_x.alpha": torch.tensor(1.0)}, "x.alpha' has no down mat"),
    "twice": (peft() | {f"{DIFFUSERS}.lora.down.weight": torch.ones(2, 4)}, "say the same"),
    "two ranks": (
        kohya() | {f"{KOHYA}.lora_up.weight": torch.ones(4, 3)}, "have no rank in common",
    ),
    "no rank": (kohya(rank=0), "have no rank in common"),
    "vectors": (
        kohya() | {f"{KOHYA}.lora_up.weight": torch.ones(2)}, r"of shape \(2,\) have no rank",
    ),
    "alphas": (
        kohya() | {f"{KOHYA}.alpha": torch.ones(2)}, r"alpha' has shape \(2,\): must be one num",
    ),
    "alpha of eight bits": (
        kohya() | {f"{KOHYA}.alpha": torch.ones(1).to(torch.float8_e4m3fn)},
        "alpha' is F8_E4M3: must be one of F16, BF16, F32, F64, I32, I64",
    ),
    "integers": (
        kohya() | {f"{KOHYA}.lora_up.weight": torch.ones(4, 2, dtype=torch.int8)},
        "lora_up.weight' is I8: must be one of F16, BF16, F32, F64",
    ),
    "eight bits": (
        kohya() | {f"{KOHYA}.lora_up.weight": torch.ones(4, 2).to(torch.float8_e4m3fn)},
        "is F8_E4M3: must be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_applied_is_refused_by_name(file: Path, case: str) -> None:
    tensors, reason = REFUSED[case]

    with pytest.raises(CheckpointError, match=reason) as caught:
        check_lora(write_tensors(file, tensors), "my style")

    assert str(caught.value).startswith("my style: ")
    assert "\n" not in str(caught.value)
    assert str(file.parent) not in str(caught.value)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("trapped").touch, ()


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt", "pth", "pkl", "PT", "safetensors"])
def test_a_pickle_is_never_opened(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"style.{ending}"
    torch.save({f"{KOHYA}.lora_down.weight": Trap()}, file)

    reason = "pickle" if ending == "safetensors" else "is a pickle.*convert it elsewhere to safeten"
    with pytest.raises(CheckpointError, match=f"^my style: .*{reason}"):
        check_lora(file, "my style")
    assert not Path("trapped").exists()


def test_another_kind_of_file_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^my style: is not a \.safetensors file"):
        check_lora(tmp_path / "style.gguf", "my style")


def test_a_hostile_header_goes_no_further(file: Path) -> None:
    file.write_bytes((2**40).to_bytes(8, "little") + b"{")
    with pytest.raises(CheckpointError, match="my style: has a header of 1099511627776 bytes"):
        check_lora(file, "my style")


def with_config(file: Path, config: Any) -> Path:
    text = config if isinstance(config, str) else json.dumps(config)
    return write_tensors(file, peft(), lora_adapter_metadata=text)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (2.0, False)),
        ({"unet.lora_alpha": 5}, (5.0, False)),
        ({"text_encoder.lora_alpha": 5}, (2.0, False)),
        ({"unet.lora_alpha": 5, "unet.use_rslora": True}, (5.0, True)),
        ({"unet.alpha_pattern": {"proj_in": 7}}, (7.0, False)),
        ({"unet.alpha_pattern": {"roj_in": 7}}, (2.0, False)),
        ({"unet.alpha_pattern": {"proj_in": 7, "attentions.0.proj_in": 8}}, (7.0, False)),
        ({"unet.alpha_pattern": {"^mid_block.attentions.0.proj_in": 9}}, (9.0, False)),
        ({"unet.alpha_pattern": {"^proj_in": 9}}, (2.0, False)),
        # A pattern is a name here, no regular expression: this one would take peft for ever.
        ({"unet.alpha_pattern": {"(((.*)*)*)*!": 9}}, (2.0, False)),
        # Nor is anything else of it used: peft would import this module.
        ({"unet.megatron_config": {"a": 1}, "unet.megatron_core": "antigravity"}, (2.0, False)),
    ],
    ids=str,
)
def test_what_diffusers_noted_of_the_scale_counts(
    file: Path, config: dict[str, Any], expected: tuple[float, bool]
) -> None:
    lora = check_lora(with_config(file, config), "my style")

    assert lora.find_alpha(DIFFUSERS, 2) == expected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"unet.lora_alpha": NaN}', "NaN is not allowed"),
        ('{"unet.lora_alpha": 1e999}', "is too large"),
        ({"unet.lora_alpha": "8"}, "unet.lora_alpha = '8': must be a number"),
        ({"unet.lora_alpha": True}, "unet.lora_alpha = True: must be a number"),
        ({"unet.alpha_pattern": {"proj_in": [1]}}, r"unet.lora_alpha = \[1\]: must be a number"),
        ({"unet.alpha_pattern": ["proj_in"]}, "unet.alpha_pattern is not a table"),
        ({"unet.use_dora": True}, "asks for use_dora, which cannot be applied"),
        ({"text_encoder.fan_in_fan_out": True}, "asks for fan_in_fan_out"),
        ({"text_encoder_2.layer_replication": [[0, 1]]}, "asks for layer_replication"),
    ],
    ids=str,
)
def test_what_diffusers_cannot_have_noted_is_refused(file: Path, config: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"^my style: lora_adapter_metadata: .*{reason}"):
        check_lora(with_config(file, config), "my style")
