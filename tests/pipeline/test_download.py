"""Downloads from a hub of our own: what is fetched, what is not, and what is said when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import download as module
from pipeline.download import Plan, download, plan_download, say_bytes
from pipeline.errors import CheckpointError, OutputError, SpecError
from pipeline.hub import find_snapshot, find_store
from pipeline.model import load_model
from pipeline.sources import find_source, pinned_revision
from pipeline.spec import ModelSpec
from tests.hub import Hub, connect, digest_of, read_files, serve

NAME = "ana/tiny"
COMMIT = "a" * 40
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without models, and an empty cache; no waiting for lost connections and slow disks."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with serve() as hub:
        connect(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def tiny_files(tiny_folder: Path) -> dict[str, bytes]:
    """A checkpoint as it lies on the hub: much that nobody needs lies around it."""
    files = read_files(tiny_folder)
    clutter = [
        "README.md", "model.ckpt", "v1.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/model.onnx",
        "unet/diffusion_flax_model.msgpack", "vae_decoder/model.onnx",
        "safety_checker/model.safetensors", "safety_checker/config.json",
        "feature_extractor/preprocessor_config.json", "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]  # fmt: skip
    return files | {name: name.encode() for name in clutter}


def plan(name: str = NAME, revision: str | None = None, **options: bool) -> Plan:
    found = plan_download(name, revision, **options)
    assert found is not None
    return found


def fetch(name: str = NAME, revision: str | None = None, **options: bool) -> None:
    list(download(plan(name, revision, **options)))


def run(code: str, root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Another Python, which knows of the hub what `variables` say."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSF"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=root, env=kept | variables, capture_output=True, text=True)


# What is fetched


def test_a_checkpoint_is_planned_downloaded_and_loaded(
    hub: Hub, tiny_files: dict[str, bytes], tiny_folder: Path
) -> None:
    hub.add(NAME, tiny_files)

    planned = plan()
    names = {file.name for file in planned.files}
    assert hub.bodies() == []
    assert names == read_files(tiny_folder).keys()
    assert planned.total_bytes == sum(len(tiny_files[name]) for name in names)
    assert planned.commit == COMMIT
    assert planned.licence == "openrail++"
    assert planned.summary.startswith(f"ana/tiny at aaaaaaaaaa: {say_bytes(planned.total_bytes)}")

    list(download(planned))

    assert {name.rpartition("/")[2] for name in hub.bodies()} >= {UNET.rpartition("/")[2]}
    folder = find_source(NAME)
    assert read_files(folder) == {name: tiny_files[name] for name in names}
    model = load_model(ModelSpec(source=NAME, device="cpu"))
    assert model.hash == load_model(ModelSpec(source=str(tiny_folder), device="cpu")).hash


def test_progress_begins_at_nothing_only_grows_and_ends_whole(
    hub: Hub, tiny_files: dict[str, bytes]
) -> None:
    hub.add(NAME, tiny_files | {UNET: bytes(10**6)})
    planned = plan()

    steps = list(download(planned))

    done = [step.done_bytes for step in steps]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == planned.total_bytes
    assert {step.total_bytes for step in steps} == {planned.total_bytes}
    within = [step for step in steps if step.file == UNET]
    assert len(within) > 3, "it does not move within a large file"


def test_the_second_time_nothing_is_asked(hub: Hub, tiny_files: dict[str, bytes]) -> None:
    hub.add(NAME, tiny_files)
    fetch()
    hub.requests.clear()

    assert plan_download(NAME) is None
    assert plan_download(NAME, COMMIT) is None
    assert plan_download(NAME, prefer_half=True) is None
    assert hub.requests == []


def test_the_cache_is_shared_with_other_programs(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # not spoken here
    hub.add(NAME, tiny_files)
    names = [file.name for file in plan().files]
    paths = [Path(hf_hub_download(NAME, name, revision=COMMIT)) for name in names]
    hub.requests.clear()

    assert plan_download(NAME, COMMIT) is None
    assert plan_download(NAME) is None, "main turns out to be that commit"
    assert hub.bodies() == []
    assert find_snapshot(NAME) == paths[names.index("model_index.json")].parent
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Path(snapshot_download(NAME)) == find_snapshot(NAME), "others find what was noted"


def test_all_files_are_of_the_commit_that_was_planned(
    hub: Hub, tiny_files: dict[str, bytes]
) -> None:
    repository = hub.add(NAME, tiny_files)
    planned = plan()
    repository.commits["b" * 40] = dict.fromkeys(tiny_files, b"{}")
    repository.refs["main"] = "b" * 40  # between the yes and the download

    list(download(planned))

    assert pinned_revision(NAME, find_source(NAME)) == COMMIT
    asked = hub.asked("GET", "/resolve/") + hub.asked("HEAD", "/resolve/")
    assert asked
    assert all(f"/resolve/{COMMIT}/" in path for path in asked)


@pytest.mark.parametrize("revision", ["fp16", "refs/pr/3", COMMIT])
def test_a_revision_is_found_again(hub: Hub, tiny_files: dict[str, bytes], revision: str) -> None:
    hub.add(NAME, tiny_files).refs = {revision: COMMIT}

    fetch(revision=revision)

    assert find_source(NAME, revision).name == COMMIT
    assert plan_download(NAME, revision) is None
    assert find_snapshot(NAME) is None, "the main branch is another one"


def test_the_half_precision_is_taken_where_asked_for(
    hub: Hub, tiny_files: dict[str, bytes]
) -> None:
    hub.add(NAME, tiny_files)

    names = {file.name for file in plan(prefer_half=True).files}

    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert UNET not in names
    assert "vae/diffusion_pytorch_model.safetensors" in names, "the vae has no other"


def test_half_precision_alone_is_enough(hub: Hub, tiny_files: dict[str, bytes]) -> None:
    files = {
        name.replace(".safetensors", ".fp16.safetensors"): body
        for name, body in tiny_files.items()
        if "fp16" not in name and "non_ema" not in name
    }
    hub.add(NAME, files)

    fetch()

    model = load_model(ModelSpec(source=NAME, device="cpu"))
    assert set(model.checkpoint.variants.values()) == {"fp16"}


def test_the_safety_checker_comes_when_asked_for(hub: Hub, tiny_files: dict[str, bytes]) -> None:
    hub.add(NAME, tiny_files)
    fetch()

    later = plan(safety_checker=True)

    assert {file.name for file in later.files} == {
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "feature_extractor/preprocessor_config.json",
    }
    list(download(later))
    assert plan_download(NAME, safety_checker=True) is None


def test_one_file_alone_is_downloaded(hub: Hub) -> None:
    hub.add("ana/lora", {"README.md": b"", "pytorch_lora_weights.safetensors": b"weights"})

    fetch("ana/lora")

    found = find_source("ana/lora")
    assert pinned_revision("ana/lora", found) == COMMIT
    assert found.name == "pytorch_lora_weights.safetensors"
    assert found.read_bytes() == b"weights"


# What is refused before anything is fetched


def test_a_pickle_is_refused_before_anything_is_fetched(
    hub: Hub, tiny_files: dict[str, bytes]
) -> None:
    hub.add(
        NAME,
        {n: b for n, b in tiny_files.items() if "unet" not in n or ".bin" in n}
        | {"unet/config.json": b"{}"},
    )

    with pytest.raises(CheckpointError) as caught:
        plan_download(NAME)

    assert str(caught.value) == (
        "model 'ana/tiny': unet/diffusion_pytorch_model.bin: is a pickle, which can run code and"
        " is never opened: convert it elsewhere to safetensors, with the hub's space"
        " safetensors/convert or in a machine you can throw away"
    )
    assert hub.bodies() == []
    assert hub.asked("HEAD") == []


@pytest.mark.parametrize(
    ("name", "revision", "line"),
    [
        ("no/such", None, "there is no such model on the hub, or it is private: check how it is"),
        (NAME, "no-such", "has no revision 'no-such' on the hub"),
        (NAME, "b" * 40, f"has no revision '{'b' * 40}' on the hub"),
        ("a..b/c", None, "is no valid id of the hub, which are OWNER/NAME"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    hub: Hub, name: str, revision: str | None, line: str
) -> None:
    hub.add(NAME, {})

    with pytest.raises(CheckpointError) as caught:
        plan_download(name, revision)

    assert str(caught.value).startswith(f"model {name!r}: {line}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("revision", ["", "../main", "a b", "-x", "a\\b", "/etc", "x" * 300, "a\0"])
def test_a_revision_that_cannot_be_one_is_refused(hub: Hub, revision: str) -> None:
    with pytest.raises(SpecError, match="must be a branch, a tag or a commit"):
        plan_download(NAME, revision)

    assert hub.requests == []


def test_a_gated_model_asks_for_its_licence_and_a_token(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.add(NAME, tiny_files)
    repository.token, repository.gated = "hf_right", True

    for token in (None, "hf_wrong"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(CheckpointError, match=r"accepted its licence.*HF_TOKEN") as caught:
            plan_download(NAME)
        assert str(token) not in str(caught.value)
        assert hub.bodies() == []

    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch()
    assert find_source(NAME).name == COMMIT


def test_access_that_is_taken_away_is_said_in_one_line(
    hub: Hub, tiny_files: dict[str, bytes]
) -> None:
    repository = hub.add(NAME, tiny_files)
    planned = plan()
    repository.token, repository.gated = "hf_right", True

    with pytest.raises(CheckpointError, match="accepted its licence"):
        list(download(planned))


def test_the_token_goes_to_the_hub_alone(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    repository = hub.add(NAME, tiny_files)
    repository.token = "hf_secret"

    fetch()

    storage = [request for request in hub.requests if request.path.startswith("/storage/")]
    assert storage
    assert not any("authorization" in request.headers for request in storage)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in path.read_bytes() for path in kept)


def test_no_refusal_holds_the_token_or_an_address(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    lines = []

    def refused(name: str = NAME, revision: str | None = None) -> None:
        with pytest.raises((CheckpointError, OutputError)) as caught:
            list(download(plan(name, revision)))
        lines.append(str(caught.value))

    refused()
    repository = hub.add(NAME, tiny_files)
    refused(revision="no-such")
    repository.token, repository.gated = "hf_other", True
    refused()
    repository.token = None
    hub.breaks = [0] * 100
    refused()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused()
    assert len(set(lines)) == 5
    assert not any("hf_secret" in line or "127.0.0.1" in line for line in lines)


def test_offline_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = (
        "model 'ana/tiny': is not on this machine, and HF_HUB_OFFLINE is set: unset it, or give a"
        " folder"
    )

    with pytest.raises(CheckpointError) as caught:
        plan_download(NAME)
    assert str(caught.value) == line
    with pytest.raises(CheckpointError) as caught:
        find_source(NAME)
    assert str(caught.value) == line
    assert hub.requests == []


def test_a_downloaded_model_loads_offline(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, tiny_files)
    fetch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert plan_download(NAME) is None
    assert load_model(ModelSpec(source=NAME, device="cpu")).name == NAME


def test_no_network_is_said_in_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(CheckpointError, match=r"^model 'ana/tiny': the hub cannot be reached"):
        plan_download(NAME)


def test_too_little_space_is_told_before_the_first_byte(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, tiny_files)
    planned = plan()
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    with pytest.raises(OutputError) as caught:
        list(download(planned))

    assert str(caught.value) == (
        f"model 'ana/tiny': {say_bytes(planned.total_bytes)} are to be downloaded, and 1.0 kB are"
        " free where the hub's cache is (HF_HOME)"
    )
    assert hub.bodies() == []


# What is interrupted


def test_a_lost_connection_goes_on_where_it_was_lost(
    hub: Hub, tiny_files: dict[str, bytes]
) -> None:
    hub.add(NAME, {"weights.safetensors": bytes(range(256)) * 40})
    hub.breaks = [10_000, 0, 0, 0, 0, 100]  # four in a row bring nothing: fewer than are endured

    steps = list(download(plan()))

    done = [step.done_bytes for step in steps]
    assert done == sorted(done)
    ranges = [r.headers["range"] for r in hub.requests if r.path.startswith("/storage/")]
    assert ranges == ["bytes=0-", *["bytes=10000-"] * 5, "bytes=10100-"]
    assert find_source(NAME).read_bytes() == bytes(range(256)) * 40


def test_a_connection_that_stays_lost_ends_it(hub: Hub) -> None:
    hub.add(NAME, {"weights.safetensors": b"weights"})
    hub.breaks = [3] + [0] * 100

    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        list(download(plan()))

    assert len(hub.bodies()) == 2 * (1 + module.RETRIES + 1), "each at the hub and its storage"


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_stopped_download_goes_on_where_it_was_stopped(hub: Hub, has_ranges: bool) -> None:
    body = bytes(range(250)) * 20_000  # much more than one read brings
    hub.add(NAME, {"weights.safetensors": body})
    planned = plan()
    running = download(planned)
    done = 0
    while done < 10**6:
        done = next(running).done_bytes

    running.close()  # type: ignore[attr-defined]

    assert find_snapshot(NAME) is None
    (part,) = find_store(NAME).rglob("*.incomplete")
    assert part.stat().st_size == done < len(body), "it stops with the piece"
    hub.requests.clear()
    hub.has_ranges = has_ranges

    steps = list(download(planned))

    assert steps[0].done_bytes == done
    (asked,) = [r.headers["range"] for r in hub.requests if r.path.startswith("/storage/")]
    assert asked == f"bytes={done}-"
    assert find_source(NAME).read_bytes() == body
    assert list(find_store(NAME).rglob("*.incomplete")) == []


def test_a_stopped_download_keeps_the_files_it_has(hub: Hub, tiny_files: dict[str, bytes]) -> None:
    hub.add(NAME, tiny_files)
    planned = plan()
    running = download(planned)
    while next(running).file != planned.files[3].name:
        pass
    running.close()  # type: ignore[attr-defined]

    assert find_snapshot(NAME) is None, "the branch is noted at the end"
    with pytest.raises(CheckpointError, match="not whole on this machine"):
        find_snapshot(NAME, COMMIT)
    rest = plan()
    assert [file.name for file in rest.files] == [file.name for file in planned.files[3:]]
    hub.requests.clear()
    list(download(rest))
    assert plan_download(NAME) is None


def test_a_killed_download_goes_on_where_it_was_killed(
    hub: Hub, tmp_path: Path, root: Path
) -> None:
    body = bytes(range(250)) * 20_000
    hub.add(NAME, {"weights.safetensors": body})
    code = (
        "import os, signal\n"
        "from pipeline.download import download, plan_download\n"
        f"for step in download(plan_download({NAME!r})):\n"
        "    if step.done_bytes > 10**6:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run(code, root, HF_HUB_CACHE=str(tmp_path / "cache"), HF_ENDPOINT=hub.address)
    assert done.returncode == -signal.SIGKILL
    (part,) = find_store(NAME).rglob("*.incomplete")
    kept = part.stat().st_size
    hub.requests.clear()

    fetch()

    assert 10**6 - 2**16 < kept < len(body), "less is lost than one read brings"
    (asked,) = [r.headers["range"] for r in hub.requests if r.path.startswith("/storage/")]
    assert asked == f"bytes={kept}-"
    assert find_source(NAME).read_bytes() == body


def test_a_download_may_be_stopped_by_another_thread(hub: Hub) -> None:
    hub.add(NAME, {"weights.safetensors": b"weights" * 100})
    planned = plan()
    running = download(planned)
    next(running)
    thread = threading.Thread(target=running.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join()

    list(download(planned))  # nobody holds the lock

    assert find_source(NAME).read_bytes() == b"weights" * 100


def test_two_at_once_do_not_mix(hub: Hub) -> None:
    hub.add(NAME, {"weights.safetensors": b"weights"})
    planned = plan()
    first = download(planned)
    next(first)

    with pytest.raises(OutputError, match="is being downloaded already: wait"):
        list(download(planned))

    list(first)
    assert find_source(NAME).read_bytes() == b"weights"


@pytest.mark.parametrize("file", [UNET, "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("more", [b"", b"x" * 10**7])
def test_what_is_not_what_was_announced_is_thrown_away(
    hub: Hub, tiny_files: dict[str, bytes], file: str, more: bytes
) -> None:
    hub.add(NAME, tiny_files)
    planned = plan()
    digest = digest_of(file, tiny_files[file])
    hub.forged = {digest: tiny_files[file][:-1] + b"x" + more}
    steps: list[int] = []

    with pytest.raises(CheckpointError, match=f"what arrived of {file} is not what the hub"):
        steps.extend(step.done_bytes for step in download(planned))

    assert max(steps) <= planned.total_bytes, "what is too long is cut off, not taken in"

    assert list(find_store(NAME).rglob(f"{digest}*")) == []
    hub.forged = {}
    list(download(planned))
    assert find_snapshot(NAME)


def test_a_server_that_says_less_than_it_announced_is_given_up(hub: Hub) -> None:
    hub.add(NAME, {"weights.safetensors": b"weights"})
    planned = plan()
    hub.forged = {planned.files[0].digest: b"wei"}

    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        list(download(planned))

    hub.forged = {}
    list(download(planned))
    assert find_source(NAME).read_bytes() == b"weights"


def test_a_full_disk_is_said_in_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, {"weights.safetensors": b"weights"})
    planned = plan()

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="the disk is full; what has arrived stays"):
        list(download(planned))


def test_a_disk_without_links_holds_every_file_once(
    hub: Hub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    hub.add(NAME, tiny_files)

    fetch()

    folder = find_source(NAME)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert list((find_store(NAME) / "blobs").iterdir()) == []
    assert plan_download(NAME) is None


# What the environment says


def test_the_environment_of_the_hub_is_honoured(tmp_path: Path, root: Path) -> None:
    code = (
        "from pipeline.download import download, plan_download\n"
        "from pipeline.sources import find_source\n"
        "plan = plan_download('ana/lora')\n"
        "print(plan.summary)\n"
        "print(list(download(plan))[-1])\n"
        "print(find_source('ana/lora').read_bytes())\n"
    )
    with serve() as hub:
        hub.add("ana/lora", {"weights.safetensors": b"weights"}).token = "hf_right"
        done = run(code, root, HF_HOME=str(tmp_path), HF_ENDPOINT=hub.address, HF_TOKEN="hf_right")

    assert done.stderr == "", "no bar is drawn, and nothing warned of"
    assert done.stdout.splitlines() == [
        "ana/lora at aaaaaaaaaa: 7 bytes in 1 files, licence openrail++",
        "DownloadProgress(done_bytes=7, total_bytes=7, file='weights.safetensors')",
        "b'weights'",
    ]
    assert (tmp_path / "hub" / "models--ana--lora" / "refs" / "main").read_text() == COMMIT


def test_sizes_are_said_with_the_unit_that_suits_them() -> None:
    sizes = [0, 999, 1000, 1_540_000, 999_900_000, 6_940_000_000]

    assert [say_bytes(size) for size in sizes] == [
        "0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "999.9 MB", "6.9 GB"
    ]  # fmt: skip
