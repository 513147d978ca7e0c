"""LoRAs and textual inversions made part of a model.

Knows plain modules and tokenizers; knows no spec, no source and no prompt. A LoRA is merged into
the weights it was trained for and leaves nothing else behind, so that a step costs what it cost
before. Whatever is refused is refused before anything has changed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import check_finite
from pipeline.errors import CheckpointError, SpecError
from pipeline.headers import TensorInfo, check_dtype, naming, shorten
from pipeline.lora import KOHYA, PARTS, Lora, Pair, check_lora, read_safe_header

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_FAMILIES = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "the refiner of Stable Diffusion XL",
    2048: "Stable Diffusion XL",
}
_XL_VECTORS = ("clip_l", "clip_g")

Layer = nn.Linear | nn.Conv2d
Layers = Mapping[str, Mapping[str, Layer]]
"""What a LoRA can be for, by part of the model and path in it."""


@dataclass(frozen=True)
class _Patch:
    """What is added to one weight: `up @ down * alpha / rank`, or by the root of the rank."""

    part: str
    path: str
    name: str
    down: Tensor
    up: Tensor
    alpha: float
    is_rooted: bool

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def reach(self) -> float:
        """No number on the way to the sum is larger."""
        scale = self.alpha / (math.sqrt(self.rank) if self.is_rooted else self.rank)
        return self.rank * _peak(self.down) * _peak(self.up) * max(1.0, abs(scale))


def apply_loras(
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    loras: Sequence[tuple[Path, str, float]],
) -> None:
    """Merge `loras` (file, label, weight) into the modules, in their order, by peft.

    Afterwards the modules are the plain ones they were, with other weights. Raises CheckpointError
    for a file, SpecError for a weight, before anything has changed.
    """
    for _, label, weight in loras:
        if not math.isfinite(weight):
            raise SpecError(f"{label}: weight = {weight}: must be a number")
    roots = dict(zip(PARTS, [unet, *text_encoders], strict=False))
    layers = {
        part: {path: m for path, m in root.named_modules() if isinstance(m, Layer)}
        for part, root in roots.items()
    }
    planned = [(label, _plan(file, label, weight, layers, unet)) for file, label, weight in loras]
    _check_reach(planned, layers)
    for _, patches in planned:
        for part, root in roots.items():
            _merge(root, [patch for patch in patches if patch.part == part])


def load_embeddings(
    tokenizers: Sequence[CLIPTokenizer],
    text_encoders: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
    embeddings: Sequence[tuple[Path, str, str]],
) -> dict[str, str]:
    """Teach `embeddings` (file, label, token) to the encoders; what each token is to be read as.

    A token of several vectors is read as several words: "token token_1 token_2". Raises SpecError
    for a token that cannot be one, CheckpointError for a file, before anything has changed.
    """
    learned: dict[str, tuple[Tensor, ...]] = {}
    readings: dict[str, str] = {}
    for file, label, token in embeddings:
        vectors = _read_vectors(file, label, text_encoders)
        words = [token, *(f"{token}_{i}" for i in range(1, len(vectors[0])))]
        for word in words:
            _check_word(word, tokenizers, learned)
        learned |= zip(words, zip(*vectors, strict=True), strict=True)
        readings[token] = " ".join(words)
    pairs = list(zip(tokenizers, text_encoders, strict=True))
    for tokenizer, encoder in pairs:
        if len(tokenizer) > (rows := encoder.get_input_embeddings().num_embeddings):
            raise CheckpointError(f"tokenizer: knows {len(tokenizer)} words, its encoder {rows}")
    for i, (tokenizer, encoder) in enumerate(pairs):
        _learn(tokenizer, encoder, {word: vectors[i] for word, vectors in learned.items()})
    return readings


def _plan(file: Path, label: str, weight: float, layers: Layers, unet: Any) -> list[_Patch]:
    """What the LoRA in `file` adds to which weights, in their dtype."""
    from safetensors.torch import load_file

    lora = check_lora(file, label)
    with naming(label):
        _check_width(lora, layers["unet"])
        places = _find_places(lora, layers, unet.config)
    tensors = load_file(file)
    for (part, path), (_, pair) in places.items():
        for name in (pair.down, pair.up):
            tensors[name] = tensors[name].to(layers[part][path].weight.dtype)
    check_finite(label, tensors)
    patches = []
    for (part, path), (name, pair) in places.items():
        down, up = tensors[pair.down], tensors[pair.up]
        alpha, is_rooted = lora.find_alpha(name, len(down))
        if pair.alpha is not None:
            alpha, is_rooted = float(tensors[pair.alpha]), False
        patches.append(_Patch(part, path, name, down, up, weight * alpha, is_rooted))
    return patches


def _check_width(lora: Lora, layers: Mapping[str, Layer]) -> None:
    """The prompts that a LoRA was trained with must be as wide as the model's."""
    wanted = {
        layer.in_features
        for path, layer in layers.items()
        if path.endswith("attn2.to_k") and isinstance(layer, nn.Linear)
    }
    for name, pair in lora.pairs.items():
        width = lora.tensors[pair.down].shape[1]
        if re.search(r"attn2[._](processor\.)?to_k$", name) and width not in wanted:
            raise CheckpointError(
                f"is for {_name_family(width)}, this model is {_name_family(*wanted)}"
            )


def _name_family(*widths: int) -> str:
    width = max(widths, default=0)
    return f"{_FAMILIES.get(width, 'a model')} (prompts {width} wide)"


def _find_places(
    lora: Lora, layers: Layers, unet_config: Any
) -> dict[tuple[str, str], tuple[str, Pair]]:
    """Part and path of the layer that each pair is for, which must be there and as large."""
    places: dict[tuple[str, str], tuple[str, Pair]] = {}
    for name, pair in lora.pairs.items():
        part, _, path = _translate(name, unet_config).partition(".")
        found = next((p for p in _spellings(path) if p in layers.get(part, {})), None)
        if found is None:
            raise CheckpointError(
                f"tensor {shorten(pair.down)} is for a layer that this model does not have"
            )
        if twin := places.get((part, found)):
            raise CheckpointError(f"{shorten(twin[0])} and {shorten(name)} are for the same layer")
        _check_size(lora, pair, layers[part][found].weight.shape)
        places[part, found] = name, pair
    return places


def _translate(name: str, unet_config: Any) -> str:
    """A layer's name as diffusers gives it: a part of the model, a dot and the path in it."""
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    if not name.startswith(KOHYA):
        return name
    # It renames what it is given and looks at no tensor, so the name itself can stand for them.
    pair = {f"{name}.lora_{side}.weight": name for side in ("down", "up")}
    try:
        renamed, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(pair, unet_config=unet_config)
    except (LookupError, TypeError, ValueError):
        return name
    return re.split(r"[._]lora", next(iter(renamed)))[0]


def _spellings(path: str) -> Iterator[str]:
    """A layer's path as it stands, and as diffusers' older files mean it."""
    path = path.replace(".processor.", ".")
    for spelling in (path, re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path)):
        yield spelling
        yield spelling.removeprefix("text_model.")
    yield re.sub(r"\.to_out$", ".to_out.0", path)


def _check_size(lora: Lora, pair: Pair, shape: Sequence[int]) -> None:
    """The matrices must be as long and wide as the weight they are for."""
    rank = lora.tensors[pair.down].shape[0]
    wanted = {
        pair.down: (rank, *shape[1:]),
        pair.up: (shape[0], rank, *(1 for _ in shape[2:])),
    }
    for name, size in wanted.items():
        if (found := lora.tensors[name].shape) != size:
            raise CheckpointError(f"tensor {shorten(name)} has shape {found}: must be {size}")


def _check_reach(planned: Sequence[tuple[str, Sequence[_Patch]]], layers: Layers) -> None:
    """No sum may leave the range of its dtype; all LoRAs for a weight count together."""
    reached: dict[tuple[str, str], float] = {}
    for label, patches in planned:
        for patch in patches:
            weight = layers[patch.part][patch.path].weight
            place = patch.part, patch.path
            reached[place] = reached.get(place, _peak(weight)) + patch.reach
            limit = torch.finfo(weight.dtype).max
            if not reached[place] <= limit:  # nor may it be NaN
                raise CheckpointError(
                    f"{label}: {shorten(patch.name)} could reach {reached[place]:.3g}, which is "
                    f"beyond the model's {str(weight.dtype).removeprefix('torch.')}"
                )


def _peak(tensor: Tensor) -> float:
    return max(abs(float(end)) for end in tensor.detach().aminmax())


@torch.no_grad()
def _merge(root: nn.Module, patches: Sequence[_Patch]) -> None:
    """Add `patches` to the weights of `root`, those of one rank and alpha in one go."""
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    def scaling(patch: _Patch) -> tuple[int, float, bool]:
        return patch.rank, patch.alpha, patch.is_rooted

    for (rank, alpha, is_rooted), group in groupby(sorted(patches, key=scaling), scaling):
        matrices, paths = {}, []
        for patch in group:
            matrices[f"{patch.path}.lora_A.weight"] = patch.down
            matrices[f"{patch.path}.lora_B.weight"] = patch.up
            paths.append(patch.path)
        settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "use_rslora": is_rooted}
        config = LoraConfig(target_modules=paths, **settings)
        tuner = LoraModel(root, config, "lora", low_cpu_mem_usage=True, state_dict=matrices)
        report: Any = set_peft_model_state_dict(root, matrices, "lora", low_cpu_mem_usage=True)
        assert not report.unexpected_keys
        tuner.merge_and_unload()


def _read_vectors(file: Path, label: str, encoders: Sequence[Any]) -> list[Tensor]:
    """The vectors of a textual inversion for each encoder, (vectors, width)."""
    from safetensors.torch import load_file

    header = read_safe_header(file, label)
    embeddings = [encoder.get_input_embeddings() for encoder in encoders]
    with naming(label):
        names = list(header) if len(encoders) == 1 else list(_XL_VECTORS)
        if len(header) != len(encoders) or set(header) != set(names):
            found = ", ".join(map(shorten, sorted(header)[:3])) + (", …" if len(header) > 3 else "")
            wanted = "clip_l and clip_g" if len(encoders) > 1 else "one tensor"
            raise CheckpointError(
                f"is no textual inversion for this model: must hold {wanted}, holds {found}"
            )
        for name, embedding in zip(names, embeddings, strict=True):
            _check_vectors(name, header[name], embedding.embedding_dim)
    tensors = load_file(file)
    for name, embedding in zip(names, embeddings, strict=True):
        vectors = tensors[name].reshape(-1, embedding.embedding_dim)
        tensors[name] = vectors.to(embedding.weight.dtype)
    check_finite(label, tensors)
    if len({len(tensors[name]) for name in names}) > 1:
        counts = " and ".join(f"{len(tensors[name])} in {name}" for name in names)
        raise CheckpointError(f"{label}: has {counts}: must have as many vectors in both")
    return [tensors[name] for name in names]


def _check_vectors(name: str, info: TensorInfo, width: int) -> None:
    """They must be as wide as the words of the encoder."""
    check_dtype(name, info)
    if len(info.shape) not in (1, 2) or not all(info.shape):
        raise CheckpointError(f"tensor {shorten(name)} has shape {info.shape}: must be of vectors")
    if info.shape[-1] != width:
        raise CheckpointError(
            f"tensor {shorten(name)} is {info.shape[-1]} wide, this model's words are {width} wide"
        )


def _check_word(word: str, tokenizers: Iterable[CLIPTokenizer], learned: Iterable[str]) -> None:
    """It must be one word that prompts can hold and that no encoder knows."""
    if not word.isprintable() or not word.strip() or set("()[]\\ ") & set(word):
        raise SpecError(
            f"token = {shorten(word)}: must be one word, without brackets and backslashes"
        )
    if word.lower() in map(str.lower, learned) or any(
        len(tokenizer.tokenize(word)) == 1
        or tokenizer.convert_tokens_to_ids(word) != tokenizer.unk_token_id
        for tokenizer in tokenizers
    ):
        raise SpecError(
            f"token = {shorten(word)}: is a word already: choose another, such as "
            f"{shorten(f'<my-{word}>')}"
        )


def _learn(tokenizer: CLIPTokenizer, encoder: Any, learned: Mapping[str, Tensor]) -> None:
    """Add words, one vector each, behind those that the encoder knows."""
    from transformers import AddedToken

    if not learned:
        return
    embedding, start = encoder.get_input_embeddings(), len(tokenizer)
    # What begins or ends like a word is not found within others; <this> is found anywhere.
    tokenizer.add_tokens(
        [AddedToken(w, single_word=w[0].isalnum() or w[-1].isalnum()) for w in learned]
    )
    vectors = torch.stack(list(learned.values())).to(embedding.weight.device)
    behind = embedding.weight[start + len(learned) :]
    rows = torch.cat([embedding.weight[:start], vectors, behind]).detach()
    embedding.weight = nn.Parameter(rows, requires_grad=False)
    embedding.num_embeddings = encoder.config.vocab_size = len(rows)
    for module in encoder.modules():
        # Configs of old say 2, by which the pooled vector is that of the highest id. It was the
        # end's; now it would be that of the new word.
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id
