"""An autoencoder alone is the one of the whole model, from wherever it comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.allowed import AUTOENCODERS
from pipeline.autoencoder import load_codec
from pipeline.checkpoint import hash_file
from pipeline.codec import VaeCodec
from pipeline.errors import CheckpointError, SpecError
from pipeline.model import Model, load_model
from pipeline.spec import ModelSpec
from tests.tiny_autoencoders import create_small
from tests.tiny_single import join_parts, read_parts, write_single

PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def load(source: object, **settings: object):
    return load_codec(ModelSpec(source=str(source), device="cpu", **settings))


def test_it_is_the_models_own(embedded: Model):
    found = load("embedded")

    assert torch.equal(found.codec.encode(PIXELS), embedded.codec.encode(PIXELS))
    assert found.summary == "AutoencoderKL of embedded on cpu in float32"
    assert not any(weight.requires_grad for weight in found.codec.vae.parameters())


def test_nothing_else_of_a_model_is_opened(tiny_folder: Path, tmp_path: Path, tiny: Model):
    alone = tmp_path / "model"
    (alone / "vae").mkdir(parents=True)
    for file in (tiny_folder / "vae").iterdir():
        (alone / "vae" / file.name).write_bytes(file.read_bytes())

    found = load(alone)

    assert torch.equal(found.codec.encode(PIXELS), tiny.codec.encode(PIXELS))
    assert found.hash == load(alone / "vae").hash == load(tiny_folder).hash


@pytest.mark.parametrize("kind", AUTOENCODERS)
@pytest.mark.parametrize("way", ["source", "vae"])
def test_every_class_comes_through_the_door(kind: str, way: str, tmp_path: Path):
    vae = create_small(kind)
    vae.save_pretrained(tmp_path / "mine", safe_serialization=True)

    found = load_codec(ModelSpec(**{way: str(tmp_path / "mine")}, device="cpu"))

    assert type(found.codec.vae) is type(vae)
    assert found.name == "mine"
    saved = VaeCodec(vae)
    assert torch.equal(found.codec.encode(PIXELS), saved.encode(PIXELS))
    latents = saved.encode(PIXELS)
    assert torch.equal(found.codec.decode(latents), saved.decode(latents))


def test_a_class_that_is_not_allowed_is_refused(tmp_path: Path):
    create_small("AutoencoderKL").save_pretrained(tmp_path / "mine", safe_serialization=True)
    config = tmp_path / "mine" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "system"}))

    with pytest.raises(CheckpointError, match=r"is of a 'system': must be one of Asymmetric"):
        load(tmp_path / "mine")


def test_the_one_in_a_single_file(tiny_folder: Path, tiny: Model, tmp_path: Path):
    file = write_single(tmp_path / "all.safetensors", join_parts("sd1", read_parts(tiny_folder)))
    spec = ModelSpec(source=str(file), config=str(tiny_folder), device="cpu")

    found = load_codec(spec)

    assert torch.equal(found.codec.encode(PIXELS), load_model(spec).codec.encode(PIXELS))
    assert torch.equal(found.codec.encode(PIXELS), tiny.codec.encode(PIXELS))
    assert found.hash == hash_file(file)


def test_one_in_a_file_takes_the_scale_of_the_models_own(tiny_folder: Path, tmp_path: Path):
    parts = read_parts(tiny_folder)["vae"]
    file = write_single(tmp_path / "vae.safetensors", parts)

    found = load(tiny_folder, vae=str(file))

    assert torch.equal(found.codec.encode(PIXELS), load(tiny_folder).codec.encode(PIXELS))
    assert (found.name, found.hash) == ("vae.safetensors", hash_file(file))


def test_one_in_a_file_by_itself_is_refused(tiny_folder: Path, tmp_path: Path):
    file = write_single(tmp_path / "vae.safetensors", read_parts(tiny_folder)["vae"])

    with pytest.raises(CheckpointError) as caught:
        load(file)

    assert "\n" not in str(caught.value)
    assert "vae" in str(caught.value)


def test_sixteen_bits_are_taken_on_a_cpu(tiny_folder: Path):
    found = load(tiny_folder, dtype="bfloat16")

    assert found.codec.vae.dtype == torch.bfloat16
    assert found.codec.decode(found.codec.encode(PIXELS)).isfinite().all()
    assert "bfloat16" in found.summary
    # and what they are held against has the weights as they were
    assert found.exact is not None
    assert torch.equal(found.exact.encode(PIXELS), load(tiny_folder).codec.encode(PIXELS))
    assert load(tiny_folder).exact is None


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(SpecError, match="not on this machine"):
        load_codec(ModelSpec(device="cuda:99"))
