"""Single files as people share them: the weights of a diffusers folder under their first names.

The names are made here in the other direction, and in another way, than the program reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

_UNET = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
_UNET_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
)
_VAE = (
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("down_blocks", "down"),
    ("up_blocks", "up"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("downsamplers.0", "downsample"),
    ("upsamplers.0", "upsample"),
    ("resnets", "block"),
    ("group_norm", "norm"),
    ("to_out.0", "proj_out"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
)
_OPEN_CLIP = (
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.token_embedding", "token_embedding"),
    ("encoder.layers", "transformer.resblocks"),
    ("final_layer_norm", "ln_final"),
    ("layer_norm", "ln_"),
    ("self_attn", "attn"),
    ("fc1", "c_fc"),
    ("fc2", "c_proj"),
)
_TEXT_ENCODERS = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "xl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}


def read_parts(folder: Path) -> dict[str, Tensors]:
    """The weights of each part of a diffusers folder, as diffusers names them."""
    files = sorted(folder.glob("*/*.safetensors"))
    return {file.parent.name: load_file(file) for file in files}


def join_parts(family: str, parts: Mapping[str, Tensors]) -> Tensors:
    """All weights of a model in one, under the names of the code it was published with."""
    tensors = {f"model.diffusion_model.{k}": v for k, v in name_unet(parts["unet"]).items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in name_vae(parts["vae"]).items()}
    for part, prefix in zip(
        ("text_encoder", "text_encoder_2"), _TEXT_ENCODERS[family], strict=False
    ):
        if prefix.endswith("transformer."):
            named = {f"text_model.{_unwrap(k)}": v for k, v in parts[part].items()}
        else:
            named = name_open_clip(parts[part])
        tensors |= {prefix + name: tensor for name, tensor in named.items()}
    return tensors


def write_single(
    file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """Write `tensors` to a safetensors file."""
    save_file({name: t.contiguous() for name, t in tensors.items()}, file, metadata)
    return file


def name_unet(weights: Mapping[str, Tensor]) -> Tensors:
    """A UNet's weights as latent-diffusion names them: blocks are counted through all levels."""
    layers = len({k.split(".")[3] for k in weights if k.startswith("down_blocks.0.resnets.")})
    levels = len({k.split(".")[1] for k in weights if k.startswith("down_blocks.")})
    blocks = {"conv_in.": "input_blocks.0.0."}
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        first = level * (layers + 1)
        for layer in range(layers + 1):
            blocks[f"{down}.resnets.{layer}."] = f"input_blocks.{first + layer + 1}.0."
            blocks[f"{down}.attentions.{layer}."] = f"input_blocks.{first + layer + 1}.1."
            blocks[f"{up}.resnets.{layer}."] = f"output_blocks.{first + layer}.0."
            blocks[f"{up}.attentions.{layer}."] = f"output_blocks.{first + layer}.1."
        blocks[f"{down}.downsamplers.0.conv."] = f"input_blocks.{first + layers + 1}.0.op."
        behind = 2 if any(k.startswith(f"{up}.attentions.") for k in weights) else 1
        blocks[f"{up}.upsamplers.0.conv."] = f"output_blocks.{first + layers}.{behind}.conv."
    return {_name_in_unet(name, blocks): tensor for name, tensor in weights.items()}


def name_vae(weights: Mapping[str, Tensor]) -> Tensors:
    """An autoencoder's weights as latent-diffusion names them; its attention is convolutions."""
    levels = len({k.split(".")[2] for k in weights if k.startswith("decoder.up_blocks.")})
    named = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[1] == "up_blocks":
            parts[2] = str(levels - 1 - int(parts[2]))
        if "attentions" in parts and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        named[_replace(".".join(parts), _VAE)] = tensor
    return named


def name_open_clip(weights: Mapping[str, Tensor]) -> Tensors:
    """A text encoder's weights as OpenCLIP names them, with others that nothing reads."""
    named = {}
    for name, tensor in weights.items():
        name = _unwrap(name)
        if ".q_proj." in name:
            rest = [weights[k] for k in (_swap(name, "k", weights), _swap(name, "v", weights))]
            spelt = _replace(name, _OPEN_CLIP).replace("q_proj.", "in_proj_")
            named[spelt] = torch.cat([tensor, *rest])
        elif name == "text_projection.weight":
            named["text_projection"] = tensor.T
        elif ".k_proj." not in name and ".v_proj." not in name:
            named[_replace(name, _OPEN_CLIP)] = tensor
    width = len(named["ln_final.bias"])
    unread = {"logit_scale": torch.tensor(4.6), "text_projection": torch.ones(width, width)}
    return unread | named


def _name_in_unet(name: str, blocks: Mapping[str, str]) -> str:
    inner = _UNET_RESNET if "resnets." in name else ()
    for block, number in blocks.items():
        if name.startswith(block):
            name = number + name.removeprefix(block)
    return _replace(name, (*_UNET, *inner))


def _swap(name: str, letter: str, weights: Mapping[str, Tensor]) -> str:
    """The name of another projection beside the queries'."""
    other = name.replace(".q_proj.", f".{letter}_proj.")
    return other if other in weights else f"text_model.{other}"


def _unwrap(name: str) -> str:
    return name.removeprefix("text_model.")


def _replace(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name
