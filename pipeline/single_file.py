"""A single safetensors file to the parts of a model: every weight found, whole, finite, frozen.

Knows the files that people share of Stable Diffusion 1, 2 and XL, and autoencoders alone. Knows no
devices and no prompts. What is missing or of another shape is found in the header, by the file's
own names, before a tensor is read, and nothing is read that is not needed. That is why names are
translated here: diffusers' converters read first, and leave what they miss as it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.allowed import Pair, check_config, check_index
from pipeline.checkpoint import Checkpoint, check_finite
from pipeline.errors import CheckpointError
from pipeline.families import (
    LAYOUTS,
    UNET,
    VAE,
    Family,
    find_prediction_type,
    is_rescaled,
    recognise,
)
from pipeline.headers import TensorInfo, check_dtype, naming, read_header, shorten
from pipeline.loaders import DEFAULTS_FILE, UNFIT, Parts, fitting, load_tokenizer, read_json
from pipeline.spelling import (
    Place,
    Spelling,
    spell_clip,
    spell_open_clip,
    spell_plainly,
    spell_unet,
    spell_vae,
)

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
_UNET_CONFIG = "unet/config.json"
_SIDES = ("encoder.", "decoder.")
_KL, _TINY = "AutoencoderKL", "AutoencoderTiny"

Plan = dict[str, Place]
"""Where each weight of a module stands in a file."""


def check_file(file: Path, name: str) -> Checkpoint:
    """The checkpoint in a safetensors `file`, seen from its header alone; errors call it `name`.

    Raises `CheckpointError` for whatever is not a whole Stable Diffusion 1, 2 or XL.
    """
    tensors = read_header(file, name)
    with naming(name):
        family = recognise(tensors)
    components = check_index(read_json(family.layout / _INDEX)).components
    return Checkpoint(file.parent, name, components, (file,))


def load_single_file(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    config: Path | None = None,
    prediction_type: str | None = None,
) -> Parts:
    """The parts in a checkpoint of one file, on the CPU. Raises `CheckpointError`.

    `config` is a folder in diffusers' layout with what differs from the published configs: all of
    them, or the scheduler's alone. What the network predicts is the first of these that is known:
    `prediction_type`, what the file says of itself, what the scheduler's config says. Published
    for Stable Diffusion 2 is "v_prediction".
    """
    (path,) = checkpoint.files
    file = _File(path, checkpoint.name, "a file of other sizes than usual needs a folder as config")
    with naming(checkpoint.name):
        family = recognise(file.tensors)
        if prediction_type is None:
            prediction_type = find_prediction_type(file.tensors, file.read_metadata())
    configs = _Configs(family, config)
    settings = configs.read_index()
    scheduler_config = configs.read(_SCHEDULER)
    if prediction_type is not None:
        scheduler_config["prediction_type"] = prediction_type
    if is_rescaled(file.tensors):
        scheduler_config["rescale_betas_zero_snr"] = True

    modules = _create_modules(configs, prediction_type)
    plans = _plan(file, family, modules)
    for part, module in modules.items():
        file.fill(module, plans[part], dtype)
    encoders = [part for part in modules if part.startswith("text_encoder")]
    return Parts(
        unet=modules["unet"],
        vae=modules["vae"],
        tokenizers=tuple(configs.load_tokenizer(part, modules[part]) for part in encoders),
        text_encoders=tuple(modules[part] for part in encoders),
        scheduler_config=scheduler_config,
        settings=settings,
        defaults=configs.read(DEFAULTS_FILE) if configs.brings(DEFAULTS_FILE) else {},
    )


def load_file_vae(
    checkpoint: Checkpoint, dtype: torch.dtype, *, config: Path | None = None
) -> nn.Module:
    """The autoencoder in a checkpoint of one file; nothing else of it is read.

    `config` is as in `load_single_file`. Raises `CheckpointError`.
    """
    (path,) = checkpoint.files
    with naming(checkpoint.name):
        family = recognise(read_header(path, checkpoint.name))
    configs = _Configs(family, config)
    pair = check_index(configs.read_index()).components["vae"]
    with fitting(f"{checkpoint.name}: vae"):
        own = _create(pair, configs.read("vae/config.json"))
    return load_single_vae(path, checkpoint.name, dtype, like=own)


def load_single_vae(path: Path, label: str, dtype: torch.dtype, like: Any) -> nn.Module:
    """The autoencoder in a safetensors file, alone or in a whole checkpoint; errors say `label`.

    It takes the place of the autoencoder `like`, whose config it is given: no file says how latents
    are scaled, and the network was trained with one scale. AutoencoderTiny, which has the same for
    all families, is taken in diffusers' layout. Raises `CheckpointError`.
    """
    file = _File(path, label, "another kind of VAE can be brought as a folder with its config")
    with naming(label):
        kind, prefix, spelling = _find_autoencoder(file.tensors, like)
    module = _create(("diffusers", kind), like.config if kind == _KL else {})
    plan = file.plan(module, spelling)
    file.check_rest([plan], tuple(prefix + side for side in _SIDES))
    return file.fill(module, plan, dtype)


@dataclass(frozen=True)
class _Configs:
    """The published configs of a family, under those that lie in a folder someone brings."""

    family: Family
    folder: Path | None

    def read_index(self) -> dict[str, Any]:
        """The pipeline's settings; its parts must be those of the family."""
        settings = self.read(_INDEX)
        if self.folder is not None:
            published = check_index(read_json(self.family.layout / _INDEX))
            with naming(f"config {self.folder.name}"):
                if not any(self.folder.glob("*/*.json")):
                    raise CheckpointError("is no folder with configs in diffusers' layout")
                if set(check_index(settings).components) != set(published.components):
                    raise CheckpointError(f"has not the parts of a {self.family.title}")
        return settings

    def brings(self, relative: str) -> bool:
        """Whether that config is not the published one."""
        return self.folder is not None and (self.folder / relative).is_file()

    def read(self, relative: str) -> dict[str, Any]:
        """The values in a config."""
        if self.folder is None or not self.brings(relative):
            return read_json(self.family.layout / relative)
        with naming(f"config {self.folder.name / Path(relative).parent}"):
            values = read_json(self.folder / relative)
            check_config(values)
        return values

    def load_tokenizer(self, encoder: str, module: Any) -> CLIPTokenizer:
        """The tokenizer of a text encoder; its words are CLIP's unless the folder has others."""
        from transformers import CLIPTokenizer

        part = encoder.replace("text_encoder", "tokenizer")
        words = (f"{part}/tokenizer.json", f"{part}/vocab.json")
        if self.folder is not None and any(map(self.brings, words)):
            return load_tokenizer(self.folder / part, f"config {self.folder.name}", module)
        settings = read_json(self.family.layout / part / "tokenizer_config.json")
        return CLIPTokenizer.from_pretrained(LAYOUTS / "words", local_files_only=True, **settings)


class _File:
    """A safetensors file whose header is sound, how it is called, and what helps if it is odd."""

    def __init__(self, path: Path, label: str, advice: str) -> None:
        self.path = path
        self.label = label
        self.advice = advice
        self.tensors: Mapping[str, TensorInfo] = read_header(path, label)

    def read_metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as opened:
            return opened.metadata() or {}

    def plan(self, module: nn.Module, spelling: Spelling) -> Plan:
        """Where each weight of `module` stands in the file, all of it seen from the header."""
        return {
            name: self._find(spelling(name), tuple(weight.shape))
            for name, weight in module.state_dict().items()
        }

    def check_rest(self, plans: Iterable[Plan], prefixes: tuple[str, ...]) -> None:
        """No tensor whose name begins with one of `prefixes` may be left over."""
        used = {place.name for plan in plans for place in plan.values()}
        for name in self.tensors:
            if name.startswith(prefixes) and name not in used:
                raise self._refuse(name, "is for a layer that the model does not have")

    def fill(self, module: nn.Module, plan: Plan, dtype: torch.dtype) -> nn.Module:
        """`module` with the weights that are planned for it, finite, not to be changed any more."""
        from safetensors import safe_open

        weights = {}
        with safe_open(self.path, framework="pt") as opened:
            for name, empty in module.state_dict().items():
                tensor = opened.get_tensor(plan[name].name)
                # Contiguous, as all others are: products of turned ones differ in the last bits.
                weights[name] = plan[name].cut(tensor).reshape(empty.shape).to(dtype).contiguous()
        for name, weight in weights.items():
            check_finite(self.label, {plan[name].name: weight})
        module.load_state_dict(weights, assign=True)
        return module.eval().requires_grad_(False)

    def _find(self, places: tuple[Place, ...], shape: tuple[int, ...]) -> Place:
        place = next((place for place in places if place.name in self.tensors), None)
        if place is None:
            raise self._refuse(places[0].name, "is missing")
        found, wanted = self.tensors[place.name], place.outer_shape(shape)
        if _bare(found.shape) != _bare(wanted):
            raise self._refuse(place.name, f"has shape {found.shape}: must be {wanted}")
        with naming(self.label):
            check_dtype(place.name, found)
        return place

    def _refuse(self, name: str, fault: str) -> CheckpointError:
        return CheckpointError(f"{self.label}: tensor {shorten(name)} {fault}; {self.advice}")


def _create_modules(configs: _Configs, prediction_type: str | None) -> dict[str, nn.Module]:
    """The parts that have weights, by name, still without them."""
    modules = {}
    for part, pair in check_index(configs.read_index()).components.items():
        if not part.startswith(("unet", "vae", "text_encoder")):
            continue
        file = f"{part}/config.json"
        values = configs.read(file)
        if (configs.family.name, part, prediction_type) == ("sd2", "unet", "epsilon"):
            # The two that were published differ in this, too: 512 pixels a side, not 768.
            values = values if configs.brings(file) else {**values, "sample_size": 64}
        try:
            modules[part] = _create(pair, values)
        except UNFIT as error:
            reason = shorten(str(error))
            raise CheckpointError(f"config {file}: no model can be made of it: {reason}") from error
    return modules


def _create(pair: Pair, values: Mapping[str, Any]) -> nn.Module:
    """A module as its config says, its weights on no device."""
    import diffusers
    from accelerate import init_empty_weights
    from transformers.models.clip import modeling_clip

    library, name = pair
    kind: Any = getattr(diffusers if library == "diffusers" else modeling_clip, name)
    with init_empty_weights(include_buffers=False):
        if library == "diffusers":
            module: nn.Module = kind.from_config(dict(values))
        else:
            module = kind(kind.config_class.from_dict(dict(values)))
    return module


def _plan(file: _File, family: Family, modules: Mapping[str, Any]) -> dict[str, Plan]:
    """Where each weight of each part stands; no layer of the network is left over."""
    unet, vae = modules["unet"].config, modules["vae"].config
    layers, blocks = unet.layers_per_block, len(unet.block_out_channels)
    spellings = {
        "unet": spell_unet(UNET, [layers] * blocks if isinstance(layers, int) else layers),
        "vae": spell_vae(VAE, len(vae.block_out_channels)),
    }
    for part, prefix in zip(("text_encoder", "text_encoder_2"), family.text_encoders, strict=False):
        spell = spell_open_clip if prefix.endswith(".model.") else spell_clip
        spellings[part] = spell(prefix)
    plans = {part: file.plan(module, spellings[part]) for part, module in modules.items()}
    file.check_rest(plans.values(), (UNET, *(VAE + side for side in _SIDES)))
    return plans


def _find_autoencoder(tensors: Mapping[str, TensorInfo], like: Any) -> tuple[str, str, Spelling]:
    """The class of an autoencoder, what its names begin with, and how they are spelt."""
    if all(f"{side}layers.0.weight" in tensors for side in _SIDES):
        return _TINY, "", spell_plainly
    prefix = VAE if any(name.startswith(VAE) for name in tensors) else ""
    is_original = f"{prefix}decoder.mid.block_1.norm1.weight" in tensors
    if not is_original and "decoder.mid_block.resnets.0.norm1.weight" not in tensors:
        raise CheckpointError(
            f"holds no {_KL}, nor both sides of an {_TINY} as diffusers names them: bring a VAE"
        )
    if type(like).__name__ != _KL:
        raise CheckpointError(
            f"does not say how its latents are scaled, and the model's {type(like).__name__} is of "
            "another kind: bring it as a folder with its config.json"
        )
    levels = len(like.config.block_out_channels)
    return _KL, prefix, spell_vae(prefix, levels) if is_original else spell_plainly


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end: a layer and a convolution of one pixel are the same."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
