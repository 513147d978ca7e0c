"""Models from the hub: what a download needs, told before it begins, and the download.

Fetches by itself and lets the hub's client do the rest: the client neither goes on with a file that
it left in the middle nor stops in one when told to. Knows nothing of what is in a file beyond its
hash; asks nobody whether to begin. Errors name the model, never an address, an answer or a token.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import CheckpointError, OutputError
from pipeline.headers import naming
from pipeline.hub import (
    check_revision,
    explaining,
    find_snapshot,
    find_store,
    is_commit,
    note_commit,
)
from pipeline.repository import choose_files

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

RETRIES = 5
PAUSE_SECONDS = 1.0
"""After a lost connection; as much longer after each further one that brought nothing."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LICENCE = re.compile(r"license:([\w.+-]{1,60})", re.ASCII)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its SHA-256, or git's SHA-1 of it where it is small."""

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be downloaded: the `files` that are not here yet, all of one `commit`.

    `licence` is the hub's word for it, None where it has none.
    """

    repository: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None = None

    @property
    def total_bytes(self) -> int:
        """How much it is."""
        return sum(file.bytes for file in self.files)

    @property
    def summary(self) -> str:
        """One line to say yes or no to."""
        licence = f", licence {self.licence}" if self.licence else ""
        return (
            f"{self.repository} at {self.commit[:10]}: {say_bytes(self.total_bytes)} in"
            f" {len(self.files)} files{licence}"
        )


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is, and in which file."""

    done_bytes: int
    total_bytes: int
    file: str


def say_bytes(count: int) -> str:
    """`count` with the unit that suits it: 2.1 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def plan_download(
    repository: str,
    revision: str | None = None,
    *,
    prefer_half: bool = False,
    safety_checker: bool = False,
) -> Plan | None:
    """What has to be downloaded for that model; None where it is whole in the hub's cache.

    Asks the hub for a list, and fetches nothing; where the model is here, in whichever precision,
    the hub is not even asked. `prefer_half` takes the half precision of each part that has one,
    which is what a GPU computes in. Raises CheckpointError where the model is not to be had or has
    a part only as a pickle, SpecError for a revision that cannot be one.
    """
    try:
        if find_snapshot(repository, revision, safety_checker=safety_checker):
            return None
    except CheckpointError:
        pass  # it is here in part: the rest is planned
    revision = check_revision(revision)
    with explaining(repository, revision):
        info = _ask(repository, revision)
        with naming(f"model {repository!r}"):
            plan = _plan(info, repository, revision, prefer_half, safety_checker)
        if plan.files:
            return plan
        note_commit(repository, revision, plan.commit)
    find_snapshot(repository, revision, safety_checker=safety_checker)  # says what is not there
    return None


def download(plan: Plan) -> Iterator[DownloadProgress]:
    """Fetch what is planned, and say after every piece how far it is.

    A piece is what one read from the network brings, some 64 KiB: closing the generator stops
    there. What has arrived stays, also where the program is killed, and the next download goes on
    from it. A file gets its name only when its hash is the announced one. Raises OutputError where
    the disk does not have the space, CheckpointError where the hub does not deliver.
    """
    done, total = 0, plan.total_bytes
    with explaining(plan.repository, plan.revision):
        _require_space(plan)
        for file in plan.files:
            for arrived in _fetch(plan, file):
                yield DownloadProgress(done + arrived, total, file.name)
            _link(plan, file)
            done += file.bytes
            yield DownloadProgress(done, total, file.name)
        note_commit(plan.repository, plan.revision, plan.commit)


def _ask(repository: str, revision: str) -> ModelInfo:
    """What the hub says of the model at that revision; where it is gated, access is tried."""
    from huggingface_hub import HfApi

    hub = HfApi()
    info = hub.model_info(repository, revision=revision, files_metadata=True, timeout=_timeout())
    if info.gated:
        hub.auth_check(repository)
    return info


def _plan(
    info: ModelInfo, repository: str, revision: str, prefer_half: bool, safety_checker: bool
) -> Plan:
    """The plan that the hub's list leads to, less what is here."""
    commit = info.sha or ""
    if not is_commit(commit):
        raise CheckpointError("the hub names no commit")
    listed = {file.rfilename: file for file in info.siblings or ()}
    chosen = choose_files(listed, prefer_half=prefer_half, safety_checker=safety_checker)
    snapshot = find_store(repository) / "snapshots" / commit
    found = map(_LICENCE.fullmatch, info.tags or ())
    return Plan(
        repository=repository,
        revision=revision,
        commit=commit,
        files=tuple(_describe(listed[name]) for name in chosen if not (snapshot / name).is_file()),
        licence=next((tag[1] for tag in found if tag), None),
    )


def _describe(listed: RepoSibling) -> RemoteFile:
    digest = (listed.lfs.sha256 if listed.lfs else listed.blob_id) or ""
    if listed.size is None or not _DIGEST.fullmatch(digest):
        raise CheckpointError(f"{listed.rfilename}: the hub does not say its size or its hash")
    return RemoteFile(listed.rfilename, listed.size, digest)


def _fetch(plan: Plan, file: RemoteFile) -> Iterator[int]:
    """How much of `file` is here, after every piece; in the end it is whole among the blobs."""
    blob = find_store(plan.repository) / "blobs" / file.digest
    part = blob.with_name(f"{blob.name}.incomplete")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with _locking(plan, file):
        if blob.exists():
            return
        with part.open("ab") as stream:
            digest = yield from _fill(stream, plan, file)
            stream.flush()
            os.fsync(stream.fileno())
        if digest != file.digest:
            part.unlink()
            raise CheckpointError(
                f"model {plan.repository!r}: what arrived of {file.name} is not what the hub"
                " announced, and was thrown away: try again"
            )
        os.replace(part, blob)


def _fill(stream: BinaryIO, plan: Plan, file: RemoteFile) -> Generator[int, None, str]:
    """Append to `stream` what it lacks of `file`, and yield its length; the hash of it all."""
    length, digest = stream.tell(), _start_digest(file)
    with Path(stream.name).open("rb") as begun:
        while piece := begun.read(2**20):
            digest.update(piece)
    yield min(length, file.bytes)
    for start, piece in _receive(plan, file, length):
        if start != length:  # the server cannot go on in the middle
            stream.truncate(start)
            length, digest = start, _start_digest(file)
        stream.write(piece)
        digest.update(piece)
        length += len(piece)
        if length > file.bytes:
            break
        yield length
    return digest.hexdigest() if length == file.bytes else ""


def _start_digest(file: RemoteFile) -> Any:
    """The kind of hash that `file` is announced with: SHA-256, or git's of a blob."""
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)


def _receive(plan: Plan, file: RemoteFile, start: int) -> Iterator[tuple[int, bytes]]:
    """The bytes of `file` from `start` on, each piece with its place; lost connections resumed.

    Where the server does not know how to begin in the middle, the pieces begin anew at 0. Gives up
    when `RETRIES` connections in a row brought nothing new.
    """
    furthest, failures = start, 0
    while start < file.bytes:
        lost: Exception | None = None
        try:
            for place, piece in _request(plan, file, start):
                yield place, piece
                start = place + len(piece)
        except OSError:
            raise  # the hub itself says no
        except Exception as error:  # noqa: BLE001 - each transport has names of its own for it
            lost = error
        failures = 0 if start > furthest else failures + 1
        furthest = max(furthest, start)
        if failures > RETRIES:
            raise lost or ConnectionError("nothing came")
        if start < file.bytes:
            time.sleep(PAUSE_SECONDS * max(failures, 1))


def _request(plan: Plan, file: RemoteFile, start: int) -> Iterator[tuple[int, bytes]]:
    """What one connection brings."""
    from huggingface_hub import hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
        build_hf_headers,
        http_stream_backoff,
    )

    url = hf_hub_url(plan.repository, file.name, revision=plan.commit)
    headers = build_hf_headers(headers={"Accept-Encoding": "identity", "Range": f"bytes={start}-"})
    with http_stream_backoff(
        "GET", url, headers=headers, timeout=_timeout(), retry_on_exceptions=()
    ) as response:
        hf_raise_for_status(response)
        start = start if response.status_code == 206 else 0
        for piece in response.iter_bytes():
            yield start, piece
            start += len(piece)


def _link(plan: Plan, file: RemoteFile) -> None:
    """Give a blob its name in the snapshot, as the hub's client does it."""
    from huggingface_hub import hf_hub_download

    name = Path(hf_hub_download(plan.repository, file.name, revision=plan.commit))
    if not name.is_symlink():  # where a disk has no links, what is there now is a copy
        (find_store(plan.repository) / "blobs" / file.digest).unlink(missing_ok=True)


def _require_space(plan: Plan) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    store = find_store(plan.repository)
    store.mkdir(parents=True, exist_ok=True)
    begun = [store / "blobs" / f"{file.digest}.incomplete" for file in plan.files]
    needed = plan.total_bytes - sum(part.stat().st_size for part in begun if part.exists())
    free = shutil.disk_usage(store).free
    if free < needed:
        raise OutputError(
            f"model {plan.repository!r}: {say_bytes(needed)} are to be downloaded, and"
            f" {say_bytes(free)} are free where the hub's cache is (HF_HOME)"
        )


@contextmanager
def _locking(plan: Plan, file: RemoteFile) -> Iterator[None]:
    """Nobody else downloads `file`. Generators move between threads, and so does this lock."""
    from filelock import FileLock, Timeout

    store = find_store(plan.repository)
    place = store.parent / ".locks" / store.name / f"{file.digest}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(place, thread_local=False).acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"model {plan.repository!r}: is being downloaded already: wait until that has ended"
        ) from None
    with held:
        yield


def _timeout() -> float:
    """Seconds without an answer after which a connection counts as lost."""
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT
