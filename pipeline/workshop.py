"""Latents and frames at positions of a path, made once and kept on the disk, by key.

Knows a path, a model and a store; knows no frames' order and no time. What is there and verifies is
taken from there, whoever made it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from pipeline.identity import Identity
from pipeline.model import Model
from pipeline.path import Path
from pipeline.render import Progress, Sample, check_finite, decode, sample_steps
from pipeline.sharing import Waiting, share
from pipeline.spec import Sampling
from pipeline.store import Store
from pipeline.tensors import Latents, Pixels

Making = Progress | Waiting


@final
class Workshop:
    """What `path` holds, made with `model` under a complete `sampling`, in `store`."""

    def __init__(self, store: Store, model: Model, sampling: Sampling, path: Path) -> None:
        self.store, self.model, self.sampling, self.path = store, model, sampling, path
        self.identity = Identity(model, sampling)
        self._keys: dict[float, str] = {}
        self._sampled: set[str] = set()
        self._framed: set[str] = set()

    def key(self, position: float) -> str:
        """The key of what is rendered at `position`."""
        if position not in self._keys:
            self._keys[position] = self.identity.rendered(self.path(position))
        return self._keys[position]

    def is_sampled(self, key: str) -> bool:
        """Whether latents of that key are there, and whole."""
        if key not in self._sampled and self.store.load_latents(key) is not None:
            self._sampled.add(key)
        return key in self._sampled

    def is_framed(self, key: str) -> bool:
        """Whether a frame of that key is there, and whole."""
        if key not in self._framed and self.store.has_frame(key):
            self._framed.add(key)
        return key in self._framed

    def chunks(self, keys: Sequence[str]) -> list[Sequence[str]]:
        """`keys` by batches of the loop."""
        size = self.sampling.batch_size or 1
        return [keys[k : k + size] for k in range(0, len(keys), size)]

    def render(self, positions: Sequence[float]) -> Iterator[Making | Latents]:
        """The latents at each of `positions`, in their order; and the steps on the way to them."""
        keys = deque(self.key(position) for position in positions)
        places = dict(zip(keys, positions, strict=True))

        def work(missing: list[str]) -> Iterator[Making]:
            return self.sample([places[key] for key in missing])

        for event in share(self.store, self.chunks(list(keys)), self.is_sampled, work):
            yield event
            while keys and keys[0] in self._sampled:
                yield self.load(keys.popleft())
        yield from map(self.load, keys)

    def sample(self, positions: Sequence[float]) -> Iterator[Making]:
        """Put the latents at `positions` into the store, one batch after the other."""
        points = map(self.path, positions)
        for event in sample_steps(self.model, self.sampling, points):
            if isinstance(event, Sample):
                check_finite(self.model, f"position {positions[event.index]:g}", event.latents)
                key = self.key(positions[event.index])
                self.store.save_latents(key, event.latents)
                self._sampled.add(key)
            else:
                yield event

    def load(self, key: str) -> Latents:
        """The latents of `key`, which are there, where the model runs."""
        latents = self.store.load_latents(key)
        assert latents is not None, f"latents {key} were there a moment ago"
        return latents.to(self.model.device)

    def decode(self, latents: Latents) -> Pixels:
        """The picture of `latents` in float32 on the CPU."""
        return self.model.codec.decode(latents).float().cpu()

    def save_frame(
        self, key: str, position: float, latents: Latents, record: Mapping[str, Any] | None
    ) -> bool | None:
        """Decode and keep a frame; what the safety checker says of it, where there is one."""
        sample = Sample(index=0, point=self.path(position), latents=latents)
        frame = decode(self.model, sample)
        self.store.save_frame(key, frame.image, record)
        self._framed.add(key)
        return frame.flagged
