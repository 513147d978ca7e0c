"""Where a benchmark ran: the processor, the versions, the commit. Never a path, never a host."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROOT = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 10


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device by its kind and name, the processor's cores, and the threads torch uses.

    `load` is how many programs ran at once in the last minute, where the system tells it.
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "name": name or _name_processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def warn_if_busy(machine: dict[str, Any]) -> str | None:
    """A line for who measures beside other programs, or None."""
    load, cores = machine["load"], machine["cores"]
    if load is None or cores is None or load < cores / 2:
        return None
    return f"warning: this machine is busy (load {load} on {cores} cores): times will be too long"


def find_commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a checkout."""
    if not (_ROOT / ".git").exists():  # a folder around the program is not its checkout
        return None
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    if commit is None:
        return None
    return f"{commit} with changes" if changes else commit


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [git, "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _name_processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
