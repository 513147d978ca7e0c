"""The door: what is loaded is whole, frozen and said; what cannot be is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError, SpecError
from pipeline.model import Model, choose_device, choose_dtype, load_model
from pipeline.spec import ModelSpec, Sampling, StillSpec


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own, to break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copied"))


def _load(folder: Path) -> Model:
    return load_model(ModelSpec(source=str(folder), device="cpu"))


def test_weights_are_frozen(tiny: Model):
    for module in (tiny.unet, tiny.codec.vae, tiny.text.encoders[0].encoder):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_open_values_are_filled_from_the_checkpoint(tiny: Model, embedded: Model):
    spec = tiny.resolve(StillSpec(prompt="x"))

    assert (spec.sampling.height, spec.sampling.width) == (32, 32)
    assert spec.sampling.scheduler == "pndm"  # the class in its scheduler config
    open_still = [name for name, value in spec.sampling if value is None]
    assert open_still == ["strength"]  # which is an image's, and there is none
    assert (spec.model.device, spec.model.dtype) == ("cpu", "float32")
    brought = json.loads((embedded.checkpoint.folder / "greatcircle.json").read_text())
    resolved = dict(embedded.complete(Sampling()))
    assert brought.items() <= resolved.items()


def test_defaults_that_cannot_be_are_the_checkpoints_fault(copied: Path):
    (copied / "greatcircle.json").write_text('{"height": "x"}')

    with pytest.raises(CheckpointError, match=r"greatcircle\.json: height = 'x'"):
        load_model(ModelSpec(source=str(copied), device="cpu"))


def test_resolving_twice_changes_nothing(tiny: Model):
    spec = tiny.resolve(StillSpec(prompt="x"))

    assert tiny.resolve(spec) == spec


def test_sides_that_do_not_fit_are_refused(embedded: Model):
    with pytest.raises(SpecError, match=r"^height = 100: must be a multiple of 8$"):
        embedded.resolve(StillSpec(prompt="x", sampling={"height": 100}))


def test_the_hash_tells_contents_not_places(tiny: Model, copied: Path):
    assert _load(copied).hash == tiny.hash

    weights = load_file(copied / "unet/diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"] += 1
    save_file(weights, copied / "unet/diffusion_pytorch_model.safetensors")

    assert _load(copied).hash != tiny.hash


def test_the_model_says_what_runs_where(tiny: Model, embedded: Model):
    assert tiny.summary == "tiny-sd on cpu in float32"
    assert embedded.summary == "embedded on cpu in float32"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_on_a_cpu_are_refused_with_the_reason(dtype: str):
    with pytest.raises(
        SpecError, match=f"dtype = '{dtype}': must be float32 on a CPU, where 16 bits"
    ):
        choose_dtype(dtype, torch.device("cpu"))


def test_the_dtype_follows_the_device():
    assert choose_dtype(None, torch.device("cpu")) == torch.float32
    assert choose_dtype(None, torch.device("mps")) == torch.float16
    assert choose_dtype("float32", torch.device("mps")) == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(SpecError, match=r"device = 'cuda': not on this machine, which has .*cpu"):
        choose_device("cuda")


def test_a_device_that_is_there_is_chosen():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize(
    "source", ["nowhere", "/no/such/folder", "../nowhere", "~/nowhere", "a/b/c", "embeded"]
)
def test_a_missing_model_is_said(source: str):
    with pytest.raises(CheckpointError, match="no such folder or file; allowed are 'embedded', a"):
        load_model(ModelSpec(source=source, device="cpu"))


def test_a_hub_id_without_the_hub_is_said():
    """The suite runs with HF_HUB_OFFLINE=1."""
    with pytest.raises(
        CheckpointError, match="'nobody/nothing': is not on this machine, and HF_HUB_OFFLINE is set"
    ):
        load_model(ModelSpec(source="nobody/nothing", device="cpu"))


def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")

    with pytest.raises(CheckpointError, match=r"model.safetensors: is not safetensors"):
        load_model(ModelSpec(source=str(file), device="cpu"))


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ],
)
class TestBrokenWeights:
    """Each of these loads silently with the libraries' own loaders."""

    def _change(self, folder: Path, part: str, file: str, change) -> str:
        weights = load_file(folder / part / file)
        name = min(weights)
        change(weights, name)
        save_file(weights, folder / part / file, metadata={"format": "pt"})
        return name.rpartition(".")[2]

    def test_a_missing_tensor_is_named(self, copied: Path, part: str, file: str):
        self._change(copied, part, file, lambda weights, name: weights.pop(name))

        with pytest.raises(CheckpointError, match=f"copied: {part}: tensor .* is missing"):
            _load(copied)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_number_that_is_none_is_named(self, copied: Path, part: str, file: str, value: float):
        name = self._change(copied, part, file, lambda w, name: w[name].view(-1)[:1].fill_(value))

        with pytest.raises(
            CheckpointError, match=f"copied: {part}: tensor .*{name}.* is NaN or infinite"
        ):
            _load(copied)

    def test_another_shape_is_refused(self, copied: Path, part: str, file: str):
        def change(weights, name):
            weights[name] = torch.zeros(*weights[name].shape, 2)

        self._change(copied, part, file, change)

        with pytest.raises(
            CheckpointError, match=f"copied: {part}: tensor .* has shape .*: must be"
        ):
            _load(copied)
