"""Kinds of files: the families are told apart, and every mistake is answered in one line."""

from __future__ import annotations

import time

import pytest

from pipeline.errors import CheckpointError
from pipeline.families import FAMILIES, find_prediction_type, is_rescaled, recognise
from pipeline.headers import TensorInfo

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"


def header(names: dict[str, tuple[int, ...]], dtype: str = "F16") -> dict[str, TensorInfo]:
    return {name: TensorInfo(dtype, shape, 0, 0) for name, shape in names.items()}


def whole(family: str, channels: int = 4) -> dict[str, tuple[int, ...]]:
    """The names that tell a family, a few of each part."""
    text = {
        "sd1": {"cond_stage_model.transformer.text_model.final_layer_norm.bias": (768,)},
        "sd2": {"cond_stage_model.model.ln_final.bias": (1024,)},
        "xl": {
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (768,),
            "conditioner.embedders.1.model.ln_final.bias": (1280,),
            f"{UNET}label_emb.0.0.weight": (1280, 2816),
        },
    }
    return {
        FIRST: (320, channels, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        **text[family],
    }


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_families_are_told_apart(family: object) -> None:
    assert recognise(header(whole(family.name))) is family  # type: ignore[attr-defined]


def test_what_is_not_read_may_be_of_any_type() -> None:
    tensors = header(whole("sd1"))
    tensors |= header({"model_ema.num_updates": (), "alphas_cumprod": (1000,)}, "I32")
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    tensors |= header({positions: (1, 77)}, "I64")

    assert recognise(tensors).name == "sd1"


@pytest.mark.parametrize("name", list(whole("sd1")))
def test_weights_of_eight_bits_are_refused_by_name(name: str) -> None:
    tensors = header(whole("sd1"))
    tensors |= header({name: whole("sd1")[name]}, "F8_E4M3")

    with pytest.raises(CheckpointError, match=f"tensor '{name}' is F8_E4M3: must be one of F16"):
        recognise(tensors)


LORA = "is a LoRA: name it among the loras"
EMBEDDING = "is a textual inversion: name it among the embeddings"
VAE = "is a VAE alone: name it as the vae"
NETWORK = "is a UNet alone: bring a whole checkpoint"
CONTROL = "is a ControlNet, which this program does not use"
XL_LAYER = "input_blocks_4_1_transformer_blocks_0_attn1_to_q"

MISTAKES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "LoRA of kohya": ({"lora_unet_mid_block_x.lora_down.weight": (4, 320)}, LORA),
    "LoRA of kohya for XL": ({f"lora_unet_{XL_LAYER}.alpha": ()}, LORA),
    "LoRA of kohya for text": ({"lora_te1_text_model_x.lora_up.weight": (768, 4)}, LORA),
    "LoRA of peft": ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": (4, 320)}, LORA),
    "LoRA of diffusers": ({"unet.mid_block.x.to_q.lora.down.weight": (4, 320)}, LORA),
    "LoRA of old diffusers": ({"mid_block.x.processor.to_q_lora.up.weight": (320, 4)}, LORA),
    "LoHa": ({"lora_unet_mid_block_x.hada_w1_a": (320, 4)}, LORA),
    "LoKr": ({"lycoris_mid_block_x.lokr_w1": (4, 4)}, LORA),
    "textual inversion": ({"emb_params": (4, 768)}, EMBEDDING),
    "textual inversion for XL": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, EMBEDDING),
    "textual inversion of diffusers": ({"<cat-toy>": (768,)}, EMBEDDING),
    "VAE": ({"decoder.conv_in.weight": (512, 4, 3, 3)}, VAE),
    "VAE under its name": ({"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)}, VAE),
    "VAE of diffusers": ({"encoder.mid_block.resnets.0.norm1.weight": (512,)}, VAE),
    "tiny VAE": ({"decoder.layers.0.weight": (64, 4, 3, 3)}, VAE),
    "UNet of diffusers": ({"conv_in.weight": (320, 4, 3, 3), "up_blocks.0.x": (1,)}, NETWORK),
    "UNet": ({"input_blocks.0.0.weight": (320, 4, 3, 3)}, NETWORK),
    "UNet of ComfyUI": ({"diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, NETWORK),
    "text encoder": (
        {"text_model.embeddings.token_embedding.weight": (49408, 768)},
        "is a text encoder alone",
    ),
    "text encoder of OpenCLIP": (
        {"transformer.resblocks.0.ln_1.weight": (1024,)},
        "is a text encoder alone",
    ),
    "ControlNet": ({"control_model.time_embed.0.weight": (1280, 320)}, CONTROL),
    "ControlNet of diffusers": (
        {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "conv_in.weight": (1,)},
        CONTROL,
    ),
    "ControlNet, pruned": ({"input_hint_block.0.weight": (16, 3, 3, 3)}, CONTROL),
    "Control-LoRA": ({"lora_controlnet": (), "input_blocks.0.0.up": (1,)}, CONTROL),
    "IP-Adapter": ({"image_proj.proj.weight": (1, 1), "ip_adapter.1.x": (1,)}, "is an IP-Adapter"),
    "T2I-Adapter": ({"adapter.body.0.in_conv.weight": (1, 1)}, "is a T2I-Adapter"),
    "refiner": (
        {**whole("sd1"), "conditioner.embedders.0.model.ln_final.bias": (1280,)},
        "is the refiner of Stable Diffusion XL, which does not make pictures of its own",
    ),
    "inpainting": (whole("sd1", 9), "is an inpainting model (its network takes 9 channels, not 4)"),
    "inpainting of XL": (whole("xl", 9), "is an inpainting model"),
    "depth": (whole("sd2", 5), "is a depth model"),
    "InstructPix2Pix": (whole("sd1", 8), "is an InstructPix2Pix or of its kin"),
    "upscaler": (whole("sd2", 7), "is an upscaler"),
    "of 16 channels": (whole("sd1", 16), "is no text-to-image model (its network takes 16"),
    "a first layer without a shape": ({**whole("sd1"), FIRST: ()}, "is no text-to-image model"),
    "unCLIP": (
        {**whole("sd2"), f"{UNET}label_emb.0.0.weight": (1280, 2048)},
        "takes images for prompts (unCLIP)",
    ),
    "Image Variations": (
        {**whole("sd1"), "cond_stage_model.model.visual.proj": (1024, 768)},
        "takes images for prompts",
    ),
    "Stable Video Diffusion": (
        {FIRST: (320, 8, 3, 3), f"{UNET}input_blocks.1.0.time_stack.x": (1,)},
        "makes videos",
    ),
    "AnimateDiff": ({"down_blocks.0.motion_modules.0.x": (1,)}, "makes videos"),
    "Playground 2.5": ({**whole("xl"), "edm_mean": (1, 4, 1, 1)}, "noise schedule of EDM"),
    "CosXL": ({**whole("xl"), "edm_vpred.sigma_max": ()}, "noise schedule of EDM"),
    "Stable Diffusion 3": (
        {f"{UNET}joint_blocks.0.x": (1,), "text_encoders.clip_l.x": (1,)},
        "is a Stable Diffusion 3",
    ),
    "Stable Diffusion 3 alone": ({"joint_blocks.0.x": (1,)}, "is a Stable Diffusion 3"),
    "Flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "is a Flux or of its kin"),
    "Flux in a checkpoint": ({f"{UNET}single_blocks.0.x": (1,)}, "is a Flux or of its kin"),
    "another transformer": ({f"{UNET}blocks.0.attn.qkv.weight": (1,)}, "of another architecture"),
    "a transformer of diffusers": ({"transformer_blocks.0.x": (1,)}, "of another architecture"),
    "parts of diffusers in one": ({"unet.conv_in.weight": (1,)}, "holds the parts of diffusers"),
    "a language model": (
        {"model.embed_tokens.weight": (1, 1), "lm_head.weight": (1, 1)},
        "holds no Stable Diffusion: has a tensor 'lm_head.weight'",
    ),
    "no VAE": (
        {k: v for k, v in whole("sd1").items() if not k.startswith("first")},
        "has no VAE (first_stage_model) in it",
    ),
    "no text encoder": (
        {k: v for k, v in whole("sd1").items() if not k.startswith("cond")},
        "has no text encoder of Stable Diffusion 1, 2 or XL in it",
    ),
    "half of the text encoders": (
        {k: v for k, v in whole("xl").items() if "embedders.1" not in k},
        "has no text encoder of Stable Diffusion 1, 2 or XL in it",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_answered_in_one_line(kind: str) -> None:
    names, line = MISTAKES[kind]

    with pytest.raises(CheckpointError) as caught:
        recognise(header(names))

    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_many_strange_names_is_refused_soon() -> None:
    """As many as a header may hold; with regular expressions over each it took many seconds."""
    tensors = header({f"{'blocks.' * 40}{i}": (1,) for i in range(20_000)})
    begin = time.process_time()

    with pytest.raises(CheckpointError, match="holds no Stable Diffusion"):
        recognise(tensors)

    assert time.process_time() - begin < 2  # 0.3 s on an idle machine


@pytest.mark.parametrize(
    ("names", "metadata", "found"),
    [
        ([], {}, None),
        ([], {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ([], {"modelspec.prediction_type": "v"}, "v_prediction"),
        ([], {"modelspec.prediction_type": "v_prediction"}, "v_prediction"),
        (["v_pred"], {}, "v_prediction"),
        (["v_pred", "ztsnr"], {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        (["ztsnr"], {"modelspec.title": "v"}, None),
    ],
)
def test_a_file_may_say_what_it_predicts(
    names: list[str], metadata: dict[str, str], found: str | None
) -> None:
    assert find_prediction_type(names, metadata) == found
    assert is_rescaled(names) is ("ztsnr" in names)


def test_what_a_file_says_must_be_known() -> None:
    with pytest.raises(CheckpointError, match="prediction_type 'flow' in its metadata: must be"):
        find_prediction_type([], {"modelspec.prediction_type": "flow"})
