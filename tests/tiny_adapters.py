"""Tiny LoRAs and textual inversions, named as the trainers of the real ones name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Alphas = Callable[[str], float | None]

_SGM_LAYERS = {
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
_SGM_OUTER = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_1": "time_embed_0",
    "time_embedding.linear_2": "time_embed_2",
    "add_embedding.linear_1": "label_emb_0_0",
    "add_embedding.linear_2": "label_emb_0_2",
}


def write_tensors(file: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    """Write a safetensors file."""
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, file, metadata or None)
    return file


def layers_of(root: nn.Module) -> dict[str, nn.Module]:
    """What a LoRA can be for, by path."""
    return {p: m for p, m in root.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def create_lora(
    naming: str,
    unet: nn.Module,
    text_encoders: Sequence[nn.Module] = (),
    *,
    rank: Callable[[str], int] = lambda path: 3,
    alpha: Alphas = lambda path: None,
    only: str = "",
    seed: int = 0,
) -> dict[str, Tensor]:
    """A LoRA of random matrices for every layer whose path contains `only`.

    `naming` is "kohya", "sgm" (kohya's for XL), "peft" (diffusers today), "diffusers" (before) or
    "processors" (long before, for attention alone).
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for index, root in enumerate([unet, *text_encoders]):
        for path, layer in layers_of(root).items():
            if only not in path or (naming == "processors" and not _is_attention(path)):
                continue
            size, r = layer.weight.shape, rank(path)
            name = name_layer(naming, index, path, unet, len(text_encoders))
            down, up = _ends(naming, index, path)
            tensors[name + down] = torch.randn(r, *size[1:], generator=generator) / 8
            tensors[name + up] = (
                torch.randn(size[0], r, *[1] * len(size[2:]), generator=generator) / 8
            )
            if (scale := alpha(path)) is not None:
                tensors[f"{name}.alpha"] = torch.tensor(scale)
    return tensors


def name_layer(naming: str, index: int, path: str, unet: Any, encoders: int) -> str:
    """What `naming` calls the layer at `path` of the UNet (0) or of a text encoder (1, 2)."""
    if index > 0 and path != "text_projection":
        path = f"text_model.{path.removeprefix('text_model.')}"
    if naming == "sgm" and index == 0:
        return f"lora_unet_{name_sgm(path, unet.config.layers_per_block)}"
    if naming in {"kohya", "sgm"}:
        part = "unet" if index == 0 else f"te{index if encoders > 1 else ''}"
        return f"lora_{part}_{path}".replace(".", "_")
    if naming == "processors":
        path = re.sub(r"\.(attn[12])\.", r".\1.processor.", path).removesuffix(".0")
        path = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", path)
    return f"{['unet', 'text_encoder', 'text_encoder_2'][index]}.{path}"


def _ends(naming: str, index: int, path: str) -> tuple[str, str]:
    """How the names of the two matrices end."""
    match naming:
        case "kohya" | "sgm":
            return ".lora_down.weight", ".lora_up.weight"
        case "peft":
            return ".lora_A.weight", ".lora_B.weight"
        case "processors":
            return "_lora.down.weight", "_lora.up.weight"
    middle = "lora" if index == 0 or path == "text_projection" else "lora_linear_layer"
    return f".{middle}.down.weight", f".{middle}.up.weight"


def _is_attention(path: str) -> bool:
    return path.endswith(("to_q", "to_k", "to_v", "to_out.0", "_proj")) and "attn" in path


def name_sgm(path: str, layers_per_block: int) -> str:
    """A UNet layer's name in the code that XL was published with, which kohya trains."""
    if outer := _SGM_OUTER.get(path):
        return outer
    level = layers_per_block + 1
    match path.split("."):
        case ["mid_block", "attentions", _, *rest]:
            return "_".join(["middle_block_1", *rest])
        case ["mid_block", "resnets", i, layer]:
            return f"middle_block_{2 * int(i)}_{_SGM_LAYERS[layer]}"
        case ["down_blocks", n, "downsamplers", *_]:
            return f"input_blocks_{level * (int(n) + 1)}_0_op"
        case ["down_blocks", n, "resnets", i, layer]:
            return f"input_blocks_{level * int(n) + int(i) + 1}_0_{_SGM_LAYERS[layer]}"
        case ["down_blocks", n, "attentions", i, *rest]:
            return "_".join([f"input_blocks_{level * int(n) + int(i) + 1}_1", *rest])
        case ["up_blocks", n, "upsamplers", *_]:
            return f"output_blocks_{level * int(n) + layers_per_block}_2_conv"
        case ["up_blocks", n, "resnets", i, layer]:
            return f"output_blocks_{level * int(n) + int(i)}_0_{_SGM_LAYERS[layer]}"
        case ["up_blocks", n, "attentions", i, *rest]:
            return "_".join([f"output_blocks_{level * int(n) + int(i)}_1", *rest])
    raise ValueError(path)
