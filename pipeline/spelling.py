"""How single files spell the names of weights that diffusers spells otherwise.

Knows names and shapes; knows no file, no model and no tensor's content. The spellings are those of
the code that the checkpoints were published with: latent-diffusion, generative-models, OpenCLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a weight stands: a whole tensor, or one `third` of its rows, or the tensor turned."""

    name: str
    third: int | None = None
    is_turned: bool = False

    def outer_shape(self, shape: Shape) -> Shape:
        """The shape of the tensor in which a weight of `shape` stands."""
        if self.third is not None:
            return 3 * shape[0], *shape[1:]
        return shape[::-1] if self.is_turned else shape

    def cut(self, tensor: Tensor) -> Tensor:
        """The weight itself, out of the tensor."""
        if self.third is not None:
            return tensor.chunk(3)[self.third]
        return tensor.T if self.is_turned else tensor


Spelling = Callable[[str], tuple[Place, ...]]
"""From diffusers' name of a weight to the places where it may stand, the usual one first."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def spell_unet(prefix: str, layers: Sequence[int]) -> Spelling:
    """A UNet's weights; latent-diffusion counts its blocks through all levels of `layers` each."""
    downs = list(accumulate((count + 1 for count in layers), initial=0))
    ups = list(accumulate((count + 1 for count in reversed(layers)), initial=0))

    def spell(path: str) -> tuple[Place, ...]:
        layer, _, end = path.rpartition(".")
        match layer.split("."):
            case ["down_blocks", n, "resnets", i, name]:
                spelt = [f"input_blocks.{downs[int(n)] + int(i) + 1}.0.{_RESNET.get(name, name)}"]
            case ["down_blocks", n, "attentions", i, *rest]:
                spelt = [".".join([f"input_blocks.{downs[int(n)] + int(i) + 1}.1", *rest])]
            case ["down_blocks", n, "downsamplers", *_]:
                spelt = [f"input_blocks.{downs[int(n) + 1]}.0.op"]
            case ["mid_block", "resnets", i, name]:
                spelt = [f"middle_block.{2 * int(i)}.{_RESNET.get(name, name)}"]
            case ["mid_block", "attentions", _, *rest]:
                spelt = [".".join(["middle_block.1", *rest])]
            case ["up_blocks", n, "resnets", i, name]:
                spelt = [f"output_blocks.{ups[int(n)] + int(i)}.0.{_RESNET.get(name, name)}"]
            case ["up_blocks", n, "attentions", i, *rest]:
                spelt = [".".join([f"output_blocks.{ups[int(n)] + int(i)}.1", *rest])]
            case ["up_blocks", n, "upsamplers", *_]:  # behind the attention, where there is one
                spelt = [f"output_blocks.{ups[int(n) + 1] - 1}.{place}.conv" for place in (2, 1)]
            case _:
                spelt = [_OUTER.get(layer, layer)]
        return tuple(Place(f"{prefix}{name}.{end}") for name in spelt)

    return spell


def spell_vae(prefix: str, levels: int) -> Spelling:
    """An autoencoder's weights, as latent-diffusion names them: its decoder from the last level."""

    def spell(path: str) -> tuple[Place, ...]:
        layer, _, end = path.rpartition(".")
        match layer.split("."):
            case ["encoder", "down_blocks", n, "resnets", i, name]:
                spelt = [f"encoder.down.{n}.block.{i}.{_shortcut(name)}"]
            case ["encoder", "down_blocks", n, *_]:
                spelt = [f"encoder.down.{n}.downsample.conv"]
            case ["decoder", "up_blocks", n, "resnets", i, name]:
                spelt = [f"decoder.up.{levels - 1 - int(n)}.block.{i}.{_shortcut(name)}"]
            case ["decoder", "up_blocks", n, *_]:
                spelt = [f"decoder.up.{levels - 1 - int(n)}.upsample.conv"]
            case [side, "mid_block", "resnets", i, name]:
                spelt = [f"{side}.mid.block_{int(i) + 1}.{name}"]
            case [side, "mid_block", "attentions", _, *rest]:
                name = ".".join(rest)
                spelt = [
                    f"{side}.mid.attn_1.{_ATTENTION.get(name, name)}",
                    f"{side}.mid.attn_1.{name}",
                ]
            case _:
                spelt = [layer.replace("conv_norm_out", "norm_out")]
        return tuple(Place(f"{prefix}{name}.{end}") for name in spelt)

    return spell


def spell_plainly(path: str) -> tuple[Place, ...]:
    """Weights as diffusers names them, and its autoencoders' attention as it was named before."""
    for new, old in _OLD_ATTENTION.items():
        if f".attentions.0.{new}." in path:
            return Place(path), Place(path.replace(new, old))
    return (Place(path),)


def spell_clip(prefix: str) -> Spelling:
    """A text encoder's weights as transformers names them, with its wrapper or without."""

    def spell(path: str) -> tuple[Place, ...]:
        path = path.removeprefix("text_model.")
        return Place(f"{prefix}text_model.{path}"), Place(f"{prefix}{path}")

    return spell


def spell_open_clip(prefix: str) -> Spelling:
    """A text encoder's weights as OpenCLIP names them: queries, keys and values in one tensor."""

    def spell(path: str) -> tuple[Place, ...]:
        path = path.removeprefix("text_model.")
        if path == "text_projection.weight":
            return (Place(f"{prefix}text_projection", is_turned=True),)
        layer, _, end = path.rpartition(".")
        match layer.split("."):
            case ["encoder", "layers", i, "self_attn", ("q_proj" | "k_proj" | "v_proj") as which]:
                stack = f"{prefix}transformer.resblocks.{i}.attn.in_proj_{end}"
                return (Place(stack, third="qkv".index(which[0])),)
            case ["encoder", "layers", i, *rest]:
                name = ".".join(rest)
                spelt = _OPEN_CLIP_LAYER.get(name, name)
                return (Place(f"{prefix}transformer.resblocks.{i}.{spelt}.{end}"),)
        return (Place(prefix + _OPEN_CLIP.get(path, path)),)

    return spell


def _shortcut(name: str) -> str:
    return name.replace("conv_shortcut", "nin_shortcut")
