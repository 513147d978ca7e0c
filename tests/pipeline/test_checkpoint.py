"""Model folders: sound ones pass, unsound ones are refused with the reason, nothing is opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.checkpoint import check_finite, check_folder, checkpoint_hash
from pipeline.errors import CheckpointError

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "text_encoder": "text_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}
UNET = WEIGHTS["unet"]


def write_json(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def write_checkpoint(folder: Path) -> Path:
    """A folder with the files of a Stable Diffusion, and next to nothing in them."""
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "PNDMScheduler"})
    write_json(folder / "tokenizer" / "vocab.json", {"a": 0})
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    for part, file in WEIGHTS.items():
        write_json(folder / part / "config.json", {})
        save_file({"weight": torch.ones(2)}, folder / file)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def refusal(folder: Path) -> str:
    """The one line that `folder` is refused with."""
    before = set(sys.modules)
    with pytest.raises(CheckpointError) as caught:
        check_folder(folder, "mine")

    line = str(caught.value)
    assert set(sys.modules) == before
    assert line.startswith("mine: ")
    assert str(folder) not in line
    assert "\n" not in line
    return line


def test_a_sound_folder_passes(folder: Path) -> None:
    checkpoint = check_folder(folder, "mine")

    assert checkpoint.name == "mine"
    assert checkpoint.components == {
        "vae": ("diffusers", "AutoencoderKL"),
        "unet": ("diffusers", "UNet2DConditionModel"),
        "scheduler": ("diffusers", "PNDMScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
    }
    assert checkpoint.ignored == ("feature_extractor", "safety_checker")
    assert checkpoint.variants == {}
    assert [file.relative_to(folder).as_posix() for file in checkpoint.files] == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_what_diffusers_saves_passes(tiny_folder: Path) -> None:
    checkpoint = check_folder(tiny_folder, "tiny")

    assert set(WEIGHTS.values()) <= {
        f.relative_to(tiny_folder).as_posix() for f in checkpoint.files
    }
    assert hash(checkpoint) == hash(check_folder(tiny_folder, "tiny"))


def test_a_scheduler_may_hold_infinities_and_nothing_else_may(folder: Path) -> None:
    config = {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -float("inf")}
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    check_folder(folder, "mine")

    write_json(folder / "vae" / "config.json", {"scaling_factor": float("inf")})
    assert "vae/config.json: is not valid JSON: Infinity is not allowed" in refusal(folder)
    write_json(folder / "vae" / "config.json", {"scaling_factor": float("nan")})
    assert "vae/config.json: is not valid JSON: NaN is not allowed" in refusal(folder)


def change_index(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "model_index.json", INDEX | changes)


def write_index(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model_index.json").write_text(text)


INDICES: dict[str, tuple[Callable[[Path], object], str]] = {
    "os.system": (change_index(unet=["os", "system"]), "unet is ['os', 'system']: must be of"),
    "subprocess": (change_index(scheduler=["subprocess", "Popen"]), "scheduler is"),
    "own code": (change_index(unet=["my_code", "UNet2DConditionModel"]), "unet is"),
    "a list for a class": (change_index(unet=["diffusers", ["os", "system"]]), "unet is"),
    "a class in the wrong part": (change_index(unet=["diffusers", "AutoencoderKL"]), "unet is"),
    "three names": (change_index(unet=["diffusers", "UNet2DConditionModel", "x"]), "unet is"),
    "a text": (change_index(vae="diffusers"), "vae is 'diffusers'"),
    "an object": (change_index(vae={"diffusers": "AutoencoderKL"}), "vae is"),
    "no vae": (change_index(vae=[None, None]), "vae is [None, None]"),
    "code for an ignored part": (change_index(safety_checker=["os", "system"]), "_checker is"),
    "an unknown part": (change_index(rm=["os", "remove"]), "'rm' is no part of a Stable"),
    "a part elsewhere": (change_index(**{"../unet": INDEX["unet"]}), "'../unet' is no part of"),
    "a long name": (change_index(**{"x" * 10_000: 1}), "is no part of"),
    "another pipeline": (change_index(_class_name="StableDiffusion3Pipeline"), "is of a 'Stable"),
    "a pipeline of its own": (change_index(_class_name=["pipeline", "Own"]), "is of a ['pipeline'"),
    "no pipeline": (write_index("{}"), "is of a None: must be of one of Stable"),
    "no parts": (write_index('{"_class_name": "StableDiffusionPipeline"}'), "names no vae"),
    "not an object": (write_index("[]"), "is not a JSON object"),
    "not JSON": (write_index("{"), "is not valid JSON"),
    "a key twice": (write_index('{"vae": 1, "vae": 2}'), "the key 'vae' stands there twice"),
    "NaN": (write_index('{"_class_name": NaN}'), "NaN is not allowed"),
    "deep": (write_index('{"a":' * 100_000), "nested too deeply"),
    "large": (write_index(" " * 1_000_001), "is larger than 1000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDICES)
def test_an_index_that_is_not_allowed(folder: Path, case: str) -> None:
    spoil, reason = INDICES[case]
    spoil(folder)

    line = refusal(folder)
    assert line.startswith("mine: model_index.json: ")
    assert reason in line
    assert len(line) < 500


def test_code_of_its_own_is_refused(folder: Path) -> None:
    write_json(folder / "text_encoder" / "config.json", {"auto_map": {"AutoModel": "code.Own"}})
    assert "text_encoder/config.json: asks for code of its own" in refusal(folder)

    write_json(folder / "text_encoder" / "config.json", {})
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"auto_map": {}})
    assert "tokenizer/tokenizer_config.json: asks for code of its own" in refusal(folder)


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
    ],
)
def test_a_missing_config_is_said(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert refusal(folder) == f"mine: {file}: is missing"


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights_are_said(folder: Path, part: str) -> None:
    (folder / WEIGHTS[part]).unlink()
    assert refusal(folder) == f"mine: {part}: has no safetensors weights"


@pytest.mark.parametrize("part", ["vae", "unet", "scheduler", "text_encoder", "tokenizer"])
def test_a_missing_part_is_said(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert part in refusal(folder)


def test_a_tokenizer_has_one_file_or_two(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").unlink()
    assert "tokenizer: has no tokenizer.json, nor vocab.json and merges.txt" in refusal(folder)

    write_json(folder / "tokenizer" / "tokenizer.json", {})
    assert check_folder(folder, "mine").files


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert refusal(tmp_path / "missing") == "mine: there is no such folder"
    assert refusal(tmp_path / "file") == "mine: there is no such folder"


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("trapped").touch, ()


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.bin", "m.pt", "m.ckpt", "m.PTH", "m.pkl"]
)
def test_only_a_pickle_is_there(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / UNET).unlink()
    torch.save(Trap(), folder / "unet" / name)

    line = refusal(folder)
    assert line.startswith(f"mine: unet: has no safetensors weights; unet/{name} is a pickle, ")
    assert line.endswith("never opened: convert it elsewhere to safetensors")
    assert not (folder / "trapped").exists()


def test_only_a_pickle_at_the_top(tmp_path: Path) -> None:
    torch.save(Trap(), tmp_path / "model.ckpt")
    assert "model_index.json: is missing; model.ckpt is a pickle" in refusal(tmp_path)


def test_a_pickle_beside_the_weights_is_left_alone(folder: Path) -> None:
    torch.save(Trap(), folder / "unet" / "diffusion_pytorch_model.bin")
    assert not any(f.suffix == ".bin" for f in check_folder(folder, "mine").files)


def test_a_pickle_called_safetensors(folder: Path) -> None:
    torch.save(Trap(), folder / UNET)
    said = "is a pickle under another name, never opened: convert it elsewhere to safetensors"
    assert refusal(folder) == f"mine: {UNET}: {said}"


def test_weights_cut_short(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-1])
    assert f"mine: {UNET}: holds 7 bytes of tensors, its header says 8" in refusal(folder)


def test_weights_of_another_dtype(folder: Path) -> None:
    save_file({"conv.weight": torch.ones(2, dtype=torch.int32)}, folder / UNET)
    assert f"{UNET}: tensor 'conv.weight' is I32: must be one of F16, BF16, F32" in refusal(folder)

    save_file({"embeddings.position_ids": torch.arange(2)}, folder / WEIGHTS["text_encoder"])
    save_file({"conv.weight": torch.ones(2, dtype=torch.bfloat16)}, folder / UNET)
    assert check_folder(folder, "mine").files


def test_half_precision_alone_is_a_variant(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(
        folder / WEIGHTS["vae"], folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    )

    checkpoint = check_folder(folder, "mine")

    assert checkpoint.variants == {"unet": "fp16"}
    names = {f.relative_to(folder).as_posix() for f in checkpoint.files}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "vae/diffusion_pytorch_model.fp16.safetensors" not in names


def shard(folder: Path, weight_map: object = None, dotted: str = "") -> None:
    """Put the UNet's weights into two files with an index."""
    (folder / UNET).unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, tensor in zip(names, "ab", strict=True):
        save_file({tensor: torch.ones(2)}, folder / "unet" / name)
    places = dict(zip("ab", names, strict=True)) if weight_map is None else weight_map
    index = f"diffusion_pytorch_model.safetensors.index{dotted}.json"
    write_json(folder / "unet" / index, {"metadata": {}, "weight_map": places})


@pytest.mark.parametrize(("dotted", "variants"), [("", {}), (".fp16", {"unet": "fp16"})])
def test_shards_are_taken_together(folder: Path, dotted: str, variants: dict[str, str]) -> None:
    shard(folder, dotted=dotted)
    checkpoint = check_folder(folder, "mine")

    assert checkpoint.variants == variants
    assert len([f for f in checkpoint.files if "unet" in f.parts and f.name != "config.json"]) == 3


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"a": "missing.safetensors"}, "names 'missing.safetensors', which is missing"),
        ({"a": "../vae/x.safetensors"}, "'../vae/x.safetensors' is not a safetensors file beside"),
        ({"a": "unet/x.safetensors"}, "is not a safetensors file beside it"),
        ({"a": "/etc/x.safetensors"}, "is not a safetensors file beside it"),
        ({"a": "pytorch_model.bin"}, "'pytorch_model.bin' is not a safetensors file beside it"),
        ({"a": 1}, "1 is not a safetensors file beside it"),
        ({"a": "diffusion_pytorch_model-00002-of-00002.safetensors"}, "tensor 'a' is not in"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_of_shards_that_is_wrong(folder: Path, weight_map: object, reason: str) -> None:
    shard(folder, weight_map)
    assert reason in refusal(folder)


def test_links_stay_within_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / UNET).rename(folder / "here.safetensors")
    (folder / UNET).symlink_to(folder / "here.safetensors")
    assert check_folder(folder, "mine").files

    (folder / "here.safetensors").rename(tmp_path / "there.safetensors")
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(tmp_path / "there.safetensors")
    assert refusal(folder) == f"mine: {UNET}: is a link that leads out of the folder"


def test_a_part_linked_from_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "vae").rename(tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    assert "is a link that leads out of the folder" in refusal(folder)


def test_the_hubs_cache_passes(tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    folder = write_checkpoint(cache / "snapshots" / "0123abcd")
    (cache / "blobs").mkdir()
    for file in [f for f in folder.rglob("*") if f.is_file()]:
        blob = cache / "blobs" / hashlib.sha256(str(file).encode()).hexdigest()
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert len(check_folder(folder, "owner/name").files) == 10

    (cache / "refs").mkdir()
    (folder / UNET).resolve().rename(cache / "refs" / "unet")
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(cache / "refs" / "unet")
    assert "is a link that leads out of the folder" in refusal(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_hang(folder: Path) -> None:
    (folder / UNET).unlink()
    os.mkfifo(folder / UNET)
    assert "unet: has no safetensors weights" in refusal(folder)


def test_the_hash_is_of_the_contents(folder: Path, tmp_path: Path) -> None:
    original = checkpoint_hash(check_folder(folder, "mine"))
    shutil.copytree(folder, tmp_path / "elsewhere")
    elsewhere = check_folder(tmp_path / "elsewhere", "other")

    assert checkpoint_hash(elsewhere) == original
    (tmp_path / "elsewhere" / "README.md").write_text("not a weight")
    assert checkpoint_hash(check_folder(tmp_path / "elsewhere", "other")) == original


@pytest.mark.parametrize("file", [UNET, "vae/config.json", "tokenizer/merges.txt"])
def test_the_hash_changes_with_each_file(folder: Path, file: str) -> None:
    checkpoint = check_folder(folder, "mine")
    original = checkpoint_hash(checkpoint)
    data = (folder / file).read_bytes()

    (folder / file).write_bytes(data + b" ")

    assert checkpoint_hash(checkpoint) != original


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this system")
def test_the_hash_can_be_made_by_hand(folder: Path) -> None:
    checkpoint = check_folder(folder, "mine")
    names = [f.relative_to(folder).as_posix() for f in checkpoint.files]
    listing = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)

    assert checkpoint_hash(checkpoint) == hashlib.sha256(listing.stdout).hexdigest()


def test_a_file_that_went_away_is_said(folder: Path) -> None:
    checkpoint = check_folder(folder, "mine")
    (folder / UNET).unlink()
    with pytest.raises(CheckpointError, match=f"^mine: {UNET}: cannot be read: No such file"):
        checkpoint_hash(checkpoint)


def test_files_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = check_folder(folder, "mine")
    original = checkpoint_hash(checkpoint)
    monkeypatch.setattr(hashlib, "file_digest", None)

    assert checkpoint_hash(checkpoint) == original


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers(value: float, dtype: torch.dtype) -> None:
    good = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)  # a sum of these would overflow
    bad = good.clone()
    bad[1, 2] = value
    check_finite("unet", {"a": good, "position_ids": torch.arange(3)})

    with pytest.raises(
        CheckpointError, match=r"^unet: tensor 'b\.weight' is NaN or infinite in 1 of"
    ):
        check_finite("unet", {"a": good, "b.weight": bad})
