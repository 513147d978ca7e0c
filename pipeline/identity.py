"""What a frame is, as a key: the same key means the same picture, bit for bit.

That holds for one machine's libraries, device, dtype and number of threads; all but the last are
part of the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pipeline.model import Model
from pipeline.path import Point
from pipeline.record import current_versions
from pipeline.spec import Sampling


@final
class Identity:
    """The keys of what `model` makes under a complete `sampling`, 64 hexadecimal digits each."""

    def __init__(self, model: Model, sampling: Sampling) -> None:
        self._base = _digest(
            model.hash,
            dict(sorted(model.hashes.items())),
            dict(model.scheduler_config),
            sampling.model_dump(mode="json"),
            [model.device.type, str(model.dtype)],
            {name: v for name, v in current_versions().items() if name != "python"},
        )

    def rendered(self, point: Point) -> str:
        """The key of what is rendered from `point`: its latents, and the frame of them."""
        prompts = (point.prompt_embeds, point.negative_prompt_embeds)
        tensors = [point.noise, *(t for p in prompts for t in (p.embeds, p.pooled))]
        noise = point.step_noise
        return _digest(
            self._base,
            [_hash_tensor(tensor) for tensor in tensors],
            point.guidance_scale,
            [noise.seeds, noise.weights, noise.is_arc],
        )

    def solved(self, position: float, support: Iterable[tuple[float, str]]) -> str:
        """The key of the frame at `position` of a curve through renders, by place and by key."""
        return _digest("solved", self._base, position, list(support))

    def timed(self, support: Iterable[tuple[float, str]], settings: Sequence[Any]) -> str:
        """The key of the map from time to position of a curve through renders."""
        return _digest("timed", self._base, list(support), list(settings))


def _digest(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_tensor(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    raw = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    shape = f"{tensor.dtype}{tuple(tensor.shape)}"
    return hashlib.sha256(shape.encode() + raw.tobytes()).hexdigest()
