"""What networks cost in theory: the known figures, counted anew, and counting itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cost import (
    LINES,
    SIDES,
    Cost,
    Entry,
    count,
    count_decode,
    count_encode,
    count_unet,
    fit_exponent,
)
from pipeline.ladder import META, build_ladder, create_unet, create_vae, read_layout
from tests.cards import whole_card
from tests.tiny import create_unet as create_tiny_unet

TERA = 1e12


@pytest.fixture(scope="module")
def find() -> Callable[..., Entry]:
    """The one entry of a table with that name, side and downscale."""

    def find(table: str, name: str, side: int = 512, downscale: int | None = None) -> Entry:
        (found,) = (
            entry
            for entry in whole_card()
            if (entry.table, entry.name, entry.side) == (table, name, side)
            and downscale in (None, entry.downscale)
        )
        return found

    return find


# Known figures, each held to half a unit of its last digit.
@pytest.mark.parametrize(
    ("table", "name", "side", "tera", "half"),
    [
        ("ladder", "latent", 512, 0.8033, 0.00005),
        ("ladder", "plain", 512, 545.1, 0.05),
        ("parts", "xl-unet", 1024, 6.76, 0.005),
        ("parts", "vae-decode", 512, 2.51, 0.005),
        ("parts", "vae-decode", 1024, 10.47, 0.005),
        ("parts", "taesd-decode", 512, 0.141, 0.0005),
    ],
)
def test_known_flops(
    find: Callable[..., Entry], table: str, name: str, side: int, tera: float, half: float
) -> None:
    assert find(table, name, side).cost.flops / TERA == pytest.approx(tera, abs=half)


@pytest.mark.parametrize(
    ("rung", "ratio", "half"),
    [
        ("plain", 679, 0.5),
        ("no-attention", 33.8, 0.05),
        ("levels-320", 12.8, 0.05),
        ("levels-128", 3.25, 0.005),
        ("levels-64", 2.24, 0.01),  # 2.2455, which was cut off and not rounded
    ],
)
def test_the_ladder(find: Callable[..., Entry], rung: str, ratio: float, half: float) -> None:
    latent = find("ladder", "latent").cost.flops
    assert find("ladder", rung).cost.flops / latent == pytest.approx(ratio, abs=half)


def test_almost_all_of_the_plain_network_on_pixels_is_attention(
    find: Callable[..., Entry],
) -> None:
    shares = find("ladder", "plain").cost.shares

    assert shares["attention"] == pytest.approx(0.92, abs=0.005)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_exponents_of_the_plain_network(find: Callable[..., Entry]) -> None:
    flops = [find("ladder", "plain", side).cost.flops for side in SIDES]
    assert fit_exponent(SIDES, flops).steps == pytest.approx((2.16, 2.54, 3.17, 3.69), abs=0.005)


def test_as_many_weights_as_the_latent_network(find: Callable[..., Entry]) -> None:
    """`levels-128` is the fair one: it differs by a fifth of a percent."""
    latent, matched = (find("ladder", rung).cost.parameters for rung in ("latent", "levels-128"))
    assert matched == pytest.approx(latent, rel=0.0025)


def test_compression_begins_at_the_plain_network_and_passes_the_latent_one(
    find: Callable[..., Entry],
) -> None:
    for factor, rung in ((1, "plain"), (8, "latent")):
        assert find("compression", "unet", 512, factor).cost == find("ladder", rung).cost
    assert find("compression", "decode", 512, 8).cost == find("parts", "vae-decode").cost


def test_half_the_bytes_of_a_weight_and_no_attention_matrix(find: Callable[..., Entry]) -> None:
    cost = find("ladder", "plain").cost

    assert cost.weight_bytes == 2 * cost.parameters  # float16
    assert cost.score_bytes == 8 * (512 * 512) ** 2 * 2  # heads, cells by cells, bytes
    assert cost.activation_bytes < cost.score_bytes / 100


def test_the_number_of_lines_is_known_before() -> None:
    assert len(whole_card()) == LINES


@cache
def _tiny() -> Any:
    with META:
        return create_tiny_unet(cross_attention_dim=16).eval().requires_grad_(False)


def _forward(unet: Any, device: torch.device, cells: int) -> Callable[[], object]:
    latents = torch.zeros(1, 4, cells, cells, device=device)
    embeds = torch.zeros(1, 77, 16, device=device)
    return lambda: unet(latents, torch.zeros(1, device=device), encoder_hidden_states=embeds)


@pytest.mark.parametrize("cells", [8, 16, 20])
def test_flops_equal_those_of_a_real_forward(cells: int) -> None:
    """torch's own counter on the CPU, where it sees attention only if that is written out."""
    torch.manual_seed(0)
    unet = create_tiny_unet(cross_attention_dim=16)
    forward = _forward(unet, torch.device("cpu"), cells)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward()

    assert count_unet(_tiny(), cells).flops == counter.get_total_flops()


def test_a_batch_of_two_costs_twice_the_flops_and_the_same_weights() -> None:
    one, two = (count_unet(_tiny(), 16, batch) for batch in (1, 2))

    assert two.flops == 2 * one.flops
    assert two.weight_bytes == one.weight_bytes
    assert one.traffic_bytes < two.traffic_bytes < 2 * one.traffic_bytes


def test_bytes_of_a_network_that_one_can_count_by_hand() -> None:
    first, second = nn.Linear(4, 6, device=META), nn.Linear(6, 2, device=META)
    chain = nn.Sequential(first, second)
    pixels = torch.empty(3, 4, device=META)

    cost = count(chain, lambda: chain(pixels))

    assert cost.linear == 2 * 3 * (4 * 6 + 6 * 2) == cost.flops
    assert cost.parameters == 4 * 6 + 6 + 6 * 2 + 2
    assert cost.activation_bytes == 4 * 3 * (6 + 2)  # the first layer's output and the second's
    read = 3 * 4 + (4 * 6 + 6) + 3 * 6 + (6 * 2 + 2)
    assert cost.traffic_bytes == 4 * (read + 3 * 6 + 3 * 2)


def test_what_is_no_longer_needed_is_not_alive() -> None:
    module = nn.Identity()
    tensor = torch.empty(1000, device=META)

    def ten_times() -> torch.Tensor:
        result = tensor
        for _ in range(10):
            result = result + 1
        return result

    cost = count(module, ten_times)

    assert cost.activation_bytes == 2 * 4000  # a sum and the one before it
    assert cost.traffic_bytes == 10 * 2 * 4000


def test_views_move_nothing() -> None:
    tensor = torch.empty(10, 10, device=META)
    cost = count(nn.Identity(), lambda: tensor.t().reshape(10, 10)[2:].unsqueeze(0))
    assert cost.activation_bytes == cost.traffic_bytes == 0


def test_attention_is_counted_and_its_matrix_is_not_held() -> None:
    query = torch.empty(1, 2, 50, 8, device=META)
    cost = count(nn.Identity(), lambda: F.scaled_dot_product_attention(query, query, query))

    assert cost.attention == 2 * 2 * (2 * 50 * 50 * 8)  # two products of two FLOPs each
    assert cost.score_bytes == 4 * 2 * 50 * 50
    assert cost.activation_bytes < cost.score_bytes


def test_a_scaled_rung_keeps_its_plan(find: Callable[..., Entry]) -> None:
    """Attention costs `width` times as much, the rest about `width²`: its layers are as many."""
    latent, width = build_ladder()[0], 0.125
    whole = find("ladder", "latent", 64).cost
    part = count_unet(create_unet(latent.scaled(width).config, META, torch.float32), 8)

    assert part.attention == whole.attention * width
    # The first and last layers see as many channels as before.
    assert part.convolution == pytest.approx(whole.convolution * width**2, rel=0.01 / width)


def test_a_width_that_leaves_no_multiple_of_eight_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        build_ladder()[0].scaled(0.3)


def test_encoding_is_counted_without_the_decoder() -> None:
    vae = create_vae(read_layout("sd1", "vae"), META, torch.float32)
    encode, decode = count_encode(vae, 64), count_decode(vae, 8)
    weights = sum(p.numel() for p in vae.parameters())

    assert encode.parameters + decode.parameters == weights
    assert encode.flops < decode.flops


@given(
    st.floats(-3, 5),
    st.floats(1e-6, 1e6),
    st.lists(st.integers(1, 4096), min_size=2, max_size=8, unique=True),
)
def test_a_power_is_found_again(power: float, factor: float, sides: list[int]) -> None:
    exponent = fit_exponent(sides, [factor * side**power for side in sides])

    # Rounding of logarithms up to about 60, over a step of at least log(4096/4095) = 2.4e-4.
    assert exponent.fitted == pytest.approx(power, abs=1e-8)
    assert exponent.steps == pytest.approx([power] * (len(sides) - 1), abs=1e-8)


def test_a_doubling_is_a_binary_logarithm() -> None:
    exponent = fit_exponent((1, 2, 4), (1, 3, 3))
    assert exponent.steps == pytest.approx((math.log2(3), 0))


def test_shares_are_of_all_flops() -> None:
    cost = Cost(
        convolution=5,
        attention=3,
        linear=2,
        parameters=0,
        weight_bytes=0,
        activation_bytes=0,
        score_bytes=0,
        traffic_bytes=0,
    )
    assert cost.shares == {"convolution": 0.5, "attention": 0.3, "linear": 0.2}
