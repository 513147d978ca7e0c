"""What one forward of a network costs: operations and bytes, from shapes alone.

Knows modules on the meta device, so that nothing is computed and no weights are needed. Knows no
clock: seconds and the memory of a device are `cost_measured`'s.

What is counted. FLOPs: two for each multiplication with its addition in convolutions, matrix
products and attention (the projections around attention are matrix products, or convolutions where
they are 1 × 1, as in Stable Diffusion 1). Norms, activations and the softmax count as none.
Bytes of weights: the parameters'. Bytes of activations: the most that is alive at once in an eager
forward, of all that the operations return; attention is one fused operation, which never holds its
matrix. Bytes of the largest attention matrix, if it were held. Traffic: what the eager operations
read and write, weights and all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipeline.ladder import (
    FACTORS,
    META,
    build_ladder,
    compress,
    count_tokens,
    create_tiny_vae,
    create_unet,
    create_vae,
    downscale_of,
    read_layout,
)

SIDES = (32, 64, 128, 256, 512)
"""Sides of a picture, in pixels, over which cost is counted; the ladder is built for the last."""

Kind = Literal["convolution", "attention", "linear"]
Table = Literal["ladder", "compression", "parts"]

_KINDS: Mapping[str, Kind] = {
    "convolution": "convolution",
    "_scaled_dot_product_efficient_attention": "attention",
    "mm": "linear",
    "addmm": "linear",
    "bmm": "linear",
    "baddbmm": "linear",
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one forward: FLOPs by the kind of layer, and bytes (see the module for what counts)."""

    convolution: int
    attention: int
    linear: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    score_bytes: int
    traffic_bytes: int

    @property
    def flops(self) -> int:
        """FLOPs of all kinds."""
        return self.convolution + self.attention + self.linear

    @property
    def shares(self) -> dict[Kind, float]:
        """Each kind's share of the FLOPs."""
        kinds: dict[Kind, int] = {
            "convolution": self.convolution,
            "attention": self.attention,
            "linear": self.linear,
        }
        return {kind: flops / self.flops for kind, flops in kinds.items()}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the card: the `cost` of a forward of `name` for pictures of `side` pixels.

    `downscale` is how many pixels a cell has along a side.
    """

    table: Table
    name: str
    title: str
    side: int
    downscale: int
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """How a quantity grows with the side: the power that fits all, and that of each step."""

    fitted: float
    steps: tuple[float, ...]


def reckon(dtype: torch.dtype = torch.float16) -> Iterator[Entry]:
    """Every line of the card, with tensors of `dtype`: ladder by sides, compression, parts."""
    yield from _reckon_ladder(dtype)
    yield from _reckon_compression(dtype)
    yield from _reckon_parts(dtype)


LINES = 46
"""How many lines `reckon` yields."""


def count_unet(unet: nn.Module, cells: int, batch: int = 1) -> Cost:
    """The cost of one forward of `unet`, on the meta device, over `cells` × `cells`."""
    config: Any = unet.config
    dtype = next(unet.parameters()).dtype
    with META:
        latents = torch.empty(batch, config.in_channels, cells, cells, dtype=dtype)
        embeds = torch.empty(batch, count_tokens(), config.cross_attention_dim, dtype=dtype)
        added: dict[str, Tensor] = {}
        if config.addition_embed_type == "text_time":
            ids = 6  # two each of size, corner and target (Podell et al. 2023, section 2.2)
            pooled = config.projection_class_embeddings_input_dim
            pooled -= ids * config.addition_time_embed_dim
            added["text_embeds"] = torch.empty(batch, pooled, dtype=dtype)
            added["time_ids"] = torch.empty(batch, ids, dtype=dtype)
        timestep = torch.empty(batch)

    def forward() -> object:
        return unet(latents, timestep, encoder_hidden_states=embeds, added_cond_kwargs=added)

    return count(unet, forward)


def count_encode(vae: Any, side: int, batch: int = 1) -> Cost:
    """The cost of encoding pictures of `side` pixels with `vae`, on the meta device."""
    pixels = torch.empty(batch, vae.config.in_channels, side, side, dtype=vae.dtype, device="meta")
    return count(vae.encoder, lambda: vae.encode(pixels), vae.quant_conv)


def count_decode(vae: Any, cells: int, batch: int = 1) -> Cost:
    """The cost of decoding latents of `cells` × `cells` with `vae`, on the meta device."""
    shape = batch, vae.config.latent_channels, cells, cells
    latents = torch.empty(shape, dtype=vae.dtype, device="meta")
    return count(vae.decoder, lambda: vae.decode(latents), getattr(vae, "post_quant_conv", None))


def count(module: nn.Module, forward: Callable[[], object], more: nn.Module | None = None) -> Cost:
    """The cost of `forward`, in which `module` (and `more`) work on the meta device."""
    weights = [p for m in (module, more) if m is not None for p in m.parameters()]
    fused, ledger = _FusedAttention(), _Ledger()
    with torch.no_grad(), fused, ledger:
        forward()
    return Cost(
        **ledger.flops,
        parameters=sum(p.numel() for p in weights),
        weight_bytes=sum(p.nbytes for p in weights),
        activation_bytes=ledger.peak,
        score_bytes=fused.largest,
        traffic_bytes=ledger.traffic,
    )


def fit_exponent(sides: Sequence[float], quantities: Sequence[float]) -> Exponent:
    """The power of the side with which a quantity grows: least squares in logarithms.

    Both are positive and two at least. A step is the slope between neighbours; over a doubling it
    is the binary logarithm of the growth.
    """
    x, y = ([math.log(value) for value in values] for values in (sides, quantities))
    slopes = tuple(
        (after - before) / (right - left)
        for before, after, left, right in zip(y, y[1:], x, x[1:], strict=False)
    )
    return Exponent(fitted=linear_regression(x, y).slope, steps=slopes)


def _reckon_ladder(dtype: torch.dtype) -> Iterator[Entry]:
    for rung in build_ladder():
        unet = create_unet(rung.config, META, dtype)
        for side in SIDES:
            yield Entry(
                table="ladder",
                name=rung.name,
                title=rung.title,
                side=side,
                downscale=rung.downscale,
                cost=count_unet(unet, side // rung.downscale),
            )


def _reckon_compression(dtype: torch.dtype) -> Iterator[Entry]:
    """At each factor the network, and what turns its latents into a picture."""
    side = SIDES[-1]
    for factor in FACTORS:
        rung, config = compress(factor)
        unet = create_unet(rung.config, META, dtype)
        parts = [("unet", rung.title, count_unet(unet, side // factor))]
        if config is not None:
            vae = create_vae(config, META, dtype)
            title = f"its decoder, {factor} px a cell"
            parts.append(("decode", title, count_decode(vae, side // factor)))
        for name, title, cost in parts:
            yield Entry(
                table="compression",
                name=name,
                title=title,
                side=side,
                downscale=factor,
                cost=cost,
            )


def _reckon_parts(dtype: torch.dtype) -> Iterator[Entry]:
    config = read_layout("sd1", "vae")
    downscale = downscale_of(config)
    vae, tiny = create_vae(config, META, dtype), create_tiny_vae(META, dtype)
    xl = create_unet(read_layout("xl", "unet"), META, dtype)
    lines: list[tuple[str, str, int, Cost]] = []
    for side in (512, 1024):
        cells = side // downscale
        lines.append(("vae-encode", "encoder", side, count_encode(vae, side)))
        lines.append(("vae-decode", "decoder", side, count_decode(vae, cells)))
        lines.append(("taesd-decode", "tiny decoder", side, count_decode(tiny, cells)))
    lines.append(("xl-unet", "XL's network", 1024, count_unet(xl, 1024 // downscale)))
    for name, title, side, cost in lines:
        yield Entry(
            table="parts", name=name, title=title, side=side, downscale=downscale, cost=cost
        )


class _FusedAttention(TorchFunctionMode):
    """Attention as one operation that holds no matrix, as on a GPU; by itself torch writes it out
    on the meta device.

    Remembers how large the largest matrix would be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args
        scores = math.prod(query.shape[:-1]) * key.shape[-2] * query.element_size()
        self.largest = max(self.largest, scores)
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        return fused(query, key, value, None, False)[0]


class _Ledger(TorchDispatchMode):
    """FLOPs by torch's own formulas, bytes alive at once at most, and the traffic.

    torch's FlopCounterMode counts the same, and follows every module beside it, in twice the time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: dict[Kind, int] = {"convolution": 0, "attention": 0, "linear": 0}
        self.peak = 0
        self.traffic = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        returned = func(*args, **kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            kind = _KINDS[func.overloadpacket.__name__]
            self.flops[kind] += formula(*args, **kwargs, out_val=returned)
        taken, given = _tensors((args, kwargs)), _tensors(returned)
        known = {t.untyped_storage()._cdata for t in taken}
        fresh = [t for t in given if t.untyped_storage()._cdata not in known]
        if fresh or func._schema.is_mutable:  # else a view, which moves nothing
            self.traffic += sum(t.nbytes for t in taken) + sum(t.nbytes for t in given)
        for tensor in fresh:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return returned


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
