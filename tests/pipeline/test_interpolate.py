"""Slerp, mixtures, blends, Catmull-Rom weights: every property, every branch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from pipeline.errors import RenderError, SpecError
from pipeline.interpolate import (
    NEAR,
    blend_embeds,
    catmull_rom,
    catmull_rom_slopes,
    mix,
    mix_embeds,
    neighbours,
    slerp,
)
from pipeline.spec import BlendMode

quick = settings(deadline=None, max_examples=40)

seeds = st.integers(0, 2**32 - 1)
weights = st.floats(0, 1)
numbers = st.floats(-1e3, 1e3, width=32)
vectors = st.integers(2, 6).flatmap(
    lambda d: st.tuples(*[st.lists(numbers, min_size=d, max_size=d)] * 2)
)

# What float32 keeps of a direction: half a unit in the last place, 6e-8, over a few operations.
FLOAT32 = 3e-7
# What float64 keeps of one, where sines of angles near the thresholds divide: 1e-16 / 1e-4.
FLOAT64 = 1e-11


def draw(seed: int, shape: tuple[int, ...] = (1, 4, 8, 8)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norms(tensor: Tensor) -> Tensor:
    return tensor.double().flatten(1).norm(dim=1)


def angle(a: Tensor, b: Tensor) -> float:
    """By the half-angle form, and in float64: the arc cosine is too coarse to judge with."""
    u, v = a.double().flatten(), b.double().flatten()
    u, v = u / u.norm(), v / v.norm()
    return 2 * math.atan2((u - v).norm().item(), (u + v).norm().item())


def at_angle(theta: float, seed: int = 1, d: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Unit float64 vectors: u, one at right angles to it, and the one at `theta` from u."""
    basis, _ = torch.linalg.qr(draw(seed, (d, 2)).double())
    u, side = basis[:, 0], basis[:, 1]
    return u[None], side[None], (math.cos(theta) * u + math.sin(theta) * side)[None]


class TestSlerp:
    @quick
    @given(seeds, seeds, weights)
    def test_is_the_same_walked_from_the_other_end(self, first: int, second: int, w: float) -> None:
        a, b = draw(first), draw(second)
        assert_close(slerp(a, b, w), slerp(b, a, 1 - w), rtol=FLOAT32, atol=FLOAT32)

    @quick
    @given(seeds, seeds, weights)
    def test_turns_evenly_and_the_radius_goes_linearly(
        self, first: int, second: int, w: float
    ) -> None:
        assume(first != second)
        a, b = draw(first), 1.7 * draw(second)
        c = slerp(a, b, w)
        assert angle(a, c) == pytest.approx(w * angle(a, b), abs=1e-6)
        assert_close(norms(c), (1 - w) * norms(a) + w * norms(b), rtol=FLOAT32, atol=0)

    @quick
    @given(vectors, weights)
    @example(([0.0, 1.0], [0.0, 1.0]), 0.3)
    @example(([0.0, 1.0], [1e-30, -1.0]), 0.5)
    @example(([0.0, 0.0], [0.0, 0.0]), 0.5)
    @example(([1e-40, 0.0], [0.0, 1.0]), 0.5)
    def test_any_two_vectors_are_joined_or_refused(
        self, ends: tuple[list[float], list[float]], w: float
    ) -> None:
        a, b = torch.tensor(ends).double().unsqueeze(1)
        ra, rb = norms(a).item(), norms(b).item()
        if ra == 0 or rb == 0:
            assert_close(slerp(a, b, w), (1 - w) * a + w * b)
            return
        if math.pi - angle(a, b) < NEAR:
            with pytest.raises(SpecError, match="opposite"):
                slerp(a, b, w)
            return

        c = slerp(a, b, w)
        assert norms(c).item() == pytest.approx((1 - w) * ra + w * rb, rel=FLOAT64)
        if norms(c).item() > 1e-150:  # squares of less are not told from 0
            assert angle(a, c) == pytest.approx(w * angle(a, b), abs=1e-6)
        # Nearly opposite, the way back differs as 1 - (1 - w) does from w, times 1e4.
        assert_close(slerp(b, a, 1 - w), c, rtol=FLOAT64, atol=FLOAT64 * (ra + rb))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    @quick
    @given(seeds, weights)
    def test_from_a_noise_to_itself_stays_there(
        self, dtype: torch.dtype, seed: int, w: float
    ) -> None:
        a = draw(seed).to(dtype)
        # The work is done in float64: narrower types round its last places away, itself it keeps.
        rounding = 2e-15 if dtype == torch.float64 else 0
        assert_close(slerp(a, a.clone(), w), a, rtol=rounding, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("theta", [0, 1e-5, 1.5, math.pi - 2e-4])
    def test_returns_the_ends_bit_for_bit(self, dtype: torch.dtype, theta: float) -> None:
        u, _, v = at_angle(theta)
        a, b = (3.3 * u).to(dtype), v.to(dtype)
        a[0, 0] = b[0, 1] = -0.0
        for w, end in [(0, a), (1, b), (torch.tensor([0.0]), a), (torch.tensor(1.0), b)]:
            result = slerp(a, b, w)
            assert torch.equal(result, end)
            assert torch.equal(result.signbit(), end.signbit())

    @pytest.mark.parametrize("w", [1e-9, 1 - 1e-9])
    def test_next_to_an_end_is_not_the_end(self, w: float) -> None:
        u, side, _ = at_angle(0)
        assert not torch.equal(slerp(u, side, w), slerp(u, side, round(w)))

    @pytest.mark.parametrize("w", [0.001, 0.25, 0.5, 0.8])
    @pytest.mark.parametrize("threshold", [NEAR, math.pi - NEAR])
    @pytest.mark.parametrize("side_of_it", [-1e-9, 1e-9])
    def test_is_one_curve_on_both_sides_of_a_threshold(
        self, w: float, threshold: float, side_of_it: float
    ) -> None:
        theta = threshold + side_of_it
        u, side, v = at_angle(theta)
        if theta > math.pi - NEAR:
            with pytest.raises(SpecError, match="opposite"):
                slerp(u, v, w)
            return
        truth = math.cos(w * theta) * u + math.sin(w * theta) * side
        # Near 0 a few last places, for the series' second term is no more than 1e-14 here.
        within = 3e-15 if theta < 1 else FLOAT64
        assert (slerp(u, v, w) - truth).norm() < within

    @pytest.mark.parametrize("theta", [0, 1e-12, 1e-8, 1e-5, 1e-3, 0.1, 3.0, 3.1414])
    def test_follows_the_circle_at_every_angle(self, theta: float) -> None:
        u, side, v = at_angle(theta)
        for w in (0.1, 0.5, 0.7):
            truth = math.cos(w * theta) * u + math.sin(w * theta) * side
            assert_close(slerp(u, v, w), truth, rtol=0, atol=FLOAT64)

    def test_half_way_between_draws_is_as_wide_as_a_draw(self) -> None:
        for seed in range(20):
            half = slerp(draw(seed, (1, 4, 64, 64)), draw(seed + 100, (1, 4, 64, 64)), 0.5)
            # The standard deviation of d draws varies by 1/√(2d); lerp would give 0.71.
            assert half.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * half.numel()))

    def test_in_float16_at_1024_px_is_float32_rounded(self) -> None:
        a, b = draw(1, (1, 4, 128, 128)).half(), draw(2, (1, 4, 128, 128)).half()
        assert a.square().sum().isinf()  # what a norm in float16 meets here
        c = slerp(a, b, 0.3)
        # Half a unit in float16's last place: 2^-11 of the number, 2^-25 below 2^-14.
        assert_close(c.float(), slerp(a.float(), b.float(), 0.3), rtol=2**-11, atol=2**-25)
        assert c.float().std().item() == pytest.approx(1, abs=0.02)

    def test_in_bfloat16_is_float32_rounded(self) -> None:
        a, b = draw(1).bfloat16(), draw(2).bfloat16()
        c = slerp(a, b, 0.3)
        assert c.dtype == torch.bfloat16
        assert_close(c.float(), slerp(a.float(), b.float(), 0.3), rtol=2**-8, atol=0)

    def test_a_batch_is_its_samples_bit_for_bit(self) -> None:
        a, b = draw(1, (5, 4, 16, 16)), draw(2, (5, 4, 16, 16))
        a[1], b[2], a[3] = b[1], 0, -b[3]  # parallel, zero and opposite beside ordinary ones
        w = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.0])
        together = slerp(a, b, w, antipodal="detour", seed=3)
        for i in range(5):
            pair = a[i : i + 1], b[i : i + 1]
            assert torch.equal(
                slerp(*pair, w[i].item(), antipodal="detour", seed=3), together[i : i + 1]
            )

    @pytest.mark.parametrize("shape", [(3, 5), (3, 77, 16), (3, 4, 8, 8), (3, 2, 4, 8, 8)])
    def test_takes_any_shape_and_one_weight_for_all(self, shape: tuple[int, ...]) -> None:
        a, b = draw(1, shape), draw(2, shape)
        assert torch.equal(slerp(a, b, 0.25), slerp(a, b, torch.full((3,), 0.25)))
        assert slerp(a, b, 0.25).shape == shape

    def test_does_not_mind_strides_and_leaves_its_ends_alone(self) -> None:
        a, b = draw(1, (2, 4, 6, 8)), draw(2, (2, 4, 6, 8))
        kept = a.clone(), b.clone()
        lasts = [x.to(memory_format=torch.channels_last) for x in (a, b)]
        assert torch.equal(slerp(*lasts, 0.3), slerp(a, b, 0.3))
        slerp(a, b, 0).zero_()
        assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])


class TestSlerpOfOpposites:
    def test_is_refused_at_every_weight_in_one_line(self) -> None:
        a = draw(1, (3, 4, 8, 8))
        b = draw(2, (3, 4, 8, 8))
        b[2] = -2 * a[2]
        for w in (0, 0.3, 1):
            with pytest.raises(SpecError) as refused:
                slerp(a, b, w)
            assert str(refused.value) == (
                "sample 2: ends are opposite, 180.0000° apart: at most 179.9943°"
            )

    @quick
    @given(seeds, seeds, weights)
    @example(0, 0, 0.5)
    def test_a_detour_is_half_a_circle(self, seed: int, aside: int, w: float) -> None:
        # Its own noise against itself turned round, with the detour of the same seed among them.
        a, b = draw(seed), -2 * draw(seed)
        c = slerp(a, b, w, antipodal="detour", seed=aside)
        assert angle(a, c) == pytest.approx(w * math.pi, abs=1e-6)
        assert_close(norms(c), (1 + w) * norms(a), rtol=FLOAT32, atol=0)
        back = slerp(b, a, 1 - w, antipodal="detour", seed=aside)
        assert_close(back, c, rtol=FLOAT32, atol=FLOAT32)

    def test_a_detour_is_the_one_of_its_seed(self) -> None:
        a = draw(1)
        one, again, other = (slerp(a, -a, 0.5, antipodal="detour", seed=s) for s in (5, 5, 6))
        assert torch.equal(one, again)
        assert angle(one, other) == pytest.approx(math.pi / 2, abs=0.3)  # 5 of 1/√d, d = 256

    def test_nearly_opposite_ends_are_walked_alike_both_ways(self) -> None:
        u, _, v = at_angle(math.pi - NEAR / 2)
        for w in (0.1, 0.5, 0.9):
            there = slerp(u, v, w, antipodal="detour")
            assert_close(slerp(v, u, 1 - w, antipodal="detour"), there, rtol=0, atol=FLOAT64)
            assert angle(u, there) == pytest.approx(w * math.pi, abs=NEAR)

    def test_detour_changes_nothing_for_others(self) -> None:
        a, b = draw(1), draw(2)
        assert torch.equal(slerp(a, b, 0.4, antipodal="detour"), slerp(a, b, 0.4))


class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("w", [0, 0.5, 1])
    def test_a_number_that_is_not_finite(self, bad: float, w: float) -> None:
        a, b = draw(1), draw(2)
        b[0, 1, 2, 3] = bad
        with pytest.raises(RenderError, match="tensor 1: 1 of 256 numbers are not finite"):
            slerp(a, b, w)
        with pytest.raises(RenderError, match="tensor 0: 1 of 256"):
            slerp(b, a, w)
        with pytest.raises(RenderError):
            mix([a, b], [1 - w, w])
        with pytest.raises(RenderError):
            blend_embeds(a[0], b[0], w)

    def test_shapes_that_differ_are_both_named(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\) and \(1, 4, 8, 9\)"):
            slerp(draw(1), draw(1, (1, 4, 8, 9)), 0.5)
        with pytest.raises(ValueError, match=r"\(2, 4\) and \(1, 4\)"):
            mix([draw(1, (2, 4)), draw(2, (1, 4))], [0.5, 0.5])

    @pytest.mark.parametrize(
        ("end", "said"),
        [
            (draw(2).half(), "float32 on cpu and torch.float16"),
            (draw(2).to("meta"), "on cpu and torch.float32 on meta"),
        ],
    )
    def test_kinds_that_differ(self, end: Tensor, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            slerp(draw(1), end, 0.5)

    @pytest.mark.parametrize(
        "tensor", [torch.ones(3), torch.ones(0, 4), torch.ones(2, 3, dtype=torch.int64)]
    )
    def test_what_is_no_batch_of_floats(self, tensor: Tensor) -> None:
        with pytest.raises(ValueError, match="must be floating"):
            slerp(tensor, tensor, 0.5)

    @pytest.mark.parametrize("w", [-1e-9, 1.1, math.nan, torch.tensor([0.5, 2.0])])
    def test_a_weight_out_of_range(self, w: float | Tensor) -> None:
        a = draw(1, (2, 4))
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            slerp(a, a, w)
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            blend_embeds(a, a, w)

    def test_as_many_weights_as_samples(self) -> None:
        a = draw(1, (2, 4))
        with pytest.raises(ValueError, match=r"shape \(3\): must be one number, or 2"):
            slerp(a, a, torch.full((3,), 0.5))


class TestMix:
    @quick
    @given(st.lists(seeds, min_size=2, max_size=5, unique=True), st.data())
    def test_the_length_is_the_mean_of_the_lengths(
        self, own: list[int], data: st.DataObject
    ) -> None:
        shares = data.draw(st.lists(st.floats(0.01, 1), min_size=len(own), max_size=len(own)))
        noises = [(i + 1) * draw(seed) for i, seed in enumerate(own)]
        mean = sum(w * norms(x) for w, x in zip(shares, noises, strict=True)) / sum(shares)
        assert_close(norms(mix(noises, shares)), mean, rtol=FLOAT32, atol=0)

        line = sum(w * x.double() for w, x in zip(shares, noises, strict=True))
        assert angle(mix(noises, shares), torch.as_tensor(line)) < 1e-6
        doubled = mix(noises, [2 * w for w in shares])
        assert_close(doubled, mix(noises, shares), rtol=FLOAT32, atol=FLOAT32)

    @pytest.mark.parametrize("correlation", [-0.9, 0, 0.5, 0.9, 1])
    def test_is_as_wide_as_a_draw_at_every_correlation(self, correlation: float) -> None:
        first, other = draw(1, (1, 4, 64, 64)), draw(2, (1, 4, 64, 64))
        second = correlation * first + math.sqrt(1 - correlation**2) * other
        within = 4 / math.sqrt(2 * first.numel())
        assert mix([first, second], [0.5, 0.5]).std().item() == pytest.approx(1, abs=within)

        # The published rule divides by √Σw², which is √(1 + correlation) times too little.
        published = (0.5 * first + 0.5 * second) / math.sqrt(0.5)
        expected = math.sqrt(1 + correlation)
        assert published.std().item() == pytest.approx(expected, abs=3 * within)
        if correlation == 0.9:
            assert published.std().item() > 1.3

    @pytest.mark.parametrize("weight", [1.0, 0.4])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
    def test_a_lone_weight_returns_its_noise(self, weight: float, dtype: torch.dtype) -> None:
        noises = [draw(seed).to(dtype) for seed in range(3)]
        alone = mix(noises, [0, weight, 0])
        assert torch.equal(alone, noises[1])
        alone.zero_()
        assert noises[1].any()

    def test_equal_noises_mix_to_themselves(self) -> None:
        a = draw(1)
        assert torch.equal(mix([a, a.clone(), a], [0.2, 0.3, 0.1]), a)

    def test_two_of_equal_weight_meet_half_way_along_the_arc(self) -> None:
        u, side, _ = at_angle(0)
        assert_close(mix([u, side], [0.5, 0.5]), slerp(u, side, 0.5))

    def test_a_batch_is_its_samples_bit_for_bit(self) -> None:
        noises = [draw(seed, (4, 4, 16, 16)) for seed in range(3)]
        together = mix(noises, [0.5, 0.7, -0.1])
        for i in range(4):
            alone = mix([x[i : i + 1] for x in noises], [0.5, 0.7, -0.1])
            assert torch.equal(alone, together[i : i + 1])

    def test_in_float16_at_1024_px_is_float32_rounded(self) -> None:
        noises = [draw(seed, (1, 4, 128, 128)).half() for seed in (1, 2, 3)]
        wide = mix([x.float() for x in noises], [0.2, 0.3, 0.5])
        narrow = mix(noises, [0.2, 0.3, 0.5])
        assert_close(narrow.float(), wide, rtol=2**-11, atol=2**-25)  # half a last place

    def test_zeros_mix_to_zero_and_add_nothing(self) -> None:
        zero, a = torch.zeros(1, 8), draw(1, (1, 8))
        assert torch.equal(mix([zero, zero], [0.5, 0.5]), zero)
        assert_close(mix([zero, a], [0.5, 0.5]), a / 2)

    @pytest.mark.parametrize("nudge", [0, 5e-5])
    def test_opposites_are_refused(self, nudge: float) -> None:
        a = draw(1, (2, 8)).double()
        b = a.clone()
        b[1] = -a[1] * (1 + nudge)
        with pytest.raises(SpecError, match=r"sample 1: parts \(.*\) long cancel to") as refused:
            mix([a, b], [0.5, 0.5])
        assert "\n" not in str(refused.value)

    def test_what_is_not_quite_opposite_is_mixed(self) -> None:
        u, _, v = at_angle(math.pi - 1e-3)
        assert norms(mix([u, v], [0.5, 0.5])).item() == pytest.approx(1, rel=FLOAT64)

    def test_a_length_below_nothing_is_refused(self) -> None:
        u, side, _ = at_angle(0)
        with pytest.raises(SpecError, match="must not"):
            mix([u, 100 * side], [1.07, -0.07])

    @pytest.mark.parametrize(
        "bad", [[0, 0], [1, -1], [1, -2], [0.1 + 0.2, -0.3], [math.nan, 1], [math.inf, 1]]
    )
    def test_weights_that_do_not_sum_to_something(self, bad: list[float]) -> None:
        with pytest.raises(SpecError, match="must be finite and above 0"):
            mix([draw(1), draw(2)], bad)

    def test_as_many_weights_as_noises(self) -> None:
        with pytest.raises(ValueError, match="2 noises, 1 weights"):
            mix([draw(1), draw(2)], [1])
        with pytest.raises(ValueError, match="at least one"):
            mix([], [])


MODES = ("nlerp", "slerp", "lerp")


def prompts(batch: int = 1, tokens: int = 7, width: int = 16) -> tuple[Tensor, Tensor]:
    """Two prompts whose first token is the same, as BOS is, and whose lengths differ by token."""
    p, q = draw(1, (batch, tokens, width)), draw(2, (batch, tokens, width))
    scale = torch.arange(1, tokens + 1)[:, None]
    q[:, 0] = p[:, 0]
    return p * scale, q * scale.flip(0).where(scale > 1, torch.ones(()))


class TestBlendEmbeds:
    @quick
    @given(weights)
    def test_each_token_by_its_own_rule(self, w: float) -> None:
        p, q = prompts()
        lengths = (1 - w) * p.norm(dim=-1) + w * q.norm(dim=-1)
        line = torch.lerp(p.double(), q.double(), w)

        assert_close(blend_embeds(p, q, w, "lerp").double(), line, rtol=FLOAT32, atol=FLOAT32)
        # Lengths are summed in float32 here: a few of its last places.
        nlerp = blend_embeds(p, q, w)
        assert_close(nlerp.norm(dim=-1), lengths, rtol=1e-6, atol=0)
        assert all(angle(nlerp[0, i], line[0, i]) < 1e-6 for i in range(7))
        arc = blend_embeds(p, q, w, "slerp")
        assert_close(arc.norm(dim=-1), lengths, rtol=1e-6, atol=0)
        assert all(
            angle(p[0, i], arc[0, i]) == pytest.approx(w * angle(p[0, i], q[0, i]), abs=1e-6)
            for i in range(7)
        )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_ends_and_the_common_token_are_exact(self, mode: str, dtype: torch.dtype) -> None:
        p, q = (x.to(dtype) for x in prompts())
        assert torch.equal(blend_embeds(p, q, 0, mode), p)
        assert torch.equal(blend_embeds(p, q, 1, mode), q)
        between = blend_embeds(p, q, 0.37, mode)
        assert between.dtype == dtype
        assert torch.equal(between[:, 0], p[:, 0])

    @pytest.mark.parametrize("mode", MODES)
    @quick
    @given(weights)
    def test_is_the_same_walked_from_the_other_end(self, mode: str, w: float) -> None:
        p, q = prompts()
        back = blend_embeds(q, p, 1 - w, mode)
        assert_close(blend_embeds(p, q, w, mode), back, rtol=FLOAT32, atol=1e-6)

    def test_slerp_of_a_token_is_slerp(self) -> None:
        p, q = prompts(batch=2)
        arc = blend_embeds(p, q, torch.tensor([0.3, 0.6]), "slerp")
        assert_close(arc[1], slerp(p[1], q[1], 0.6), rtol=FLOAT32, atol=FLOAT32)

    @pytest.mark.parametrize("mode", MODES)
    def test_a_batch_is_its_samples(self, mode: str) -> None:
        p, q = prompts(batch=3)
        w = torch.tensor([0.2, 0.0, 0.9])
        together = blend_embeds(p, q, w, mode)
        for i in range(3):
            alone = blend_embeds(p[i : i + 1], q[i : i + 1], w[i].item(), mode)
            assert torch.equal(alone, together[i : i + 1])

    @pytest.mark.parametrize("mode", MODES)
    def test_two_encoders_are_blended_apart(self, mode: str) -> None:
        p, q = prompts(width=16)
        apart = [blend_embeds(p[..., s], q[..., s], 0.4, mode) for s in (slice(10), slice(10, 16))]
        assert torch.equal(blend_embeds(p, q, 0.4, mode, widths=(10, 6)), torch.cat(apart, -1))
        if mode != "lerp":
            assert not torch.allclose(blend_embeds(p, q, 0.4, mode), torch.cat(apart, -1))

    @pytest.mark.parametrize("mode", MODES)
    def test_zero_tokens_are_no_trouble(self, mode: str) -> None:
        p, q = prompts()
        p[0, 1] = q[0, 2] = p[0, 3] = q[0, 3] = 0
        between = blend_embeds(p, q, 0.25, mode)
        assert_close(between[0, 1:4], torch.lerp(p, q, 0.25)[0, 1:4])

    def test_opposite_tokens_are_for_slerp_to_refuse(self) -> None:
        p, q = prompts()
        q[0, 4] = -p[0, 4]
        with pytest.raises(SpecError, match="a token: ends are opposite, 180"):
            blend_embeds(p, q, 0.5, "slerp")
        assert not blend_embeds(p, q, 0.5)[0, 4].any()

    def test_says_what_is_allowed(self) -> None:
        p, q = prompts()
        with pytest.raises(SpecError, match="blend = 'cubic': must be one of nlerp, slerp, lerp"):
            blend_embeds(p, q, 0.5, "cubic")
        with pytest.raises(ValueError, match=r"widths \(10, 5\): must sum to 16"):
            blend_embeds(p, q, 0.5, widths=(10, 5))


class TestMixEmbeds:
    WEIGHTS = (-0.1, 0.6, 0.55, -0.05)

    @pytest.mark.parametrize("mode", ["nlerp", "lerp"])
    @quick
    @given(weight=weights)
    def test_of_two_is_their_blend(self, mode: BlendMode, weight: float) -> None:
        a, b = draw(1, (2, 5, 8)), draw(2, (2, 5, 8))
        mixed = mix_embeds([a, b], [1 - weight, weight], mode, (3, 5))
        assert_close(mixed, blend_embeds(a, b, weight, mode, (3, 5)), rtol=0, atol=1e-6)

    def test_each_block_of_each_token_has_the_length_of_the_mean(self) -> None:
        prompts = [draw(k, (1, 5, 8)) for k in range(4)]
        mixed = mix_embeds(prompts, self.WEIGHTS, "nlerp", (3, 5))
        for block, *blocks in zip(*(p.split((3, 5), -1) for p in (mixed, *prompts)), strict=True):
            parts = zip(self.WEIGHTS, blocks, strict=True)
            wanted = sum(weight * part.norm(dim=-1) for weight, part in parts)
            assert_close(block.norm(dim=-1), wanted, rtol=1e-5, atol=1e-5)

    def test_the_straight_line_is_the_sum(self) -> None:
        prompts = [draw(k, (1, 5, 8)) for k in range(4)]
        wanted = sum(weight * prompt for weight, prompt in zip(self.WEIGHTS, prompts, strict=True))
        assert_close(mix_embeds(prompts, self.WEIGHTS, "lerp"), wanted, rtol=0, atol=1e-6)

    def test_one_alone_comes_back_bit_for_bit(self) -> None:
        prompts = [draw(k, (1, 5, 8)) for k in range(3)]
        assert torch.equal(mix_embeds(prompts, [0, 1, 0]), prompts[1])

    def test_zeros_stay_zeros(self) -> None:
        zeros = torch.zeros(1, 5, 8)
        assert torch.equal(mix_embeds([zeros] * 3, [0.2, 0.5, 0.3]), zeros)

    def test_no_great_circle_goes_through_more_than_two(self) -> None:
        with pytest.raises(SpecError, match="blend = 'slerp': is between two prompts"):
            mix_embeds([draw(1, (1, 5, 8))] * 3, [0.2, 0.5, 0.3], "slerp")


class TestCatmullRom:
    @quick
    @given(st.floats(1e-3, 1 - 1e-3))
    def test_slopes_are_those_of_the_weights(self, weight: float) -> None:
        h = 1e-4
        after, before = catmull_rom(weight + h), catmull_rom(weight - h)
        for slope, b, a in zip(catmull_rom_slopes(weight), after, before, strict=True):
            assert slope == pytest.approx((b - a) / (2 * h), abs=1e-7)  # cubic: an error of 3h²

    @quick
    @given(weights)
    def test_weights_sum_to_one_and_turn_round(self, w: float) -> None:
        assert sum(catmull_rom(w)) == pytest.approx(1, abs=1e-15)
        assert catmull_rom(1 - w)[::-1] == pytest.approx(catmull_rom(w), abs=1e-15)

    @quick
    @given(weights, st.floats(-9, 9), st.floats(-9, 9))
    def test_a_straight_line_stays_one(self, w: float, base: float, slope: float) -> None:
        line = [base + slope * i for i in (-1, 0, 1, 2)]
        curve = sum(c * y for c, y in zip(catmull_rom(w), line, strict=True))
        assert curve == pytest.approx(base + slope * w, abs=1e-13)

    def test_ends_are_keyframes_exactly(self) -> None:
        assert catmull_rom(0) == (0, 1, 0, 0)
        assert catmull_rom(1) == (0, 0, 1, 0)

    @pytest.mark.parametrize("w", [-0.1, 1.1, math.nan])
    def test_refuses_what_is_beyond(self, w: float) -> None:
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            catmull_rom(w)

    def test_neighbours_go_round_or_stop(self) -> None:
        assert [neighbours(i, 4, False) for i in range(3)] == [
            (0, 0, 1, 2),
            (0, 1, 2, 3),
            (1, 2, 3, 3),
        ]
        assert [neighbours(i, 3, True) for i in range(3)] == [
            (2, 0, 1, 2),
            (0, 1, 2, 0),
            (1, 2, 0, 1),
        ]
        assert neighbours(0, 2, False) == (0, 0, 1, 1)

    @pytest.mark.parametrize(
        ("index", "count", "loop"),
        [(3, 4, False), (-1, 4, False), (4, 4, True), (0, 1, False), (0, 0, True)],
    )
    def test_refuses_a_segment_that_is_not(self, index: int, count: int, loop: bool) -> None:
        with pytest.raises(ValueError, match=f"segment {index} of {count} keyframes"):
            neighbours(index, count, loop)

    @pytest.mark.parametrize("loop", [False, True])
    def test_through_noises_it_is_smooth_on_the_shell_and_hits_each(self, loop: bool) -> None:
        noises = [draw(seed).double() for seed in range(4)]

        def at(position: float) -> Tensor:
            index = math.floor(position) % 4 if loop else min(math.floor(position), 2)
            own = [noises[i] for i in neighbours(index, 4, loop)]
            return mix(
                own, catmull_rom(position - math.floor(position) if loop else position - index)
            )

        for i in range(4):
            assert torch.equal(at(i), noises[i])
        radii = [norms(x).item() for x in noises]
        for position in (0.3, 1.5, 2.7):
            # The weights of a spline overshoot by 1/8, so lengths leave the range by no more.
            spread = (max(radii) - min(radii)) / 4
            assert min(radii) - spread < norms(at(position)).item() < max(radii) + spread

        # One-sided differences at a joint agree to their own error, a second derivative times h.
        h = 1e-6
        for joint in (0, 1, 2, 3) if loop else (1, 2):
            before, after = (at(joint) - at(joint - h)) / h, (at(joint + h) - at(joint)) / h
            assert (after - before).norm() < 1e-4 * after.norm()
