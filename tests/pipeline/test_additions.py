"""What is added to a checkpoint comes through the same door, and draws as in diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import SpecError
from pipeline.model import Model, load_model
from pipeline.render import points, render
from pipeline.spec import EmbeddingSpec, LoraSpec, ModelSpec, Sampling, StillSpec
from pipeline.stills import describe
from tests.tiny import WIDTH, load_reference
from tests.tiny_adapters import create_lora, write_tensors

SAMPLING = Sampling(num_inference_steps=3, guidance_scale=5.0, scheduler="ddim")
PROMPT = "a red apple"


def draw(model: Model, prompt: str = PROMPT) -> torch.Tensor:
    spec = StillSpec(prompt=prompt, seed=7, sampling=SAMPLING)
    (frame,) = render(model, SAMPLING, points(model, spec))
    return frame.latents


def draw_there(pipe, prompt: str = PROMPT) -> torch.Tensor:
    """The same by diffusers."""
    from diffusers import DDIMScheduler

    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(7)
    settings = dict(num_inference_steps=3, guidance_scale=5.0, output_type="latent")
    return pipe(prompt, generator=generator, **settings).images


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AutoencoderTiny that halves each side, as the tiny checkpoint's own does."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("vae") / "tiny-taesd"
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    vae.save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_tiny_autoencoder_takes_the_place_of_the_checkpoints(tiny_folder: Path, taesd: Path):
    from diffusers import AutoencoderTiny

    held = ModelSpec(source=str(tiny_folder), vae=str(taesd), device="cpu")
    model = load_model(held)
    pipe = load_reference(tiny_folder)
    pipe.vae = AutoencoderTiny.from_pretrained(taesd)
    spec = StillSpec(prompt=PROMPT, seed=7, sampling=SAMPLING)

    (frame,) = render(model, SAMPLING, points(model, spec))
    from diffusers import DDIMScheduler

    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    expected = pipe(
        PROMPT,
        generator=torch.Generator().manual_seed(7),
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="pt",
        height=32,
        width=32,
    ).images

    assert torch.equal((frame.pixels / 2 + 0.5).clamp(0, 1), expected)
    assert model.codec.encode(frame.pixels).shape == frame.latents.shape
    record = describe(model, spec.replace(model=held))
    assert record.spec.model.vae == "tiny-taesd"
    assert list(record.hashes) == ["vae tiny-taesd"]


def test_loras_draw_as_fused_in_diffusers(tiny_folder: Path, tmp_path: Path):
    pipe = load_reference(tiny_folder)
    specs = []
    for index, weight in enumerate((0.7, -0.3)):
        lora = create_lora("peft", pipe.unet, [pipe.text_encoder], seed=index)
        file = write_tensors(tmp_path / f"lora{index}.safetensors", lora)
        specs.append(LoraSpec(source=str(file), weight=weight))
        pipe.load_lora_weights(dict(lora), adapter_name=f"a{index}")
        pipe.set_adapters([f"a{index}"], [weight])
        pipe.fuse_lora(adapter_names=[f"a{index}"])
        pipe.unload_lora_weights()

    model = load_model(ModelSpec(source=str(tiny_folder), loras=tuple(specs), device="cpu"))

    assert torch.equal(draw(model), draw_there(pipe))
    assert not torch.equal(draw(model), draw_there(load_reference(tiny_folder)))
    record = describe(model, StillSpec(prompt=PROMPT, model=ModelSpec(loras=tuple(specs))))
    assert [lora.source for lora in record.spec.model.loras] == [
        "lora0.safetensors",
        "lora1.safetensors",
    ]
    assert str(tmp_path) not in record.model_dump_json()


def test_a_textual_inversion_is_a_word_as_in_diffusers(tiny_folder: Path, tmp_path: Path):
    torch.manual_seed(2)
    vectors, token = torch.randn(2, WIDTH), "<pear-toy>"
    file = tmp_path / "toy.safetensors"
    save_file({token: vectors}, file)
    pipe = load_reference(tiny_folder)
    pipe.load_textual_inversion({token: vectors}, token=token)

    model = load_model(
        ModelSpec(
            source=str(tiny_folder),
            embeddings=(EmbeddingSpec(source=str(file), token=token),),
            device="cpu",
        )
    )

    assert torch.equal(draw(model, f"a red {token}"), draw_there(pipe, f"a red {token}"))
    assert torch.equal(draw(model), draw_there(load_reference(tiny_folder)))


def test_a_config_is_for_a_single_file(tiny_folder: Path):
    with pytest.raises(SpecError, match="is for a single file, not for a folder"):
        load_model(ModelSpec(source=str(tiny_folder), config=str(tiny_folder), device="cpu"))


def test_a_prediction_type_that_is_given_counts(tiny_folder: Path, tiny_velocity_folder: Path):
    told = load_model(
        ModelSpec(source=str(tiny_folder), prediction_type="v_prediction", device="cpu")
    )
    own = load_model(ModelSpec(source=str(tiny_velocity_folder), device="cpu"))

    assert torch.equal(draw(told), draw(own))
