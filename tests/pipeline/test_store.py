"""What a run keeps: whole or not there, whoever is killed, whatever is full, whoever gave it."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import random
import resource
import signal
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from pipeline.errors import OutputError, PictureError, RenderError
from pipeline.files import write_atomically
from pipeline.store import Fault, Store
from tests.forks import ended_well, forked

KEYS = [sha256(bytes([number])).hexdigest() for number in range(6)]
KEY, OTHER, THIRD = KEYS[:3]
RECORD = {"place": {"position": 0.25}, "plan": {"prompt": "ein Ährenfeld"}}


def picture(seed: int = 0, side: int = 32) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def noise(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def files(store: Store) -> dict[str, bytes]:
    """All there is in a run, by name, hidden files too."""
    return {
        str(file.relative_to(store.folder)): file.read_bytes()
        for file in store.folder.rglob("*")
        if file.is_file()
    }


# Kept and found again


def test_a_frame_is_kept(store: Store) -> None:
    assert not store.has_frame(KEY)

    file = store.save_frame(KEY, picture(), RECORD)

    assert file == store.frame_file(KEY) == store.folder / "frames" / f"{KEY}.png"
    assert store.has_frame(KEY)
    assert store.read_frame(KEY).tobytes() == picture().tobytes()
    assert store.frame_record(KEY) == RECORD
    assert list(files(store)) == [f"frames/{KEY}.png"]


def test_a_frame_without_metadata_tells_its_key_and_its_hash_alone(store: Store) -> None:
    store.save_frame(KEY, picture(), None)

    with Image.open(store.frame_file(KEY)) as image:
        texts = dict(image.info)
    hashed = sha256(b"32x32" + picture().tobytes()).hexdigest()
    assert json.loads(texts.pop("greatcircle")) == {"key": KEY, "pixels_sha256": hashed}
    assert texts == {}
    assert store.frame_record(KEY) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_latents_are_kept_bit_for_bit(store: Store, dtype: torch.dtype) -> None:
    batch = torch.cat([noise(0, dtype), noise(1, dtype)])
    assert store.load_latents(KEY) is None

    store.save_latents(KEY, batch[1:].requires_grad_())

    found = store.load_latents(KEY)
    assert found is not None
    assert found.dtype == dtype
    assert torch.equal(found, batch[1:])
    assert not found.requires_grad


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True]}, [], "ü", 0, False])
def test_a_value_is_remembered(store: Store, value: Any) -> None:
    assert store.remembered("plan") is None
    store.remember("plan", {"former": 1})
    store.remember("plan", value)

    assert store.remembered("plan") == value
    assert list(files(store)) == ["plan.json"]


def test_a_store_opened_again_finds_everything(store: Store) -> None:
    store.save_frame(KEY, picture(), RECORD)
    store.save_latents(KEY, noise())
    store.remember("plan", 1)
    again = Store(store.folder)

    assert again.has_frame(KEY)
    assert again.load_latents(KEY) is not None
    assert again.remembered("plan") == 1


def test_the_same_makes_the_same_bytes(store: Store, tmp_path: Path) -> None:
    fill(store)
    fill(other := Store(tmp_path / "other"))
    assert files(store) == files(other)


def test_nothing_tells_of_this_machine(store: Store) -> None:
    fill(store)
    with store.claim(KEY), store.writing():
        held = files(store)

    assert len(held) == 2 * len(KEYS) + 3
    for secret in (platform.node(), os.fspath(store.folder), str(Path.home()), str(os.getpid())):
        # short ones are found in noise by chance
        assert len(secret) < 6 or not any(secret.encode() in data for data in held.values())
    assert [data for name, data in held.items() if name.startswith("locks")] == [b"", b""]


# Asked for what cannot be


@pytest.mark.parametrize("key", ["", "ab", KEY.upper(), f"{KEY}\n", f"../{KEY[3:]}", "g" * 64])
def test_a_key_is_64_digits(store: Store, key: str) -> None:
    for ask in (
        store.frame_file,
        store.has_frame,
        store.read_frame,
        store.frame_record,
        store.load_latents,
        lambda key: store.save_frame(key, picture(), None),
        lambda key: store.save_latents(key, noise()),
        lambda key: list(store.verify([key])),
        lambda key: store.claim(key).__enter__(),
    ):
        with pytest.raises(ValueError, match="must have 64 hexadecimal digits"):
            ask(key)
    assert files(store) == {}


@pytest.mark.parametrize("name", ["", "../plan", "Plan", ".plan", "a/b", "a\0", "a" * 41])
def test_a_value_has_a_simple_name(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="must be a lower-case word"):
        store.remember(name, 1)
    with pytest.raises(ValueError, match="must be a lower-case word"):
        store.remembered(name)


def test_what_could_not_be_read_back_is_not_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PictureError, match="mode RGBA: must be RGB"):
        store.save_frame(KEY, picture().convert("RGBA"), None)
    for record in ({"a": float("nan")}, {"key": KEY}, {"pixels_sha256": ""}):
        with pytest.raises(ValueError, match=r"JSON|must not have"):
            store.save_frame(KEY, picture(), record)
    with pytest.raises(OutputError, match=r"its metadata take \d+ bytes, at most 1048576 are read"):
        store.save_frame(KEY, picture(), {"a": "a" * 2**20})
    with pytest.raises(ValueError, match="JSON"):
        store.remember("plan", [float("inf")])
    for latents in (noise()[0], noise().int()):
        with pytest.raises(ValueError, match="latents are 4D floats"):
            store.save_latents(KEY, latents)
    for number in (float("nan"), float("inf")):
        with pytest.raises(RenderError, match="NaN or infinite"):
            store.save_latents(KEY, noise().index_fill(3, torch.tensor(3), number))
    monkeypatch.setattr("pipeline.store.MAX_LATENTS_BYTES", 1000)
    with pytest.raises(OutputError, match=r"safetensors: takes \d+ bytes, at most 1000 are read"):
        store.save_latents(KEY, noise())

    assert files(store) == {}


def test_the_largest_record_is_read_back(store: Store) -> None:
    size = len(json.dumps({"key": KEY, "pixels_sha256": KEY, "a": ""})) + len("greatcircle\0")
    record = {"a": "a" * (2**20 - size)}

    store.save_frame(KEY, picture(), record)

    assert store.frame_record(KEY) == record
    with pytest.raises(OutputError):
        store.save_frame(KEY, picture(), {"a": record["a"] + "a"})


@pytest.mark.parametrize("place", ["frames", "latents", "locks"])
def test_a_run_whose_folders_lead_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / place).symlink_to("../elsewhere")

    with pytest.raises(OutputError, match=f"^{place}: must be a folder of the run, is a link$"):
        Store(tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Damaged frames


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claim_size(width: int, height: int, data: bytes) -> bytes:
    """The PNG in `data` with another size in its header, whose checksum is right."""
    return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def save_png(file: Path, image: Image.Image, *texts: str, **options: Any) -> None:
    info = PngInfo()
    for text in texts:
        info.add_text("greatcircle", text)
    image.save(file, format="PNG", pnginfo=info, **options)


def text_of(store: Store, **changes: Any) -> str:
    """The text in the frame KEY, edited."""
    with Image.open(store.frame_file(KEY)) as image:
        return json.dumps(json.loads(image.info["greatcircle"]) | changes)


def edit(change: Callable[[bytes], bytes]) -> Callable[[Store, Path], None]:
    def do(store: Store, file: Path) -> None:
        file.write_bytes(change(file.read_bytes()))

    return do


def put(*texts: str, **changes: Any) -> Callable[[Store, Path], None]:
    """A frame with other texts, or with its own, edited."""
    return lambda store, file: save_png(file, picture(), *(texts or [text_of(store, **changes)]))


def become_link(store: Store, file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def become_folder(store: Store, file: Path) -> None:
    file.unlink()
    file.mkdir()


def become_jpeg(store: Store, file: Path) -> None:
    picture().save(file, format="JPEG")


def take_other_pixels(store: Store, file: Path) -> None:
    save_png(file, picture(1), text_of(store))


def turn(store: Store, file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    save_png(file, picture(), text_of(store), exif=exif)


def take_others_file(store: Store, file: Path) -> None:
    store.save_frame(OTHER, picture(1), RECORD).rename(file)


def stretch(store: Store, file: Path) -> None:
    """The same bytes of pixels in rows of another length."""
    levels = np.array(picture()).reshape(16, 64, 3)
    save_png(file, Image.fromarray(levels), text_of(store))


DAMAGES: dict[str, tuple[Callable[[Store, Path], None], str]] = {
    "empty": (edit(lambda data: b""), "is not a PNG"),
    "half": (edit(lambda data: data[: len(data) // 2]), "ends too early"),
    "without its end": (edit(lambda data: data[:-1]), "ends too early"),
    "zeros at its end": (edit(lambda data: data[:-900] + bytes(900)), "ends too early"),
    "a bit of its pixels": (edit(lambda data: flip(data, -500)), "is damaged in its b'IDAT' chunk"),
    "a bit of its text": (edit(lambda data: flip(data, data.index(KEY.encode()))), "b'tEXt' chunk"),
    "other pixels": (take_other_pixels, "its pixels are not those it was saved with"),
    "turned": (turn, "its pixels are not those"),
    "stretched": (stretch, "its pixels are not those"),
    "another frame": (take_others_file, "its key is not its name"),
    "another key": (put(key=OTHER), "its key is not its name"),
    "another hash": (put(pixels_sha256=OTHER), "its pixels are not those"),
    "a number for a hash": (put(pixels_sha256=1), "its pixels are not those"),
    "no hash": (put(json.dumps({"key": KEY})), "its metadata lack its key or its hash"),
    "a list": (put("[]"), "its metadata lack"),
    "no JSON": (put('{"key": NaN}'), "its metadata are not valid JSON: NaN is not allowed"),
    "deep JSON": (put("[" * 100_000), "nested too deeply"),
    "two texts": (put("{}", "{}"), "holds 2 texts"),
    "long text": (put("a" * 2**20), "at most 1048576 are read"),
    "no text": (lambda store, file: save_png(file, picture()), "holds no hash of its pixels"),
    "huge": (edit(lambda data: claim_size(2**31 - 1, 2**31 - 1, data)), "allowed are at most"),
    "large": (edit(lambda data: claim_size(8192, 8192, data)), "truncated"),
    "no pixels": (edit(lambda data: claim_size(0, 0, data)), "allowed are between 1"),
    "a link": (become_link, "is a link, not a file"),
    "a folder": (become_folder, "is not a file"),
    "a JPEG": (become_jpeg, "is not a PNG picture"),
    "a pickle": (edit(lambda data: b"\x80\x04."), "is not a PNG picture"),
    "gone": (lambda store, file: file.unlink(), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_frame_is_missing_and_named(store: Store, damage: str) -> None:
    do, reason = DAMAGES[damage]
    file = store.save_frame(KEY, picture(), RECORD)
    whole = file.read_bytes()
    do(store, file)
    start = time.process_time()

    assert not store.has_frame(KEY)
    with pytest.raises(PictureError, match=rf"^{KEY}\.png: ") as caught:
        store.read_frame(KEY)
    fault = next(store.verify([KEY]))

    assert fault.name == f"{KEY}.png"
    assert reason in fault.reason
    assert "\n" not in str(caught.value)
    assert os.fspath(store.folder) not in str(caught.value)
    # Three looks take milliseconds; as many pixels as the largest claim has take seconds each.
    assert time.process_time() - start < 2
    if damage != "a folder":  # a file can be replaced
        store.save_frame(KEY, picture(), RECORD)
        assert file.read_bytes() == whole


def test_swapped_frames_are_found(store: Store) -> None:
    one, other = (store.save_frame(key, picture(), None) for key in (KEY, OTHER))
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    aside.rename(other)

    reason = "its key is not its name"
    assert list(store.verify([KEY, OTHER])) == [Fault(f.name, reason) for f in (one, other)]


def test_a_frame_may_be_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, max_pixels=32 * 32)
    store.save_frame(KEY, picture(), None)
    store.save_frame(OTHER, picture(side=33), None)

    assert store.has_frame(KEY)
    assert not store.has_frame(OTHER)


def test_any_bit_of_a_frame_may_fall_over(store: Store) -> None:
    """What still counts as whole has the same pixels: an unused bit of the file has changed."""
    file = store.save_frame(KEY, picture(side=4), None)
    whole = file.read_bytes()

    found = 0
    for place in range(len(whole)):
        file.write_bytes(flip(whole, place))
        if store.has_frame(KEY):
            assert store.read_frame(KEY).tobytes() == picture(side=4).tobytes()
        else:
            found += 1
    assert found > 0.9 * len(whole)


def test_a_run_is_verified(store: Store) -> None:
    store.save_frame(KEYS[0], picture(0), None)
    store.save_frame(KEYS[1], picture(1, side=16), None)
    store.save_frame(KEYS[2], picture(2), None)
    store.save_frame(KEYS[5], picture(5, side=8), None)  # another morph's, and not asked for
    frames = store.folder / "frames"
    (frames / "notes.txt").touch()
    (frames / "\x1b[2J\n.png").touch()
    (frames / f"{KEY}.png.bak").mkdir()
    (frames / f".{'0' * 16}.part").touch()
    (frames / f".{'0' * 16}.parts").touch()

    assert list(store.verify([*KEYS[:4], *KEYS[:4]])) == [
        Fault(f"{KEYS[1]}.png", "is 16 × 16 pixels, the first is 32 × 32"),
        Fault(f"{KEYS[3]}.png", "is missing"),
        Fault("'\\x1b[2J\\n.png'", "is no frame"),
        Fault(f".{'0' * 16}.parts", "is no frame"),
        Fault(f"{KEY}.png.bak", "is no frame"),
        Fault("notes.txt", "is no frame"),
    ]


# Damaged latents and values


def reshape(data: bytes) -> bytes:
    return data.replace(b"[1,4,8,8]", b"[1,8,4,8]")


def retype(data: bytes) -> bytes:
    return data.replace(b'"F32"', b'"I32"')


def take_halves(data: bytes) -> bytes:
    """The same bytes, read as twice as many numbers."""
    wide = data.replace(b'"F32"', b'"F16"').replace(b"[1,4,8,8]", b"[2,4,8,8]")
    assert len(wide) == len(data)
    return wide


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: flip(data, -1),
        lambda data: flip(data, data.index(KEY.encode())),
        lambda data: data.replace(KEY.encode(), OTHER.encode()),
        lambda data: data.replace(b"sha256", b"sha512"),
        lambda data: b"\xff" * 8 + data[8:],
        reshape,
        retype,
        take_halves,
        lambda data: b"\x80\x04.",
        lambda data: b"PK\3\4" + data,
    ],
    ids=range(14),
)
def test_damaged_latents_are_missing(store: Store, change: Callable[[bytes], bytes]) -> None:
    store.save_latents(KEY, noise())
    (file,) = (store.folder / "latents").iterdir()
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    assert file.read_bytes() != whole

    assert store.load_latents(KEY) is None
    store.save_latents(KEY, noise())
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "tensors",
    [
        {"latents": noise()},
        {"latents": noise(), "more": noise()},
        {"other": noise()},
        {"latents": noise()[0]},
        {"latents": noise() * torch.nan},
    ],
    ids=range(5),
)
def test_files_of_others_are_no_latents(store: Store, tensors: dict[str, torch.Tensor]) -> None:
    """Not even those that carry the right hash, where numbers are not finite."""
    raw = sha256(b"torch.float32(1, 4, 8, 8)" + (noise() * torch.nan).numpy().tobytes())
    text = json.dumps({"key": KEY, "latents_sha256": raw.hexdigest()})
    save_file(
        tensors, store.folder / "latents" / f"{KEY}.safetensors", metadata={"greatcircle": text}
    )
    assert store.load_latents(KEY) is None


def test_latents_and_values_are_no_links_and_no_giants(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    for file in (store.folder / "latents" / f"{KEY}.safetensors", store.folder / "plan.json"):
        become_link(store, file)
    assert store.load_latents(KEY) is None
    assert store.remembered("plan") is None

    assert store.load_latents(OTHER) is not None
    monkeypatch.setattr("pipeline.store.MAX_LATENTS_BYTES", 1000)
    assert store.load_latents(OTHER) is None

    with (store.folder / "plan.json").open("wb") as stream:
        stream.truncate(2**40)
    assert store.remembered("plan") is None


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff"])
def test_a_damaged_value_is_missing(store: Store, data: bytes) -> None:
    (store.folder / "plan.json").write_bytes(data)
    assert store.remembered("plan") is None


# A disk that is full


def keep_frame(store: Store) -> None:
    store.save_frame(KEY, picture(), RECORD)


def keep_latents(store: Store) -> None:
    store.save_latents(KEY, noise())


def keep_value(store: Store) -> None:
    store.remember("timeline", {"frames": KEYS})


KEEPERS = {"frame": keep_frame, "latents": keep_latents, "value": keep_value}


def refuse(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullAfter(io.BufferedWriter):
    """A file on a disk that takes 100 bytes more, and says so when it is written or flushed."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 100:
            super().write(bytes(data)[: max(100 - self.tell(), 0)])
            refuse()
        return super().write(data)


class FullWhenFlushed(io.BufferedWriter):
    flush = refuse


def break_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", refuse)


def break_stream(kind: type[io.BufferedWriter]) -> Callable[[pytest.MonkeyPatch], None]:
    def break_it(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "open", lambda self, mode: kind(io.FileIO(self, mode)))

    return break_it


def break_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse)


def break_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", refuse)


def break_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.files.sync_folder", refuse)


def break_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock._unix.os.open", refuse)


POINTS = {
    "lock": break_lock,
    "open": break_open,
    "write": break_stream(FullAfter),
    "flush": break_stream(FullWhenFlushed),
    "fsync": break_fsync,
    "replace": break_replace,
    "folder": break_folder,
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", KEEPERS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_tears_nothing_and_a_retry_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, point: str
) -> None:
    keep = KEEPERS[kind]
    keep(untouched := Store(tmp_path / "untouched"))
    store = Store(tmp_path / "run")

    with monkeypatch.context() as broken:
        POINTS[point](broken)
        with pytest.raises(OutputError, match=r"No space left on device$") as caught:
            keep(store)

    assert "\n" not in str(caught.value)
    assert os.fspath(tmp_path) not in str(caught.value)
    # Only the name's own way to the disk fails after the file has it.
    assert files(store) == (files(untouched) if point == "folder" else {})
    assert store.sweep() == 0
    keep(store)
    assert files(store) == files(untouched)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The kernel itself refuses what is longer: Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", KEEPERS)
def test_the_kernel_may_refuse_at_any_byte(store: Store, kind: str) -> None:
    keep = KEEPERS[kind]
    keep(store)
    whole = files(store)
    (length,) = map(len, whole.values())
    (store.folder / next(iter(whole))).unlink()

    for size in (0, 1, 33, 100, length // 2, length - 13, length - 1):
        with room_for(size), pytest.raises(OutputError, match=r"written: File too large$"):
            keep(store)
        assert files(store) == {}
    with room_for(length):
        keep(store)
    assert files(store) == whole


def test_what_was_there_survives_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.remember("plan", "former")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError):
        store.remember("plan", "new")
    assert store.remembered("plan") == "former"


# Writers that are killed


def fill(store: Store) -> None:
    """Make what is missing, in the order of a run."""
    store.remember("plan", {"keys": KEYS})
    for number, key in enumerate(KEYS):
        if store.load_latents(key) is None:
            store.save_latents(key, noise(number))
        if not store.has_frame(key):
            store.save_frame(key, picture(number), RECORD)


def rewrite(store: Store) -> None:
    """Write without end over what is there, so that every kill hits a write."""
    for _ in range(1000):
        store.remember("plan", {"keys": KEYS})
        for number, key in enumerate(KEYS):
            store.save_latents(key, noise(number))
            store.save_frame(key, picture(number), RECORD)


def kill_writers(folder: Path, trials: int) -> int:
    """Kill writers at random moments, one after the other in one folder; how many left a trace.

    Nothing they leave under a name may be torn, and a resumed run equals one that nobody stopped.
    """
    fill(untouched := Store(folder / "untouched"))
    moments = random.Random(0)
    traces = 0
    for trial in range(trials):
        store = Store(folder / f"run-{trial % 4}")
        with forked(partial((fill, rewrite)[trial % 2], store)):
            time.sleep(moments.uniform(0, 0.02))
        left = files(store)
        wanted = files(untouched)
        torn = {name for name in left.keys() & wanted.keys() if left[name] != wanted[name]}
        assert torn == set()
        traces += bool(left.keys() - wanted.keys())
        store.sweep()
        assert files(store).keys() <= wanted.keys()
        if trial % 4 == 3 or trial == trials - 1:
            fill(store)
            assert files(store) == wanted
            for name in wanted:
                (store.folder / name).unlink()
    return traces


def test_killed_writers_tear_nothing(tmp_path: Path) -> None:
    assert kill_writers(tmp_path, 20) > 0


@pytest.mark.slow
def test_two_hundred_killed_writers_tear_nothing(tmp_path: Path) -> None:
    # Else the kills would hit no writes; one in three does on a machine where fsync costs nothing.
    assert kill_writers(tmp_path, 200) > 20


# Writers beside each other


def test_one_claim_is_given(store: Store) -> None:
    with store.claim(KEY) as first, store.claim(KEY) as second, store.claim(OTHER) as third:
        assert (first, second, third) == (True, False, True)
    with Store(store.folder).claim(KEY) as again:
        assert again
    assert files(store) == {}


def test_one_thread_gets_the_claim(store: Store) -> None:
    begin, end = threading.Barrier(2), threading.Barrier(2)
    given: list[bool] = []

    def compete() -> None:
        begin.wait()
        with store.claim(KEY) as is_ours:
            given.append(is_ours)
            end.wait()

    threads = [threading.Thread(target=compete) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == [False, True]


def test_one_process_gets_the_claim_and_loses_it_when_killed(store: Store) -> None:
    told, tell = os.pipe()

    def compete() -> None:
        with store.claim(KEY) as is_ours:
            os.write(tell, b"1" if is_ours else b"0")
            signal.pause()

    with forked(compete), forked(compete):
        assert sorted(os.read(told, 1) + os.read(told, 1)) == sorted(b"01")
        with store.claim(KEY) as is_ours:
            assert not is_ours
        assert store.sweep() == 0

    assert store.sweep() == 1
    with store.claim(KEY) as is_ours:
        assert is_ours


def test_two_processes_make_each_frame_once(store: Store) -> None:
    """As a run does it: who is refused goes on to the next and looks again."""
    made = store.folder / "made"
    made.mkdir()

    def work() -> None:
        while missing := [key for key in KEYS if not store.has_frame(key)]:
            for key in missing:
                with store.claim(key) as is_ours:
                    if is_ours and not store.has_frame(key):
                        (made / key).open("x").close()
                        time.sleep(0.002)
                        store.save_frame(key, picture(KEYS.index(key)), None)

    with forked(work) as one, forked(work) as other:
        assert ended_well(one)
        assert ended_well(other)
    assert sorted(file.name for file in made.iterdir()) == sorted(KEYS)
    assert list(store.verify(KEYS)) == []
    assert list((store.folder / "locks").iterdir()) == []


# Leftovers


def hang_while_writing(store: Store, tell: int) -> None:
    def hang(stream: io.BufferedIOBase) -> None:
        stream.write(b"half")
        stream.flush()
        os.write(tell, b"1")
        signal.pause()

    with store.writing():
        write_atomically(store.folder / "morph.mp4", hang)  # type: ignore[arg-type]


def test_leftovers_go_and_what_is_being_written_stays(store: Store) -> None:
    told, tell = os.pipe()
    fill(store)
    whole = files(store)
    leftovers = [
        store.folder / "frames" / f".{'0' * 16}.part",
        store.folder / "latents" / f".{'1' * 16}.part",
        store.folder / f".{'2' * 16}.former",
        store.folder / "locks" / f"{OTHER}.lock",
        store.folder / "locks" / f"{'3' * 16}.writing",
    ]
    for file in leftovers:
        file.touch()
    (store.folder / f".{'4' * 16}.part").mkdir()
    (store.folder / f".{'4' * 16}.part" / "000000.png").touch()

    with forked(lambda: hang_while_writing(store, tell)):
        os.read(told, 1)
        assert store.sweep() == 2  # the locks of the dead; of the rest nobody knows whose it is
        assert sum(name.endswith((".part", ".former")) for name in files(store)) == 3 + 1
        assert whole.items() <= files(store).items()

    assert store.sweep() == 3 + 1 + 2
    assert files(store) == whole
    assert store.sweep() == 0


def test_a_sweep_takes_nothing_else(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    strangers = [
        store.folder / ".hidden.part",
        store.folder / f"{'0' * 16}.part",
        store.folder / "frames" / f".{'0' * 16}.partial",
        store.folder / "locks" / "notes.lock",
    ]
    for file in strangers:
        file.touch()
    (store.folder / "locks" / f"{KEY}.lock").mkdir()
    (store.folder / "locks" / f"{OTHER}.lock").symlink_to(tmp_path / "elsewhere" / "file")
    assert store.sweep() == 0

    (store.folder / f".{'0' * 16}.part").symlink_to(tmp_path / "elsewhere")
    assert store.sweep() == 1
    assert all(file.exists() for file in strangers)
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["file"]


def test_writers_and_sweepers_do_not_hurt_each_other(store: Store) -> None:
    def write() -> None:
        for number in range(40):
            store.save_latents(KEYS[number % 6], noise(number % 6))
            store.save_frame(KEYS[number % 6], picture(number % 6), None)

    def sweep() -> None:
        while True:
            store.sweep()

    with forked(sweep), forked(sweep), forked(write) as one, forked(write) as other:
        assert ended_well(one)
        assert ended_well(other)
    store.sweep()
    assert list(store.verify(KEYS)) == []
    assert len(files(store)) == 2 * len(KEYS)


def test_folders_that_are_gone_are_said(store: Store) -> None:
    (store.folder / "frames").rmdir()
    with pytest.raises(OutputError, match=r"^frames: cannot be listed: No such file"):
        store.sweep()
    with pytest.raises(OutputError, match="its folder does not exist"):
        store.save_frame(KEY, picture(), None)
