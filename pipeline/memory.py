"""Where the parts of a model lie: all on its device, or there one at a time.

Knows modules and free memory; knows nothing of what the parts compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

ROOM = 2 * 2**30
"""Bytes that denoising and decoding one large picture take beside the weights."""


def place(parts: Sequence[nn.Module], device: torch.device, low_memory: bool | None) -> str | None:
    """Put `parts`, in the order in which they are used, on `device`; a line if it is cramped.

    With `low_memory` each part goes there when it is called, and back when the next one is; the
    autoencoder, which is the last, works in tiles. None: where the free memory asks for it.
    """
    needed = sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())
    free = free_bytes(device)
    is_cramped = free is not None and free < needed + ROOM
    if not (is_cramped if low_memory is None else low_memory):
        for part in parts:
            part.to(device)
        return None
    if device.type != "cpu":
        _offload(parts, device)
    last: Any = parts[-1]
    if hasattr(last, "enable_tiling"):
        last.enable_tiling()
    reason = "as asked" if free is None or low_memory else f"{free / 2**30:.1f} GiB are free"
    return f"low memory ({reason}): parts take turns on {device}, pictures are decoded in tiles"


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a CUDA device; None elsewhere, where the system swaps."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _offload(parts: Sequence[nn.Module], device: torch.device) -> None:
    from accelerate import cpu_offload_with_hook

    hook: Any = None
    for part in parts:
        _, hook = cpu_offload_with_hook(part, device, prev_module_hook=hook)
