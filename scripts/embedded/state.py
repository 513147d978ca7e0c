"""A training run that survives a kill: weights, averages, moments and counters in one file."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass
class Training:
    """Modules under one optimizer, their running averages, and how much of the budget is spent."""

    modules: nn.ModuleDict
    file: Path
    minutes: float
    learning_rate: float
    ema_decay: float
    warmup: int = 200
    save_every_seconds: float = 180.0
    step: int = 0
    seconds: float = 0.0
    _last_save: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.modules).requires_grad_(False)
        parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        if self.file.exists():
            self._load()

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, in [0, 1]."""
        return min(1.0, self.seconds / (60 * self.minutes))

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is spent; the learning rate follows, states are saved."""
        while self.progress < 1:
            started = time.monotonic()
            self._set_learning_rate()
            yield self.step
            self.step += 1
            self.seconds += time.monotonic() - started
            if self.seconds - self._last_save > self.save_every_seconds:
                self.save()
        self.save()

    def update(self, loss: Tensor) -> None:
        """One optimizer step on `loss`, gradients clipped at norm 1, averages moved."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        averages, values = list(self.average.parameters()), list(self.modules.parameters())
        torch._foreach_lerp_(averages, [v.detach() for v in values], 1 - decay)

    def _set_learning_rate(self) -> None:
        cosine = 0.5 * (1 + torch.cos(torch.tensor(self.progress * torch.pi)).item())
        rate = self.learning_rate * min(1.0, (self.step + 1) / self.warmup) * max(cosine, 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def save(self) -> None:
        """Write everything under a temporary name, then rename: a kill leaves a whole file."""
        tensors = {f"model.{k}": v for k, v in self.modules.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        temporary = self.file.with_suffix(".part")
        counters = {"step": str(self.step), "seconds": str(self.seconds)}
        save_file(tensors, temporary, metadata=counters)
        os.replace(temporary, self.file)
        self._last_save = self.seconds

    def _load(self) -> None:
        from safetensors import safe_open

        with safe_open(self.file, "pt") as handle:
            counters = handle.metadata()
        tensors = load_file(self.file)
        self.modules.load_state_dict(_below("model.", tensors))
        self.average.load_state_dict(_below("average.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(counters["step"]), float(counters["seconds"])
        self._last_save = self.seconds


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where it is fast: on a GPU, and on CPUs with bfloat16 instructions."""
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
