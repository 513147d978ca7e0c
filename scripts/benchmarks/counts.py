"""What a film asks of the networks, and how often the processor waits for the device.

Knows a model's parts and how they are called; knows no clock and no way of making films.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.denoise import create_scheduler, denoise, start_latents
from pipeline.guidance import guide
from pipeline.ladder import META
from pipeline.model import Model
from pipeline.network import bind
from pipeline.spec import MorphSpec
from pipeline.tensors import PromptEmbeds


@dataclass(kw_only=True)
class Counts:
    """Calls of the UNet and the samples in them, calls of text encoders, pictures decoded."""

    unet_calls: int = 0
    unet_samples: int = 0
    text_calls: int = 0
    decoded: int = 0


@contextmanager
def counting(model: Model) -> Iterator[Counts]:
    """Count what is asked of the parts of `model`, by whatever holds them, inside the block."""
    counts = Counts()

    def see_unet(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        counts.unet_calls += 1
        counts.unet_samples += len(inputs[0])

    def see_text(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        counts.text_calls += 1

    def see_decoder(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        counts.decoded += len(inputs[0])

    decoder: nn.Module = model.codec.vae.decoder  # type: ignore[attr-defined]
    watched = [(model.unet, see_unet), (decoder, see_decoder)]
    watched += [(one.encoder, see_text) for one in model.text.encoders]
    with ExitStack() as stack:
        for module, see in watched:
            stack.callback(module.register_forward_pre_hook(see).remove)
        yield counts


def count_waits(model: Model, spec: MorphSpec) -> int:
    """How often the processor would wait for a device in all steps of our loop, on any machine.

    `spec` is resolved. The loop runs over shapes alone: a number that is read there is one that a
    device would have to be waited for, and is made up.
    """
    sampling, unet = spec.sampling, shape_of(model.unet)
    assert sampling.scheduler is not None and sampling.num_inference_steps is not None
    assert sampling.height is not None and sampling.width is not None
    scheduler = create_scheduler(
        sampling.scheduler, model.scheduler_config, sampling.num_inference_steps, "cpu"
    )
    scheduler.timesteps = scheduler.timesteps.to(META)  # all that schedulers keep on a device
    tokens = model.text.encoders[0].tokenizer.model_max_length
    prompt = PromptEmbeds(torch.empty(1, tokens, unet.config.cross_attention_dim, device=META))
    scale = torch.empty(1, device=META)
    predict = guide(bind(unet, (sampling.height, sampling.width), scale), prompt, prompt, scale)
    noise = torch.empty(1, *model.noise_shape(sampling), device=META)
    watcher, latents = _Waits(), start_latents(scheduler, noise)
    with watcher:
        for _ in denoise(predict, scheduler, latents, scheduler.timesteps):
            pass
    return watcher.count


def shape_of(module: Any) -> Any:
    """The same network of diffusers' on the meta device, where it is shapes alone; frozen."""
    config = {key: value for key, value in module.config.items() if not key.startswith("_")}
    with META:
        shape: nn.Module = type(module)(**config)
    return shape.eval().requires_grad_(False)


class _Waits(TorchDispatchMode):
    """Counts the operations that read what is on the meta device, and gives something for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, first = func._schema.name, args[0] if args else None
        if not (isinstance(first, Tensor) and first.is_meta):
            return func(*args, **(kwargs or {}))
        target = (kwargs or {}).get("device")
        match name:
            case "aten::_local_scalar_dense":
                self.count += 1
                return torch.zeros((), dtype=first.dtype).item()
            case "aten::nonzero":
                self.count += 1
                return torch.zeros(1, first.dim(), dtype=torch.int64, device=META)
            case "aten::_to_copy" if target is not None and target.type != "meta":
                self.count += 1
                return torch.zeros(first.shape, dtype=first.dtype)
        return func(*args, **(kwargs or {}))
