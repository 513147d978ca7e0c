"""Morphs in the app's folder, found by the id of their run: what of them is on the disk.

An id is all that anyone outside can say, and it names a folder or nothing. Knows no widgets and
renders nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import GreatcircleError, SpecError
from pipeline.record import Plan
from pipeline.timeline import Timeline

if TYPE_CHECKING:
    from pipeline.store import Store

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
EXAMPLE = "20260131-174500-0a1b2c"


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies on the disk. Whatever is missing or damaged in it is not there."""

    id: str
    store: Store
    plan: Plan
    timeline: Timeline | None

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.store.folder

    @property
    def num_frames(self) -> int:
        """How many frames its morph has."""
        return self.plan.spec.num_frames

    def frame(self, index: int) -> Path | None:
        """The file of frame `index`, if it is there and whole."""
        if self.timeline is None or not 0 <= index < len(self.timeline.frames):
            return None
        key = self.timeline.frames[index].key
        try:
            return self.store.frame_file(key) if self.store.has_frame(key) else None
        except ValueError:  # a timeline from somewhere else, whose keys are none
            return None

    def count_frames(self) -> int:
        """How many of its frames are there."""
        frames = self.timeline.frames if self.timeline else ()
        files = {file.stem for file in (self.folder / "frames").glob("*.png")}
        return sum(place.key in files for place in frames)

    def count_renders(self) -> int:
        """How many renders are kept, be they frames or not."""
        return sum(1 for _ in (self.folder / "latents").glob("*.safetensors"))

    @property
    def film(self) -> Path | None:
        """The film, if it is made; of a "png" film its folder."""
        if self.plan.spec.video.kind == "png":
            folder = self.folder / "sequence"
            return folder if folder.is_dir() and not folder.is_symlink() else None
        file = self.folder / f"morph.{self.plan.spec.video.kind}"
        told = self.store.remembered("film")
        is_made = isinstance(told, dict) and told.get("file") == file.name
        return file if is_made and _is_plain(file) else None

    @property
    def report(self) -> Path | None:
        """The figure of what was measured."""
        file = self.folder / "report.png"
        return file if _is_plain(file) else None

    @property
    def verdict(self) -> str | None:
        """What was measured, in a few words."""
        told = self.store.remembered("report")
        verdict = told.get("verdict") if isinstance(told, dict) else None
        return verdict if isinstance(verdict, str) else None


class Runs:
    """The runs in `root`, each in a folder with the name of its id."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, id: str) -> Path:
        """Where the run of that id lies, or would. Raises `SpecError` for what is no id."""
        if not isinstance(id, str) or not _ID.fullmatch(id):
            shown = repr(id) if len(repr(id)) <= 60 else f"{repr(id)[:57]}…"
            raise SpecError(f"run {shown}: must be an id such as {EXAMPLE}")
        return self.root / id

    def list(self, count: int) -> list[str]:
        """The ids of the newest runs, at most so many, the newest first."""
        try:
            names = [entry.name for entry in self.root.iterdir() if _ID.fullmatch(entry.name)]
        except OSError:  # nothing was ever made here
            return []
        return sorted(names, reverse=True)[:count]

    def open(self, id: str) -> StoredRun:
        """The run of that id. Raises `SpecError` where there is none, or none that can be read.

        Raises `OutputError` where the disk refuses.
        """
        from pipeline.outcome import open_run

        folder = self.folder(id)
        if folder.is_symlink() or not (folder / "plan.json").is_file():
            raise SpecError(f"run {id!r}: there is none of that id")
        try:
            store, plan, timeline = open_run(folder)
        except SpecError:
            raise SpecError(f"run {id!r}: cannot be read, its plan is damaged") from None
        return StoredRun(id, store, plan, timeline)

    def open_all(self, count: int) -> list[StoredRun]:
        """The newest runs that can be read, of at most so many, the newest first."""
        found = []
        for id in self.list(count):
            try:
                found.append(self.open(id))
            except GreatcircleError:
                continue  # damaged, or stopped before its plan was written
        return found


def _is_plain(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()
