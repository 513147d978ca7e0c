"""Which Stable Diffusion a single file holds, told from the names and shapes of its tensors.

Knows no tensor's content and no model class. What people bring by mistake is named, with what to do
instead. Every refusal is a CheckpointError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.headers import TensorInfo, check_dtype, shorten

LAYOUTS = Path(__file__).parent / "layouts"
"""The published configs of each family, and the words that all of them read."""

UNET = "model.diffusion_model."
VAE = "first_stage_model."
"""How the names begin that single files give to the weights of these parts."""

_FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
_LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Family:
    """A kind of Stable Diffusion: its short name, its title, and where its text encoders stand."""

    name: str
    title: str
    text_encoders: tuple[str, ...]

    @property
    def layout(self) -> Path:
        """The folder with its published configs."""
        return LAYOUTS / self.name


FAMILIES = (
    Family("sd1", "Stable Diffusion 1", ("cond_stage_model.transformer.",)),
    Family("sd2", "Stable Diffusion 2", ("cond_stage_model.model.",)),
    Family(
        "xl",
        "Stable Diffusion XL",
        ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    ),
)

_EMBEDDING = (
    "is a textual inversion: name it among the embeddings, and bring a checkpoint as the model"
)
_PLAIN_ONES = "bring a Stable Diffusion 1, 2 or XL"

# What to say if a name holds one of these, "^" being where it begins. The first that fits counts.
_MISTAKES = {
    "is a ControlNet, which this program does not use: bring the checkpoint that it steers": (
        "controlnet", "^control_model.", "input_hint_block.", "zero_convs.",
    ),
    "is an IP-Adapter, which this program does not use: bring the checkpoint that it steers": (
        "^image_proj.", "^ip_adapter.",
    ),
    "is a T2I-Adapter, which this program does not use: bring the checkpoint that it steers": (
        "^body.", "^adapter.",
    ),
    "is a LoRA: name it among the loras, and bring a checkpoint as the model": (
        "^lora_", "^lycoris_", ".lora.", ".lora_", "_lora.", ".hada_", ".lokr_", ".oft_",
    ),
    "makes videos: bring a Stable Diffusion 1, 2 or XL, which make pictures": (
        "motion_modules.", ".time_stack.",
    ),
    f"is a Stable Diffusion 3: {_PLAIN_ONES}": ("joint_blocks.",),
    f"is a Flux or of its kin: {_PLAIN_ONES}": (
        "double_blocks.", "single_blocks.", "single_transformer_blocks.",
    ),
    (
        "has a noise schedule of EDM, which this program does not know (Playground 2.5 and CosXL "
        "have): bring a plain Stable Diffusion XL"
    ): ("^edm_mean", "^edm_std", "^edm_vpred."),
    (
        "is the refiner of Stable Diffusion XL, which does not make pictures of its own: bring the "
        "base model"
    ): ("^conditioner.embedders.0.model.",),
    "takes images for prompts: bring a checkpoint that takes text": (".visual.",),
    "holds the parts of diffusers in one file: bring them as a folder in diffusers' layout": (
        "^unet.", "^vae.", "^text_encoder.", "^text_encoder_2.",
    ),
}  # fmt: skip
_NOT_WHOLE = {
    (
        "is a UNet alone: bring a whole checkpoint, or put it as "
        "unet/diffusion_pytorch_model.safetensors into a folder in diffusers' layout"
    ): ("^conv_in.", "input_blocks."),
    "is a text encoder alone: bring a whole checkpoint": (
        "text_model.", "transformer.resblocks.", "embeddings.token_embedding.",
    ),
    "is a VAE alone: name it as the vae, and bring a checkpoint as the model": (
        "encoder.conv_in.", "encoder.layers.0.", "encoder.mid_block.",
        "decoder.conv_in.", "decoder.layers.0.", "decoder.mid_block.",
    ),
    _EMBEDDING: ("^emb_params", "^clip_l", "^clip_g"),
    f"is of another architecture: {_PLAIN_ONES}": (
        "^model.diffusion_model.", "transformer_blocks.",
    ),
}  # fmt: skip

_OTHER_INPUTS = {
    5: "a depth model",
    7: "an upscaler",
    8: "an InstructPix2Pix or of its kin",
    9: "an inpainting model",
}

_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def recognise(tensors: Mapping[str, TensorInfo]) -> Family:
    """The family of a whole checkpoint in one file. Raises `CheckpointError` for all others."""
    _refuse(_MISTAKES, tensors)
    if _FIRST_LAYER not in tensors:
        _refuse(_NOT_WHOLE, tensors)
        if len(tensors) == 1:  # under a name of its own, as diffusers' trainer writes it
            raise CheckpointError(_EMBEDDING)
        raise CheckpointError(
            f"holds no Stable Diffusion: has a tensor {shorten(min(tensors))}, and none called "
            f"{_FIRST_LAYER}"
        )
    _check_inputs(tensors[_FIRST_LAYER].shape)
    family = _find_family(tensors)
    if family.name != "xl" and f"{UNET}label_emb.0.0.weight" in tensors:
        raise CheckpointError("takes images for prompts (unCLIP): bring a checkpoint without")
    if not any(name.startswith(VAE) for name in tensors):
        raise CheckpointError("has no VAE (first_stage_model) in it: bring a checkpoint with one")
    _check_dtypes(tensors, (UNET, VAE, *family.text_encoders))
    return family


def find_prediction_type(names: Iterable[str], metadata: Mapping[str, str]) -> str | None:
    """What a file itself says that its network predicts; None if it does not say.

    It may stand in its metadata (as ModelSpec has it), or as a mark beside its tensors, as in
    merges of XL. Nothing else in a file tells: the weights of both kinds look alike.
    """
    said = metadata.get("modelspec.prediction_type")
    if said is None:
        return "v_prediction" if "v_pred" in names else None
    if said not in _PREDICTIONS:
        raise CheckpointError(
            f"has modelspec.prediction_type {shorten(said)} in its metadata: must be one of "
            f"{', '.join(_PREDICTIONS)}, or say yourself which prediction_type it is"
        )
    return _PREDICTIONS[said]


def is_rescaled(names: Iterable[str]) -> bool:
    """Whether a mark says that training ended at pure noise (zero terminal signal-to-noise)."""
    return "ztsnr" in names


def _refuse(mistakes: Mapping[str, tuple[str, ...]], names: Iterable[str]) -> None:
    joined = "".join(f"\n^{name}" for name in names)  # one text is searched fast, whatever it holds
    for line, marks in mistakes.items():
        if any(mark in joined for mark in marks):
            raise CheckpointError(line)


def _check_inputs(shape: tuple[int, ...]) -> None:
    """The network must be fed latents and nothing else."""
    channels = shape[1] if len(shape) > 1 else 0
    if channels != _LATENT_CHANNELS:
        kind = _OTHER_INPUTS.get(channels, "no text-to-image model")
        raise CheckpointError(
            f"is {kind} (its network takes {channels} channels, not {_LATENT_CHANNELS}): bring one "
            "that makes pictures from text alone"
        )


def _find_family(tensors: Mapping[str, TensorInfo]) -> Family:
    for family in FAMILIES:
        if all(any(name.startswith(p) for name in tensors) for p in family.text_encoders):
            return family
    raise CheckpointError(
        "has no text encoder of Stable Diffusion 1, 2 or XL in it: bring a whole checkpoint"
    )


def _check_dtypes(tensors: Mapping[str, TensorInfo], prefixes: tuple[str, ...]) -> None:
    """Weights that are read must be of a type that a model is made of."""
    for name, info in tensors.items():
        if name.startswith(prefixes) and not name.endswith("position_ids"):
            check_dtype(name, info)
