"""Points become frames: in order, in fixed batches, always the same, and only if finite."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pipeline.codec import Codec, PixelCodec
from pipeline.errors import RenderError
from pipeline.model import Model
from pipeline.render import Progress, points, render, render_steps
from pipeline.spec import Sampling, StillSpec

QUICK = Sampling(num_inference_steps=3, guidance_scale=3.0, scheduler="ddim")


def _pictures(model: Model, spec: StillSpec) -> list[torch.Tensor]:
    return [f.pixels for f in render(model, spec.sampling, points(model, spec))]


def _spec(**values: object) -> StillSpec:
    return StillSpec(**{"prompt": "a red apple", "sampling": QUICK, **values})


def test_a_frame_for_every_seed_in_order(tiny: Model):
    spec = _spec(seed=5, count=3)

    frames = list(render(tiny, QUICK, points(tiny, spec)))

    assert [f.index for f in frames] == [0, 1, 2]
    for frame, seed in zip(frames, (5, 6, 7), strict=True):
        assert torch.equal(frame.pixels, _pictures(tiny, _spec(seed=seed))[0])


def test_every_step_of_every_batch_is_told(tiny: Model):
    sampling = QUICK.replace(batch_size=2)

    events = list(render_steps(tiny, sampling, points(tiny, _spec(count=3))))
    told = [(tuple(e.indices), e.index, e.count) for e in events if isinstance(e, Progress)]

    assert told == [((0, 1), i, 3) for i in range(3)] + [((2,), i, 3) for i in range(3)]


def test_a_preview_is_a_picture_for_each_frame(tiny: Model):
    sampling = QUICK.replace(batch_size=2)

    first = next(iter(render_steps(tiny, sampling, points(tiny, _spec(count=2)))))

    assert isinstance(first, Progress)
    assert [type(p) for p in first.preview()] == [Image.Image] * 2


def test_neighbours_and_padding_do_not_change_a_frame(tiny: Model):
    """At one batch size: the last of three is padded, the first of one too."""
    sampling = QUICK.replace(batch_size=2)

    together = _pictures(tiny, _spec(count=3, sampling=sampling))
    alone = _pictures(tiny, _spec(seed=2, sampling=sampling))

    assert torch.equal(together[2], alone[0])


def test_batch_sizes_differ_by_rounding_only(tiny: Model):
    one = _pictures(tiny, _spec(count=2))
    two = _pictures(tiny, _spec(count=2, sampling=QUICK.replace(batch_size=2)))

    # Other batch sizes sum in another order: 2e-6 a forward was measured, and three steps carry it.
    assert (torch.cat(one) - torch.cat(two)).abs().max() < 1e-4


def test_guidance_costs_one_call_a_step_and_the_text_is_read_once(tiny: Model):
    calls = {"unet": 0, "text": 0}
    encoder = tiny.text.encoders[0].encoder
    hooks = [
        tiny.unet.register_forward_hook(lambda *_: calls.update(unet=calls["unet"] + 1)),
        encoder.register_forward_hook(lambda *_: calls.update(text=calls["text"] + 1)),
    ]
    _ = tiny.empty_embeds
    calls["text"] = 0

    _pictures(tiny, _spec(count=2, negative_prompt="a pear"))
    for hook in hooks:
        hook.remove()

    assert calls == {"unet": 2 * 3, "text": 2}


def test_points_with_other_guidance_and_longer_prompts_share_a_batch(tiny: Model):
    (short,) = points(tiny, _spec())
    (long,) = points(tiny, _spec(prompt="a red apple " * 10))
    plain = replace(short, guidance_scale=1.0)
    sampling = QUICK.replace(batch_size=3)

    frames = list(render(tiny, sampling, [short, long, plain]))

    assert len({f.pixels.numpy().tobytes() for f in frames}) == 3


def test_who_stops_asking_has_cancelled(tiny: Model):
    calls = []
    hook = tiny.unet.register_forward_hook(lambda *_: calls.append(1))

    events = render_steps(tiny, QUICK, points(tiny, _spec(count=50)))
    next(events)
    events.close()
    hook.remove()

    assert len(calls) == 1


class Broken(Codec):
    """Decodes to numbers that are none."""

    channels, downscale = 4, 2

    def __init__(self, value: float) -> None:
        self.value = value

    def encode(self, pixels):
        return pixels

    def decode(self, latents):
        return torch.full((1, 3, 32, 32), self.value)

    def preview(self, latents):
        return latents[:, :3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_pixels_that_are_not_finite_are_no_frame(tiny: Model, value: float):
    with pytest.raises(RenderError, match="frame 0: its pixels are not finite"):
        _pictures(replace(tiny, codec=Broken(value)), _spec())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_network_that_breaks_is_caught(tiny: Model, value: float):
    hook = tiny.unet.register_forward_hook(lambda _m, _i, output: (output[0] * value,))

    try:
        with pytest.raises(RenderError, match="not finite"):
            _pictures(tiny, _spec())
    finally:
        hook.remove()


def test_running_out_of_memory_is_said_and_the_next_render_works(tiny: Model):
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    hook = tiny.unet.register_forward_hook(fail)
    with pytest.raises(RenderError, match=r"out of memory on cpu at batch_size = 1, 32 × 32"):
        _pictures(tiny, _spec())
    hook.remove()

    assert _pictures(tiny, _spec())


def test_pixel_space_renders_through_the_same_loop(tiny: Model):
    """The latent-against-pixel comparison rests on this: another codec, no other code."""

    class Pixels:
        config = SimpleNamespace(time_cond_proj_dim=None, addition_embed_type=None)

        def __call__(self, latents, timestep, encoder_hidden_states, return_dict):
            return (latents * 0.1,)

    model = replace(tiny, codec=PixelCodec(), unet=Pixels())

    (pixels,) = _pictures(model, _spec())

    assert pixels.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("scheduler", ["pndm", "euler-ancestral", "dpm++2m", "unipc"])
def test_threads_that_share_a_model_do_not_disturb_each_other(tiny: Model, scheduler: str):
    """A shared PNDM gives silently wrong pictures, shared Euler and DPM++ crash."""
    sampling = QUICK.replace(scheduler=scheduler)
    specs = [_spec(seed=seed, sampling=sampling) for seed in range(16)]
    serial = [_pictures(tiny, spec)[0] for spec in specs]

    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(lambda spec: _pictures(tiny, spec)[0], specs))

    assert all(torch.equal(a, b) for a, b in zip(serial, parallel, strict=True))
