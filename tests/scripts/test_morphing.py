"""What a morph on the disk survives: kills, a full disk, signals, other processes, length."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from pipeline import files
from pipeline.model import Model
from pipeline.outcome import film, open_run, verify
from pipeline.record import Plan
from pipeline.render import Progress
from pipeline.run import MorphRun
from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling
from pipeline.store import Store
from pipeline.timeline import Place, Timeline
from pipeline.video import probe
from scripts.morph import main
from scripts.morphing import Meter, Worker

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., tuple[int, list[str], list[str]]]

needs_fork = pytest.mark.skipif(
    sys.platform != "linux", reason="a fork without exec is not safe beside Apple's frameworks"
)

BATCH = 2
SPEC = MorphSpec(
    keyframes=(Keyframe(prompt="a red apple", seed=3), Keyframe(prompt="a green pear", seed=4)),
    num_frames=6,
    sampling=Sampling(
        num_inference_steps=1, scheduler="euler", width=16, height=16, batch_size=BATCH
    ),
)


def hashes(folder: Path) -> list[bytes]:
    """The pixels of all frames in the order of time; each is whole."""
    store, _, timeline = open_run(folder)
    assert timeline is not None
    return [store.read_frame(place.key).tobytes() for place in timeline.frames]


def torn(folder: Path) -> list[str]:
    """Files under their final names that do not hold what they should."""
    store = Store(folder)
    found = [f.name for f in (folder / "frames").glob("*.png") if not store.has_frame(f.stem)]
    latents = (folder / "latents").glob("*.safetensors")
    found += [f.name for f in latents if store.load_latents(f.stem) is None]
    found += [f.name for f in folder.glob("*.json") if store.remembered(f.stem) is None]
    return found + [f.name for f in folder.glob("morph.*") if probe(f).frames != SPEC.num_frames]


def make(folder: Path, model: Model) -> Iterator[int]:
    """The whole morph; yields how many renders are through the loop, each time some are."""
    run = MorphRun(folder, model, SPEC)
    for event in run.render():
        if isinstance(event, Progress) and event.index + 1 == event.count:
            yield len(event.indices)
    timeline = run.load_timeline()
    assert timeline is not None
    film(run.store, run.plan, timeline)


@pytest.fixture(scope="module")
def whole(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], int, float]:
    """An uninterrupted run: its frames, how many renders it took, and seconds."""
    folder = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    renders = sum(make(folder, tiny))
    return hashes(folder), renders, time.monotonic() - start


# Killed in the middle


def fork(work: Callable[[], int | None]) -> int:
    """Do `work` in a child of this process, where all is imported and loaded; its id.

    What `work` returns is the child's exit code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of ours that hold no locks
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = work() or 0
    finally:
        os._exit(code)


def kill_after(seconds: float, folder: Path, model: Model) -> int:
    """Begin the morph and kill it; how many renders it had through the loop."""
    reader, writer = os.pipe()

    def work() -> None:
        for count in make(folder, model):
            os.write(writer, bytes([count]))

    child = fork(work)
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        return sum(stream.read())


def check_kill(
    trial: int, folder: Path, model: Model, whole: tuple[list[bytes], int, float]
) -> None:
    """Kill a run at a random moment, some runs twice; it resumes to the same frames."""
    frames, renders, seconds = whole
    draw = random.Random(trial)
    kills = 1 + (trial % 4 == 3)
    done = 0
    for _ in range(kills):
        done += kill_after(draw.uniform(0, 1.1 * seconds), folder, model)
        if folder.exists() and any(folder.iterdir()):
            assert torn(folder) == []

    done += sum(make(folder, model))

    assert hashes(folder) == frames
    assert list(verify(folder)) == []
    assert done - renders <= BATCH * kills  # what was through the loop and not yet on the disk
    assert [file.name for file in folder.rglob(".*")] == []  # nothing half-written is left


@needs_fork
@pytest.mark.parametrize("trial", range(8))
def test_a_killed_run_resumes_to_the_same_frames(
    trial: int, tmp_path: Path, tiny: Model, whole: tuple[list[bytes], int, float]
) -> None:
    check_kill(trial, tmp_path / "run", tiny, whole)


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("trial", range(8, 200))
def test_killed_runs_resume_to_the_same_frames(
    trial: int, tmp_path: Path, tiny: Model, whole: tuple[list[bytes], int, float]
) -> None:
    check_kill(trial, tmp_path / "run", tiny, whole)


# A full disk


@contextmanager
def full_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A disk that has no space left for the file after so many, and tears it."""
    written: list[str] = []
    write = files._write_to_disk

    def refuse(part: Path, fill: Callable[[BinaryIO], None]) -> None:
        if len(written) == writes:
            part.write_bytes(b"torn")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(part.name)
        write(part, fill)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_to_disk", refuse)
        yield written


@pytest.fixture(scope="module")
def film_bytes(
    tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[bytes], bytes]:
    """The frames and the film of the small morph, made in one go by the command."""
    from tests.scripts.conftest import SMALL

    folder = tmp_path_factory.mktemp("film")
    assert main([*SMALL, "--model", str(tiny_folder), "--no-report", "--out", str(folder)]) == 0
    return hashes(folder), (folder / "morph.mp4").read_bytes()


@pytest.mark.parametrize("writes", [0, 1, 2, 4, 6, 9, 10, 11, 13, 15, 17, 18])
def test_a_full_disk_tears_nothing(
    command: Command,
    small: list[str],
    film_bytes: tuple[list[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """At the plan, at latents, at the timeline, at frames, at the film and at its hash."""
    folder = Path("here")
    with full_after(writes, monkeypatch):
        code, out, err = command(*small, "--no-report", "--out", "here")

    assert (code, out) == (2, [])
    assert re.match(r"error: \S+: cannot be written: No space left on device; \d+ frames", err[-1])
    assert "the same command goes on from there" in err[-1]
    assert torn(folder) == []
    assert [file.name for file in folder.rglob(".*")] == []

    assert command(*small, "--no-report", "--out", "here")[0] == 0
    assert (hashes(folder), (folder / "morph.mp4").read_bytes()) == film_bytes


# Signals


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_process_that_is_stopped_says_how_to_go_on(
    command: Command, small: list[str], number: signal.Signals
) -> None:
    argv = [*small, "--frames", "60", "--exact", "--no-even", "--no-report", "--out"]
    child = fork_command([*argv, "here"], Path("said"))
    wait_for(Path("here/frames"), 3)
    os.kill(child, number)
    os.kill(child, number)  # as launchers do, which pass on what the terminal sent to all
    status = os.waitpid(child, 0)[1]

    assert os.waitstatus_to_exitcode(status) == 130
    kept = len([*Path("here/frames").glob("*.png")])
    assert 3 <= kept < 60
    assert re.fullmatch(
        rf"interrupted: {kept} frames and \d+ renders are kept in here; "
        "the same command goes on from there",
        Path("said").read_text().splitlines()[-1],
    )
    assert torn(Path("here")) == []

    assert command(*argv, "here")[0] == 0
    assert command(*argv, "again")[0] == 0
    assert hashes(Path("here")) == hashes(Path("again"))


def fork_command(argv: list[str], said: Path, **environment: str) -> int:
    """The command in a child of this process; what it says goes into the file `said`."""

    def work() -> int:
        os.environ.update(environment)
        with said.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
            return main(argv)

    return fork(work)


def wait_for(folder: Path, count: int) -> None:
    """Until there are so many files in it."""
    deadline = time.monotonic() + 60
    while len([*folder.glob("[!.]*")]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Several processes


def worker(rank: int, argv: list[str]) -> subprocess.Popen[str]:
    """One of two processes, as `accelerate launch` starts them."""
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.morph", *argv],
        cwd=ROOT,
        env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_the_work(command: Command, small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = [*small, "--frames", "12", "--no-report", "--out"]
    first, second = (worker(rank, [*argv, str(folder)]) for rank in range(2))
    out, err = first.communicate(timeout=120)

    assert second.communicate(timeout=120) == ("", "")
    assert (first.returncode, out) == (0, f"{folder}/morph.mp4\n")
    assert second.returncode == 0
    assert "by 2 processes" in err
    assert command(*argv, "alone")[0] == 0
    assert hashes(folder) == hashes(Path("alone"))
    assert list(verify(folder)) == []


@needs_fork
@pytest.mark.parametrize("killed", [0, 1])
def test_one_of_two_is_killed(command: Command, small: list[str], killed: int) -> None:
    """The other goes on; if it was the first, who speaks and films, the same command does."""
    argv = [*small, "--frames", "40", "--exact", "--no-even", "--no-report", "--out"]
    children = [
        fork_command([*argv, "here"], Path(f"said-{k}"), RANK=str(k), WORLD_SIZE="2")
        for k in range(2)
    ]
    wait_for(Path("here/latents"), 4)
    os.kill(children[killed], signal.SIGKILL)
    statuses = [os.waitpid(child, 0)[1] for child in children]

    assert os.waitstatus_to_exitcode(statuses[killed]) == -signal.SIGKILL
    assert os.waitstatus_to_exitcode(statuses[1 - killed]) == 0
    assert Path("said-1").read_text() == ""
    assert Path("here/morph.mp4").is_file() == (killed == 1)
    assert command(*argv, "alone")[0] == 0
    assert hashes(Path("here")) == hashes(Path("alone"))

    assert command(*argv, "here")[0] == 0
    assert command("verify", "here")[0] == 0


@needs_fork
def test_processes_share_and_do_not_repeat(tmp_path: Path, tiny: Model) -> None:
    """Together two make as many renders as one, and each makes some."""
    spec = SPEC.replace(num_frames=24, even=False, exact=True)
    reader, writer = os.pipe()

    def work(rank: int) -> None:
        for event in MorphRun(tmp_path, tiny, spec).render():
            if isinstance(event, Progress):
                os.write(writer, bytes([rank] * len(event.indices)))
                time.sleep(0.02)  # so that neither is done before the other begins

    children = [fork(lambda rank=rank: work(rank)) for rank in (1, 2)]
    os.close(writer)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    with os.fdopen(reader, "rb") as stream:
        made = stream.read()

    assert len(made) == 24
    assert set(made) == {1, 2}


@pytest.mark.slow
def test_accelerate_starts_them(command: Command, small: list[str], tmp_path: Path) -> None:
    """With --multi_gpu, which on a machine without GPUs starts processes all the same."""
    argv = [*small, "--no-report", "--out"]
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1".split()
    more = "--mixed_precision no --dynamo_backend no -m scripts.morph".split()
    done = subprocess.run(
        [sys.executable, "-m", *launch, *more, *argv, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/run/morph.mp4\n")
    assert command(*argv, "alone")[0] == 0
    assert hashes(tmp_path / "run") == hashes(Path("alone"))


@pytest.mark.parametrize(
    ("gpus", "given", "local_rank", "device"),
    [
        (4, None, 3, "cuda:3"),
        (2, None, 3, "cuda:1"),
        (4, None, None, None),
        (1, None, 3, None),
        (0, None, 1, None),
        (4, "cpu", 3, "cpu"),
    ],
)
def test_each_process_takes_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    given: str | None,
    local_rank: int | None,
    device: str | None,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert Worker(1, 4, local_rank).choose_device(ModelSpec(device=given)).device == device


def test_a_rank_that_is_none_is_refused(
    command: Command, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "one")
    assert command(*small) == (2, [], ["error: RANK = 'one': a launcher sets it to a number"])


# The bar


def test_the_meter_never_goes_back(tmp_path: Path, tiny: Model) -> None:
    run = MorphRun(tmp_path, tiny, SPEC.replace(num_frames=20))
    share = 0.25
    meter, done = Meter(run.cost, share), [0.0]
    for event in run.render():
        meter.see(event)
        done.append(meter.done)

    assert done == sorted(done)
    assert done[-1] == pytest.approx(run.cost.most + share * run.cost.num_frames)
    assert meter.text == "frame 20 of 20"
    assert meter.renders <= run.cost.most


# Length


@needs_fork
@pytest.mark.slow
def test_a_thousand_frames_take_no_more_memory_than_a_hundred(tmp_path: Path, tiny: Model) -> None:
    """A frame of 256 × 256 takes 197 kB: if all were held, 900 more would take 177 MB."""
    grown = [_memory_of_film(count, tmp_path / str(count)) for count in (100, 1000)]

    assert grown[1] - grown[0] < 20e6  # x264 looks 40 frames ahead in both; the rest is noise


def _memory_of_film(count: int, folder: Path) -> float:
    """Bytes that the peak memory of a process grows by while it makes a film."""
    spec = SPEC.replace(num_frames=count)
    store, timeline = Store(folder), _write_frames(Store(folder), count)
    plan = Plan(
        spec=spec, model_name="tiny", model_hash="0", device="cpu", dtype="float32", versions={}
    )
    reader, writer = os.pipe()

    def work() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert probe(film(store, plan, timeline)).frames == count
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writer, json.dumps((after - before) * 1024).encode())

    child = fork(work)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reader) as stream:
        return float(stream.read())


def _write_frames(store: Store, count: int) -> Timeline:
    draw = np.random.default_rng(0)
    ground = draw.integers(256, size=(16, 16, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    places = []
    for k in range(count):
        key = f"{k:064x}"
        store.save_frame(key, Image.fromarray(np.roll(ground, k, axis=1)), None)
        places.append(Place(position=k / count, key=key, is_rendered=True))
    return Timeline(keyframes=(0.0, 1.0), frames=tuple(places))
