"""The hub's cache on this machine, and what the hub's refusals mean.

The cache is the one that all its programs share (huggingface.co/docs/hub/local-cache), so that
nothing is fetched twice. The hub's own client reads HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE. Knows no file's content but a model index; asks no network.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import CheckpointError, GreatcircleError, OutputError, SpecError
from pipeline.files import parse_json, write_atomically
from pipeline.headers import naming
from pipeline.repository import INDEX, PARTS, SAFETY_PARTS, choose_files

MAX_INDEX_BYTES = 10**6

_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def find_store(repository: str) -> Path:
    """Where the hub's cache keeps that model, whether or not it does."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    return cache / f"models--{repository.replace('/', '--')}"


def find_snapshot(
    repository: str, revision: str | None = None, *, safety_checker: bool = False
) -> Path | None:
    """The folder (or single file) of that model in the hub's cache; None where there is none.

    A branch stays at the commit at which it was downloaded. Raises CheckpointError with what is
    missing where the model is there in part, SpecError for a revision that cannot be one.
    """
    revision = check_revision(revision)
    store = find_store(repository)
    ref = store / "refs" / revision
    commit = ref.read_text(errors="replace").strip() if ref.is_file() else revision
    folder = store / "snapshots" / commit
    if not is_commit(commit) or not folder.is_dir():
        return None
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    with naming(f"model {repository!r}: is not whole on this machine"):
        named = _named_parts(folder / INDEX)
        files = choose_files(names, safety_checker=safety_checker, parts=named)
    return folder / files[0] if len(files) == 1 else folder


def note_commit(repository: str, revision: str, commit: str) -> None:
    """Remember which commit a branch or tag stood for: done when that commit is whole here."""
    if revision != commit:
        ref = find_store(repository) / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(ref, lambda stream: stream.writelines([commit.encode()]))


def check_revision(revision: str | None) -> str:
    """`revision` if it may be a branch, a tag or a commit, `main` for None. Raises SpecError."""
    name = "main" if revision is None else revision
    if not _REVISION.fullmatch(name) or ".." in name or len(name) > 200:
        raise SpecError(f"revision = {name[:60]!r}: must be a branch, a tag or a commit of the hub")
    return name


def is_commit(text: str) -> bool:
    """Whether `text` is the full name of a commit."""
    return _COMMIT.fullmatch(text) is not None


@contextmanager
def explaining(repository: str, revision: str) -> Iterator[None]:
    """One line for whatever the hub, its client, the network or the disk raises inside.

    The lines are ours from end to end: what the client says may hold addresses and tokens.
    """
    try:
        yield
    except GreatcircleError:
        raise
    except Exception as error:  # noqa: BLE001 - the client raises from several libraries
        raise _explain(error, f"model {repository!r}", repository, revision) from None


def _explain(error: Exception, subject: str, repository: str, revision: str) -> GreatcircleError:
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    match error:
        case errors.OfflineModeIsEnabled():
            return say_absent(repository)
        case errors.HFValidationError():
            reason = "is no valid id of the hub, which are OWNER/NAME"
        case errors.RevisionNotFoundError():
            reason = f"has no revision {revision!r} on the hub"
        case errors.DisabledRepoError():
            reason = "has been disabled on the hub"
        case errors.RepositoryNotFoundError() if not isinstance(error, errors.GatedRepoError):
            reason = (
                "there is no such model on the hub, or it is private: check how it is spelt, or"
                " set HF_TOKEN to a token that may read it"
            )
        case errors.HfHubHTTPError() if status in (401, 403):
            reason = (
                "is open only to accounts that accepted its licence: accept it on the model's page"
                " and set HF_TOKEN to a token of that account"
            )
        case errors.HfHubHTTPError():
            reason = f"the hub answered {status}: try again later"
        case OSError() if error.errno is not None:
            return _explain_disk(error, subject)
        case _:
            kind = type(error).__name__
            reason = f"the hub cannot be reached ({kind}): check the network, or give a folder"
    return CheckpointError(f"{subject}: {reason}")


def say_absent(repository: str) -> CheckpointError:
    """That a model is not here, and what to do about it."""
    if is_offline():
        reason = "is not on this machine, and HF_HUB_OFFLINE is set: unset it, or give a folder"
    else:
        reason = "is not on this machine yet: it has to be downloaded first"
    return CheckpointError(f"model {repository!r}: {reason}")


def _explain_disk(error: OSError, subject: str) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full; what has arrived stays, and the next download goes on from it"
    else:
        reason = f"the hub's cache (HF_HOME) cannot be written to: {error.strerror}"
    return OutputError(f"{subject}: {reason}")


def _named_parts(index: Path) -> set[str]:
    """The parts that a model index names and that are loaded without being asked for."""
    try:
        with index.open("rb") as stream:
            named = parse_json(stream.read(MAX_INDEX_BYTES))
    except (OSError, ValueError):
        return set()  # it is missing, or `checkpoint` will say what is wrong with it
    named = named if isinstance(named, dict) else {}
    return {part for part in PARTS if named.get(part) not in (None, [None, None])} - SAFETY_PARTS
