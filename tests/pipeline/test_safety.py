"""The safety checker is loaded when asked for, reports, and blackens nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.model import Model, load_model
from pipeline.render import points, render
from pipeline.spec import ModelSpec, Sampling, StillSpec
from tests.tiny import write_tiny_checkpoint

SPEC = StillSpec(prompt="a red apple", sampling=Sampling(num_inference_steps=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a safety checker of random weights."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("safety") / "tiny-sd")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.save_pretrained(folder / "safety_checker", safe_serialization=True)
    size = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    processor = {"image_processor_type": "CLIPImageProcessor", **size}
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(processor))
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def load(folder: Path, *, safety_checker: bool) -> Model:
    return load_model(ModelSpec(source=str(folder), device="cpu", safety_checker=safety_checker))


def test_it_is_loaded_only_when_asked_for(folder: Path):
    assert load(folder, safety_checker=False).safety is None
    assert load(folder, safety_checker=True).safety is not None


@pytest.mark.parametrize("flagged", [True, False])
def test_it_reports_and_the_picture_is_kept(folder: Path, flagged: bool):
    model = load(folder, safety_checker=True)
    assert model.safety is not None
    # Every picture is far from, or near to, each of its concepts.
    model.safety.checker.concept_embeds_weights.fill_(-2.0 if flagged else 2.0)
    model.safety.checker.special_care_embeds_weights.fill_(2.0)

    (frame,) = render(model, SPEC.sampling, points(model, SPEC))
    plain = load(folder, safety_checker=False)
    (unseen,) = render(plain, SPEC.sampling, points(plain, SPEC))

    assert frame.flagged is flagged
    assert unseen.flagged is None
    assert torch.equal(frame.pixels, unseen.pixels)


def test_a_checkpoint_without_one_says_so(tiny_folder: Path):
    with pytest.raises(CheckpointError, match="safety_checker"):
        load(tiny_folder, safety_checker=True)
