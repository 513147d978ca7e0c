"""Weights to a `Model`: found, checked, loaded, put where it runs, and frozen.

Knows no seeds, and no file that is written.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.adapters import apply_loras, load_embeddings
from pipeline.checkpoint import (
    Checkpoint,
    check_autoencoder_folder,
    check_folder,
    checkpoint_hash,
    hash_file,
)
from pipeline.codec import Codec, VaeCodec
from pipeline.defaults import find_defaults
from pipeline.denoise import create_scheduler, skip_steps
from pipeline.download import Plan, plan_download
from pipeline.errors import CheckpointError, SpecError
from pipeline.fitting import choose_size
from pipeline.guidance import Network
from pipeline.loaders import DEFAULTS_FILE, Parts, load_autoencoder, load_folder
from pipeline.memory import place
from pipeline.network import bind, embeds_guidance
from pipeline.pictures import read_size
from pipeline.prompts import TextEncoder, TextEncoders
from pipeline.safety import SafetyChecker, load_safety_checker
from pipeline.single_file import check_file, load_single_file, load_single_vae
from pipeline.sources import (
    anonymous_source,
    find_adapter,
    find_source,
    is_hub_id,
    pinned_revision,
)
from pipeline.spec import (
    DEFAULT_STRENGTH,
    MORPH_BATCH,
    STILL_BATCH,
    ImageSpec,
    ModelSpec,
    MorphSpec,
    Sampling,
    StillSpec,
    with_defaults,
)
from pipeline.tensors import PromptEmbeds

AnySpec = TypeVar("AnySpec", StillSpec, MorphSpec)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A Stable Diffusion, ready and frozen: any number of threads may render with it.

    `hashes` holds, by name, the content of whatever was added to the checkpoint: an autoencoder,
    LoRAs, textual inversions. `notes` say what a user should know of how it is held.
    """

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    unet: nn.Module
    codec: Codec
    text: TextEncoders
    scheduler_config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    hashes: Mapping[str, str] = field(default_factory=dict)
    safety: SafetyChecker | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call it: never a path."""
        return self.checkpoint.name

    @cached_property
    def hash(self) -> str:
        """The content hash of the checkpoint's weights and configs."""
        return checkpoint_hash(self.checkpoint)

    @property
    def summary(self) -> str:
        """One line that says what runs where, in what precision."""
        where = f"{self.name} on {self.device} in {str(self.dtype).removeprefix('torch.')}"
        return "; ".join([where, *self.notes])

    def network(self, sampling: Sampling, guidance_scale: Tensor) -> Network:
        """The UNet as a plain callable; `guidance_scale` has one number a sample."""
        assert sampling.height is not None and sampling.width is not None
        size = sampling.height, sampling.width
        return bind(self.unet, size, guidance_scale.to(self.device), self.dtype)

    @cached_property
    def empty_embeds(self) -> PromptEmbeds:
        """What the text encoders make of no words: the padding of unequal prompts."""
        return self.text.encode("")

    def noise_shape(self, sampling: Sampling) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents that `sampling` asks for."""
        sampling = self.complete(sampling)
        assert sampling.height is not None and sampling.width is not None
        downscale = self.codec.downscale
        return self.codec.channels, sampling.height // downscale, sampling.width // downscale

    def complete(self, sampling: Sampling) -> Sampling:
        """`sampling` with this model's defaults for every None, checked against the model."""
        sampling = with_defaults(sampling, {"batch_size": STILL_BATCH, **self.defaults})
        for name in ("height", "width"):
            side = getattr(sampling, name)
            if side % self.codec.downscale:
                raise SpecError(f"{name} = {side}: must be a multiple of {self.codec.downscale}")
        return sampling

    def complete_for(self, image: ImageSpec, sampling: Sampling) -> Sampling:
        """Like `complete`, for a start image: its aspect at the model's usual area, unless told."""
        width, height = sampling.width, sampling.height
        if width is None or height is None:
            area = self.defaults["height"] * self.defaults["width"]
            size = read_size(Path(image.source))
            width, height = choose_size(size, area, self.codec.downscale, width, height)
        strength = DEFAULT_STRENGTH if sampling.strength is None else sampling.strength
        return self.complete(sampling.replace(width=width, height=height, strength=strength))

    def resolve(self, spec: AnySpec) -> AnySpec:
        """`spec` with nothing left open: what is rendered, and what is written down."""
        sampling = self._complete_any(spec)
        assert sampling.scheduler is not None and sampling.num_inference_steps is not None
        scheduler = create_scheduler(
            sampling.scheduler, self.scheduler_config, sampling.num_inference_steps, "cpu"
        )
        if sampling.strength is not None:
            skip_steps(scheduler, sampling.num_inference_steps, sampling.strength)
        dtype = str(self.dtype).removeprefix("torch.")
        model = spec.model.replace(
            revision=pinned_revision(spec.model.source, self.checkpoint.folder),
            device=str(self.device),
            dtype=dtype,
        )
        resolved = spec.replace(sampling=sampling, model=model)
        return resolved.fill_in() if isinstance(resolved, MorphSpec) else resolved

    def _complete_any(self, spec: StillSpec | MorphSpec) -> Sampling:
        if isinstance(spec, MorphSpec):
            return self.complete(with_defaults(spec.sampling, {"batch_size": MORPH_BATCH}))
        if spec.image is None:
            return self.complete(spec.sampling)
        return self.complete_for(spec.image, spec.sampling)


def load_model(spec: ModelSpec = ModelSpec()) -> Model:
    """The checkpoint that `spec` names, verified before it is opened, whole and finite after.

    Raises `SpecError` for a device or dtype that cannot be, `CheckpointError` for the rest.
    """
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.dtype, device)
    hashes: dict[str, str] = {}
    with _without_collector():
        checkpoint, parts = _load_parts(spec, dtype, hashes)
    vae = _load_vae(spec, parts, dtype, hashes)
    words = _adapt(spec, parts, hashes)

    note = place([*parts.text_encoders, parts.unet, vae], device, spec.low_memory)
    config = parts.scheduler_config
    if spec.prediction_type is not None:
        config = {**config, "prediction_type": spec.prediction_type}
    codec = VaeCodec(vae, device)
    if codec.channels != (taken := parts.unet.config.in_channels):
        raise CheckpointError(
            f"vae: makes latents of {codec.channels} channels, the network takes {taken}"
        )
    return Model(
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        unet=parts.unet,
        codec=codec,
        text=_join_encoders(spec, parts, words, device),
        scheduler_config=config,
        defaults=_find_defaults(checkpoint, parts, config, codec.downscale),
        hashes=hashes,
        safety=load_safety_checker(checkpoint, device) if spec.safety_checker else None,
        notes=(note,) if note else (),
    )


def _find_defaults(
    checkpoint: Checkpoint, parts: Parts, scheduler_config: Mapping[str, Any], downscale: int
) -> Mapping[str, Any]:
    """What the checkpoint brings along, and for the rest what its configs let guess."""
    rows = parts.unet.config.sample_size
    if type(rows) is not int or rows < 1:
        raise CheckpointError(f"{checkpoint.name}: unet: sample_size = {rows!r}: must be a count")
    guessed = find_defaults(
        scheduler_config,
        is_xl=parts.is_xl,
        embeds_guidance=embeds_guidance(parts.unet),
        side=rows * downscale,
    )
    try:
        with_defaults(Sampling(), parts.defaults)
    except SpecError as error:
        raise CheckpointError(f"{checkpoint.name}: {DEFAULTS_FILE}: {error}") from None
    return guessed | dict(parts.defaults)


def plan_missing(spec: ModelSpec) -> list[Plan]:
    """What has to be downloaded before `load_model`; nothing where it is all on this machine.

    Half precision where the device computes in it. Raises what `plan_download` raises.
    """
    is_half = choose_dtype(spec.dtype, choose_device(spec.device)) != torch.float32
    added = [spec.vae, *(a.source for a in spec.loras), *(e.source for e in spec.embeddings)]
    plans = [
        plan_download(place, prefer_half=is_half) for place in added if place and is_hub_id(place)
    ]
    if is_hub_id(spec.source):
        checks = spec.safety_checker
        plans[:0] = [
            plan_download(spec.source, spec.revision, prefer_half=is_half, safety_checker=checks)
        ]
    return [plan for plan in plans if plan is not None]


@contextmanager
def _without_collector() -> Iterator[None]:
    """No search for garbage meanwhile: importing leaves none, and it costs a fifth of loading."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load_parts(
    spec: ModelSpec, dtype: torch.dtype, hashes: dict[str, str]
) -> tuple[Checkpoint, Parts]:
    source, name = find_source(spec.source, spec.revision), anonymous_source(spec.source)
    if source.is_dir():
        if spec.config is not None:
            raise SpecError(f"config = {spec.config!r}: is for a single file, not for a folder")
        checkpoint = check_folder(source, name, safety_checker=spec.safety_checker)
        return checkpoint, load_folder(checkpoint, dtype)
    if spec.safety_checker:
        raise SpecError("safety_checker = true: a single file brings none, a folder may")
    checkpoint = check_file(source, name)
    config = None
    if spec.config is not None:
        config, label = find_source(spec.config), anonymous_source(spec.config)
        files = tuple(sorted(f for f in config.rglob("*") if f.suffix in (".json", ".txt")))
        hashes[f"config {label}"] = checkpoint_hash(Checkpoint(config, label, {}, files))
    return checkpoint, load_single_file(
        checkpoint, dtype, config=config, prediction_type=spec.prediction_type
    )


def _load_vae(spec: ModelSpec, parts: Parts, dtype: torch.dtype, hashes: dict[str, str]) -> Any:
    """The autoencoder asked for, or the checkpoint's; XL's overflows in float16."""
    vae = parts.vae
    if spec.vae is not None:
        source, name = find_source(spec.vae), anonymous_source(spec.vae)
        if source.is_dir():
            checkpoint = check_autoencoder_folder(source, name)
            vae, content = load_autoencoder(checkpoint, dtype), checkpoint_hash(checkpoint)
        else:
            vae, content = load_single_vae(source, name, dtype, like=vae), hash_file(source)
        hashes[f"vae {name}"] = content
    upcast = parts.is_xl and dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    return vae.float() if upcast else vae


def _adapt(spec: ModelSpec, parts: Parts, hashes: dict[str, str]) -> Mapping[str, str]:
    """LoRAs into the weights, textual inversions into the vocabulary; the words that they bring."""
    loras = [(find_adapter(a.source), anonymous_source(a.source), a.weight) for a in spec.loras]
    apply_loras(parts.unet, parts.text_encoders, loras)
    embeddings = [
        (find_adapter(e.source), anonymous_source(e.source), e.token) for e in spec.embeddings
    ]
    words = load_embeddings(parts.tokenizers, parts.text_encoders, embeddings) if embeddings else {}
    for file, name, _ in [*loras, *embeddings]:
        hashes[name] = hash_file(file)
    return words


def _join_encoders(
    spec: ModelSpec, parts: Parts, words: Mapping[str, str], device: torch.device
) -> TextEncoders:
    layers = min(encoder.config.num_hidden_layers for encoder in parts.text_encoders)
    skip = 0 if spec.clip_skip is None else spec.clip_skip
    if skip >= layers - parts.is_xl:
        most = layers - parts.is_xl - 1
        raise SpecError(f"clip_skip = {skip}: must be between 0 and {most} for this checkpoint")
    pairs = zip(parts.tokenizers, parts.text_encoders, strict=True)
    return TextEncoders(
        encoders=tuple(
            TextEncoder(tokenizer=t, encoder=e, device=device, skip=skip, is_xl=parts.is_xl)
            for t, e in pairs
        ),
        words=words,
        zeros_if_no_negative=parts.is_xl
        and bool(parts.settings.get("force_zeros_for_empty_prompt", True)),
    )


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
