"""Weights to a `Model`: found, checked, loaded and frozen.

The only importer of diffusers' and transformers' model classes. Knows no seeds, and no file that is
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import Checkpoint, check_finite, check_folder, checkpoint_hash
from pipeline.codec import Codec, VaeCodec
from pipeline.denoise import create_scheduler, name_scheduler
from pipeline.errors import CheckpointError, SpecError
from pipeline.files import parse_json
from pipeline.prompts import TextEncoder
from pipeline.sources import anonymous_source, find_folder
from pipeline.spec import ModelSpec, Sampling, StillSpec, with_defaults
from pipeline.tensors import Embeds, Latents

DEFAULTS_FILE = "greatcircle.json"
"""Measured defaults that a checkpoint may bring along: steps, guidance, scheduler."""

_USUAL = {"num_inference_steps": 25, "guidance_scale": 7.5}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A Stable Diffusion, ready and frozen: any number of threads may render with it."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    unet: nn.Module
    codec: Codec
    text: TextEncoder
    scheduler_config: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What to call it: never a path."""
        return self.checkpoint.name

    @cached_property
    def hash(self) -> str:
        """The content hash of its weights and configs."""
        return checkpoint_hash(self.checkpoint)

    @property
    def summary(self) -> str:
        """One line that says what runs where, in what precision."""
        return f"{self.name} on {self.device} in {str(self.dtype).removeprefix('torch.')}"

    def network(self, latents: Latents, timestep: Tensor, prompt_embeds: Embeds) -> Tensor:
        """One forward of the UNet."""
        prediction: Tensor = self.unet(
            latents, timestep, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
        return prediction

    @cached_property
    def empty_embeds(self) -> Embeds:
        """What the text encoder makes of no words: the padding of unequal prompts."""
        return self.text.encode("")

    def noise_shape(self, sampling: Sampling) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents that `sampling` asks for."""
        sampling = self.complete(sampling)
        assert sampling.height is not None and sampling.width is not None
        downscale = self.codec.downscale
        return self.codec.channels, sampling.height // downscale, sampling.width // downscale

    def complete(self, sampling: Sampling) -> Sampling:
        """`sampling` with this model's defaults for every None, checked against the model."""
        sampling = with_defaults(sampling, self.defaults)
        for name in ("height", "width"):
            side = getattr(sampling, name)
            if side % self.codec.downscale:
                raise SpecError(f"{name} = {side}: must be a multiple of {self.codec.downscale}")
        return sampling

    def resolve(self, spec: StillSpec) -> StillSpec:
        """`spec` with nothing left open: what is rendered, and what is written down."""
        sampling = self.complete(spec.sampling)
        assert sampling.scheduler is not None and sampling.num_inference_steps is not None
        create_scheduler(
            sampling.scheduler, self.scheduler_config, sampling.num_inference_steps, "cpu"
        )
        dtype = str(self.dtype).removeprefix("torch.")
        model = spec.model.replace(device=str(self.device), dtype=dtype)
        return spec.replace(sampling=sampling, model=model)


def load_model(spec: ModelSpec = ModelSpec()) -> Model:
    """The checkpoint that `spec` names, verified before it is opened, whole and finite after.

    Raises `SpecError` for a device or dtype that cannot be, `CheckpointError` for the rest.
    """
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.dtype, device)
    folder = find_folder(spec.source, spec.revision)
    checkpoint = check_folder(folder, anonymous_source(spec.source))
    return _assemble(checkpoint, device, dtype)


def choose_device(name: str | None) -> torch.device:
    """The device asked for, or the best that is there: CUDA, then MPS, then the CPU."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    chosen = name or available[0]
    if chosen not in available:
        raise SpecError(f"device = {name!r}: not on this machine, which has {', '.join(available)}")
    return torch.device(chosen)


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or what suits the device: float32 on a CPU, 16 bits elsewhere."""
    if device.type == "cpu":
        if name not in (None, "float32"):
            raise SpecError(
                f"dtype = {name!r}: must be float32 on a CPU, where 16 bits can be 100 times slower"
            )
        return torch.float32
    if name is not None:
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if bfloat16 else torch.float16


def _assemble(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Model:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the library draws none, and neither do its loaders
    vae = _load_part(AutoencoderKL, checkpoint, "vae", device, dtype)
    unet = _load_part(UNet2DConditionModel, checkpoint, "unet", device, dtype)
    encoder = _load_part(CLIPTextModel, checkpoint, "text_encoder", device, dtype)
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint.folder / "tokenizer")
    codec = VaeCodec(vae)
    config = _read_json(checkpoint.folder / "scheduler" / "scheduler_config.json")
    return Model(
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        unet=unet,
        codec=codec,
        text=TextEncoder(tokenizer, encoder),
        scheduler_config=config,
        defaults=_find_defaults(checkpoint, config, unet.config.sample_size * codec.downscale),
    )


def _load_part(
    kind: Any, checkpoint: Checkpoint, part: str, device: torch.device, dtype: torch.dtype
) -> Any:
    """One component, with every weight it needs and nothing that is not a number; frozen."""
    label = f"{checkpoint.name}: {part}"
    module, report = kind.from_pretrained(
        checkpoint.folder / part,
        dtype=dtype,
        use_safetensors=True,
        variant=checkpoint.variants.get(part),
        ignore_mismatched_sizes=True,  # so that they are reported, and refused below
        output_loading_info=True,
    )
    if mismatched := report["mismatched_keys"]:
        name, found, wanted = min(mismatched)
        raise CheckpointError(
            f"{label}: tensor {name} has shape {tuple(found)}: must be {tuple(wanted)}"
        )
    if missing := report["missing_keys"]:
        raise CheckpointError(f"{label}: tensor {min(missing)} is missing")
    check_finite(label, module.state_dict())
    return module.to(device).eval().requires_grad_(False)


def _find_defaults(
    checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], side: int
) -> dict[str, Any]:
    scheduler = name_scheduler(str(scheduler_config.get("_class_name"))) or "dpm++2m"
    usual = {**_USUAL, "scheduler": scheduler, "height": side, "width": side}
    brought = checkpoint.folder / DEFAULTS_FILE
    return usual | (_read_json(brought) if brought.exists() else {})


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = parse_json(file.read_bytes(), infinities=True)
        if not isinstance(values, dict):
            raise CheckpointError(f"{file.name}: is not a JSON object")
    except ValueError as error:
        raise CheckpointError(f"{file.name}: is not valid JSON: {error}") from None
    return values
