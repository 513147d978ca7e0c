"""How much memory a piece of work takes at most, as the device or the system itself says.

Knows nothing of what the work is.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def watch_peak(device: torch.device, work: Callable[[], object]) -> int | None:
    """Bytes that `work` takes at most above what is in use before it.

    On CUDA, of what torch has allocated. On Linux, of the process's resident memory: the system's
    own high-water mark (VmHWM), set back before, with malloc's unused pages given up. Elsewhere
    None: what is not known is not guessed.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    knows = device.type == "cpu" and _reset_high_water()
    before = _read_status("VmRSS") if knows else 0
    work()
    return _read_status("VmHWM") - before if knows else None


def _reset_high_water() -> bool:
    """Whether the process's high-water mark could be set back to what it uses now."""
    if not sys.platform.startswith("linux"):
        return False
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: the high-water mark alone
    except OSError:
        return False
    return True


def _read_status(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")
