"""LoRAs and textual inversions: applied as diffusers applies them, or refused and nothing done.

Merged weights equal those that diffusers' own pipelines have after `load_lora_weights`,
`set_adapters` and `fuse_lora`: peft makes the same sums in the same order.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.adapters import apply_loras, load_embeddings
from pipeline.errors import CheckpointError, SpecError
from pipeline.lora import check_lora
from tests.tiny import WIDTH, load_reference
from tests.tiny_adapters import create_lora, layers_of, name_layer, write_tensors

WEIGHTS = (0.7, -0.3)


@pytest.fixture(scope="session")
def pipes(tiny_folder: Path, tiny_xl_folder: Path) -> dict[str, Any]:
    """diffusers' pipelines, never changed: tests work on copies."""
    return {
        "tiny": load_reference(tiny_folder),
        "tiny_xl": load_reference(tiny_xl_folder, "StableDiffusionXLPipeline"),
    }


@pytest.fixture(params=["tiny", "tiny_xl"])
def pipe(request: pytest.FixtureRequest, pipes: dict[str, Any]) -> Any:
    return copy.deepcopy(pipes[request.param])


NAMINGS = [
    *(("tiny", naming) for naming in ("kohya", "peft", "diffusers", "processors")),
    *(("tiny_xl", naming) for naming in ("kohya", "sgm", "peft", "diffusers", "processors")),
]


@pytest.fixture
def tiny(pipes: dict[str, Any]) -> Any:
    return copy.deepcopy(pipes["tiny"])


@pytest.fixture
def xl(pipes: dict[str, Any]) -> Any:
    return copy.deepcopy(pipes["tiny_xl"])


def encoders_of(pipe: Any) -> list[Any]:
    return [e for e in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if e is not None]


def tokenizers_of(pipe: Any) -> list[Any]:
    return [t for t in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)) if t is not None]


def weights_of(pipe: Any) -> dict[str, Tensor]:
    """Every weight of the parts that adapters change, as it is now."""
    roots = [pipe.unet, *encoders_of(pipe)]
    return {
        f"{i}.{name}": tensor.clone()
        for i, root in enumerate(roots)
        for name, tensor in root.state_dict().items()
    }


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def apply(pipe: Any, *loras: tuple[Path, float]) -> None:
    named = [(file, file.stem, weight) for file, weight in loras]
    apply_loras(pipe.unet, encoders_of(pipe), named)


def apply_by_diffusers(pipe: Any, *loras: tuple[Any, float], is_fused: bool = True) -> None:
    names = [f"adapter_{i}" for i in range(len(loras))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for name, (source, _) in zip(names, loras, strict=True):
            pipe.load_lora_weights(source, adapter_name=name)
    pipe.set_adapters(names, [weight for _, weight in loras])
    if is_fused:
        pipe.fuse_lora()
        pipe.unload_lora_weights()


def learn_all(pipe: Any, naming: str, seed: int, **settings: Any) -> dict[str, Tensor]:
    """A LoRA for every layer that `naming` has a name for."""
    tensors = create_lora(naming, pipe.unet, encoders_of(pipe), seed=seed, **settings)
    # diffusers knows these two by kohya's names for XL alone, not by its own; both are refused.
    return {name: t for name, t in tensors.items() if "unet_add_embedding" not in name}


@pytest.mark.parametrize(("pipe", "naming"), NAMINGS, indirect=["pipe"])
def test_two_loras_equal_diffusers(pipe: Any, naming: str, tmp_path: Path) -> None:
    # One alpha for all: diffusers loses those that differ.
    alpha = (lambda path: 1.5) if naming in {"kohya", "sgm"} else (lambda path: None)
    sources = [
        learn_all(pipe, naming, seed=seed, rank=lambda path, r=rank: r, alpha=alpha)
        for seed, rank in ((1, 2), (2, 4))
    ]
    files = [write_tensors(tmp_path / f"{i}.safetensors", t) for i, t in enumerate(sources)]
    reference, before = copy.deepcopy(pipe), weights_of(pipe)

    apply(pipe, *zip(files, WEIGHTS, strict=True))
    apply_by_diffusers(reference, *zip(sources, WEIGHTS, strict=True))

    after = weights_of(pipe)
    assert_equal(after, weights_of(reference))
    layers = sum(map(len, map(layers_of, [pipe.unet, *encoders_of(pipe)])))
    changed = sum(not torch.equal(after[name], before[name]) for name in after)
    assert changed == len(check_lora(files[0], "style").pairs)
    assert naming == "processors" or changed >= layers - 2


def test_alphas_and_ranks_are_those_of_each_layer(pipe: Any, tmp_path: Path) -> None:
    """Convolutions are often trained with a rank and alpha of their own."""

    def rank(path: str) -> int:
        return 1 + len(path) % 3

    def alpha(path: str) -> float | None:
        return [0.5, 1, 4.0, None][len(path) % 4]

    source = learn_all(pipe, "kohya", seed=1, rank=rank, alpha=alpha)
    file = write_tensors(tmp_path / "style.safetensors", source)
    before = weights_of(pipe)

    apply(pipe, (file, 0.7))

    encoders = encoders_of(pipe)
    used = 0
    for i, root in enumerate([pipe.unet, *encoders]):
        for path, layer in layers_of(root).items():
            name = name_layer("kohya", i, path, pipe.unet, len(encoders))
            if f"{name}.lora_up.weight" not in source:
                continue
            up = source[f"{name}.lora_up.weight"].double().flatten(1)
            down = source[f"{name}.lora_down.weight"].double().flatten(1)
            scale = source.get(f"{name}.alpha", torch.tensor(len(down))).double() / len(down)
            expected = before[f"{i}.{path}.weight"].double()
            expected = expected + (0.7 * scale * up @ down).view_as(expected)
            # Numbers near 1 in float32, a handful of roundings each.
            assert torch.allclose(layer.weight.double(), expected, rtol=0, atol=1e-6), path
            used += 2
    assert used == sum(name.endswith("weight") for name in source)


@pytest.mark.parametrize("rooted", [False, True])
def test_the_scale_that_diffusers_notes_in_a_file_counts(
    tiny: Any, tmp_path: Path, rooted: bool
) -> None:
    source = create_lora("peft", tiny.unet, [tiny.text_encoder], rank=lambda path: 2)
    parts = {
        part: {k.removeprefix(f"{part}."): t for k, t in source.items() if k.startswith(part)}
        for part in ("unet", "text_encoder")
    }
    notes = [
        {"r": 2, "lora_alpha": 5, "use_rslora": rooted, "target_modules": list(layers_of(root))}
        for root in (tiny.unet, tiny.text_encoder)
    ]
    tiny.save_lora_weights(
        tmp_path,
        unet_lora_layers=parts["unet"],
        text_encoder_lora_layers=parts["text_encoder"],
        unet_lora_adapter_metadata=notes[0] | {"alpha_pattern": {"attn2.to_k": 3}},
        text_encoder_lora_adapter_metadata=notes[1],
        weight_name="noted.safetensors",
    )
    file = tmp_path / "noted.safetensors"
    plain, reference = copy.deepcopy(tiny), copy.deepcopy(tiny)

    apply(tiny, (file, 0.7))
    apply_by_diffusers(reference, (str(file), 0.7))

    assert_equal(weights_of(tiny), weights_of(reference))
    apply(plain, (write_tensors(tmp_path / "plain.safetensors", load_file(file)), 0.7))
    ours, others = weights_of(tiny), weights_of(plain)
    assert any(not torch.equal(ours[name], others[name]) for name in ours)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_of_another_type_is_taken_to_the_models(
    tiny: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    source = {name: tensor.to(dtype) for name, tensor in learn_all(tiny, "peft", seed=1).items()}
    reference = copy.deepcopy(tiny)

    apply(tiny, (write_tensors(tmp_path / "style.safetensors", source), 0.7))
    apply_by_diffusers(reference, ({name: t.float() for name, t in source.items()}, 0.7))

    assert_equal(weights_of(tiny), weights_of(reference))


def test_merged_is_as_good_as_beside(pipe: Any, tmp_path: Path) -> None:
    """Beside the weights a LoRA takes its own way through each layer and a step costs more.

    Two of rank 32 for all layers of Stable Diffusion 1.5 took 28 % more time a step on a CPU.
    """
    sources = [learn_all(pipe, "peft", seed=seed) for seed in (1, 2)]
    files = [write_tensors(tmp_path / f"{i}.safetensors", t) for i, t in enumerate(sources)]
    beside, before = copy.deepcopy(pipe), copy.deepcopy(pipe)

    apply(pipe, *zip(files, WEIGHTS, strict=True))
    apply_by_diffusers(beside, *zip(sources, WEIGHTS, strict=True), is_fused=False)

    merged, apart, none = (predict(each) for each in (pipe, beside, before))
    assert (merged - none).abs().max() > 0.05
    # (W + BA)x against Wx + B(Ax): float32 rounds differently, 1e-6 were seen.
    assert torch.allclose(merged, apart, rtol=0, atol=1e-5)


def predict(pipe: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    side, width = pipe.unet.config.sample_size, pipe.unet.config.cross_attention_dim
    latents = torch.randn(1, 4, side, side, generator=generator)
    embeds = torch.randn(1, 16, width, generator=generator)
    added = {"text_embeds": torch.ones(1, WIDTH), "time_ids": torch.ones(1, 6)}
    with torch.no_grad():
        prediction: Tensor = pipe.unet(latents, 10, embeds, added_cond_kwargs=added).sample
    return prediction


def test_nothing_of_peft_stays_behind(pipe: Any, tmp_path: Path) -> None:
    file = write_tensors(tmp_path / "style.safetensors", learn_all(pipe, "kohya", seed=1))
    roots = [root.requires_grad_(False) for root in [pipe.unet, *encoders_of(pipe)]]
    before = [describe(root) for root in roots]
    torch.manual_seed(5)
    drawn = torch.get_rng_state()

    apply(pipe, (file, 1.0))

    assert [describe(root) for root in roots] == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(p.requires_grad for root in roots for p in root.parameters())


def describe(root: nn.Module) -> tuple[Any, ...]:
    modules = [(name, type(m), m.training, sorted(vars(m))) for name, m in root.named_modules()]
    return modules, [name for name, _ in root.named_parameters()]


def test_no_weight_is_no_change(pipe: Any, tmp_path: Path) -> None:
    file = write_tensors(tmp_path / "style.safetensors", learn_all(pipe, "kohya", seed=1))
    before = weights_of(pipe)

    apply(pipe, (file, 0.0))

    assert_equal(weights_of(pipe), before)


def test_what_is_taken_away_again_is_gone(pipe: Any, tmp_path: Path) -> None:
    file = write_tensors(tmp_path / "style.safetensors", learn_all(pipe, "kohya", seed=1))
    before = weights_of(pipe)

    apply(pipe, (file, 0.8), (file, -0.8))

    after = weights_of(pipe)
    # (a + b) - b in float32, with a and b below 1.
    assert all(torch.allclose(after[n], before[n], rtol=0, atol=1e-6) for n in before)


@pytest.mark.parametrize("only", ["q_proj", "conv_in"])
@pytest.mark.parametrize("naming", ["kohya", "peft"])
def test_a_lora_may_be_for_few_layers(pipe: Any, naming: str, only: str, tmp_path: Path) -> None:
    """diffusers does not know the names of text encoders by some layers alone."""
    source = learn_all(pipe, naming, seed=1, only=only)
    before = weights_of(pipe)

    apply(pipe, (write_tensors(tmp_path / "style.safetensors", source), 1.0))

    after = weights_of(pipe)
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert len(changed) == len(source) // 2
    assert all(only in name for name in changed)


def test_a_text_encoder_alone_is_no_pair_of_them(xl: Any, tiny: Any, tmp_path: Path) -> None:
    second = learn_all(xl, "kohya", seed=1, only="fc1")
    second = {name: t for name, t in second.items() if "te2" in name}
    file = write_tensors(tmp_path / "style.safetensors", second)
    before = weights_of(tiny)

    with pytest.raises(CheckpointError, match=r"style: tensor 'lora_te2_.* this model does not ha"):
        apply(tiny, (file, 1.0))

    assert_equal(weights_of(tiny), before)


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def swapped(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def spoilt(tensors: dict[str, Tensor], end: str, value: float) -> dict[str, Tensor]:
    tensors = {name: t.clone() for name, t in tensors.items()}
    next(t for name, t in tensors.items() if name.endswith(end)).view(-1)[0] = value
    return tensors


REFUSED: dict[str, tuple[Any, str]] = {
    "a layer too many": (
        lambda lora: lora | swapped(lora, "mid_block.attentions.0", "mid_block.attentions.7"),
        "tensor 'unet.mid_block.attentions.7.*is for a layer that this model does not have",
    ),
    "no layer": (
        lambda lora: swapped(lora, LAYER, "mid_block.resnets.0.norm1"), "norm1.*does not have",
    ),
    "a number that is none": (
        lambda lora: spoilt(lora, "lora_B.weight", math.nan),
        r"tensor 'unet.*to_q.lora_B.weight' is NaN or infinite in 1 of its",
    ),
    "infinity": (lambda lora: spoilt(lora, "lora_A.weight", math.inf), "lora_A.weight' is NaN or"),
    "too long": (
        lambda lora: {n: t[:-1] if "lora_B" in n else t for n, t in lora.items()},
        r"lora_B.weight' has shape \(15, 3\): must be \(16, 3\)",
    ),
    "too wide": (
        lambda lora: {n: t[:, :-1] if "lora_A" in n else t for n, t in lora.items()},
        r"lora_A.weight' has shape \(3, 15\): must be \(3, 16\)",
    ),
    "for a convolution": (
        lambda lora: {n: t[..., None, None] for n, t in lora.items()},
        r"has shape \(3, 16, 1, 1\): must be \(3, 16\)",
    ),
    "one layer twice": (
        lambda lora: lora | swapped(lora, "attn1.to_q", "attn1.processor.to_q"),
        "are for the same layer",
    ),
    "beyond all numbers": (
        lambda lora: {
            **{name: torch.zeros_like(t) for name, t in lora.items()},
            f"unet.{LAYER}.alpha": torch.tensor(1.7e308, dtype=torch.float64),
        },
        "could reach nan, which is beyond the model's float32",
    ),
    "beyond float32": (
        lambda lora: {name: torch.full_like(t, 1e25) for name, t in lora.items()},
        r"style: 'unet.mid.*to_q' could reach 6e\+50, which is beyond the model's float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(tiny: Any, case: str, tmp_path: Path) -> None:
    change, reason = REFUSED[case]
    sound = create_lora("peft", tiny.unet, [tiny.text_encoder])
    bad = change(create_lora("peft", tiny.unet, only=LAYER))
    first = write_tensors(tmp_path / "first.safetensors", sound)
    second = write_tensors(tmp_path / "style.safetensors", bad)
    before, shape = weights_of(tiny), describe(tiny.unet)

    with pytest.raises(CheckpointError, match=reason) as caught:
        apply(tiny, (first, 1.0), (second, 2.0))

    assert str(caught.value).startswith("style: ")
    assert "\n" not in str(caught.value)
    assert_equal(weights_of(tiny), before)
    assert describe(tiny.unet) == shape


def test_the_weight_counts_towards_the_range(tiny: Any, tmp_path: Path) -> None:
    source = create_lora("peft", tiny.unet, only=LAYER)
    file = write_tensors(tmp_path / "style.safetensors", source)
    tiny.unet.half()

    with pytest.raises(CheckpointError, match="beyond the model's float16"):
        apply(tiny, (file, 1e7))
    with pytest.raises(SpecError, match=r"style: weight = nan: must be a number"):
        apply(tiny, (file, math.nan))
    apply(tiny, (file, 10.0))
    assert all(tensor.isfinite().all() for tensor in weights_of(tiny).values())


@pytest.mark.parametrize("naming", ["kohya", "sgm", "peft"])
def test_another_family_is_named_by_its_width(
    tiny: Any, xl: Any, naming: str, tmp_path: Path
) -> None:
    source = create_lora(naming, xl.unet, encoders_of(xl))
    file = write_tensors(tmp_path / "style.safetensors", source)
    before = weights_of(tiny)

    reason = r"style: is for a model \(prompts 32 wide\), this model is a model \(prompts 16 wide\)"
    with pytest.raises(CheckpointError, match=reason):
        apply(tiny, (file, 1.0))

    assert_equal(weights_of(tiny), before)


def test_known_widths_are_named(tiny: Any, tmp_path: Path) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    source = {
        f"{layer}.lora_A.weight": torch.ones(2, 2048),
        f"{layer}.lora_B.weight": torch.ones(16, 2),
    }
    with pytest.raises(CheckpointError, match=r"is for Stable Diffusion XL \(prompts 2048 wide\)"):
        apply(tiny, (write_tensors(tmp_path / "style.safetensors", source), 1.0))


PROMPT = "a red {} apple, on a table"


def vectors(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def embed(
    pipe: Any, *embeddings: tuple[Path, str], tokenizers: Sequence[Any] | None = None
) -> dict[str, str]:
    named = [(file, file.stem, token) for file, token in embeddings]
    return load_embeddings(tokenizers or tokenizers_of(pipe), encoders_of(pipe), named)


def encode(tokenizer: Any, encoder: Any, prompt: str) -> Any:
    ids = tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids, output_hidden_states=True)


FORMS: dict[str, Any] = {
    "diffusers, one vector": {"<cat>": vectors(1)[0]},
    "diffusers, one row": {"<cat>": vectors(1)},
    "diffusers, three vectors": {"<cat>": vectors(3)},
    "another name": {"<dog>": vectors(2)},
    "A1111": {"emb_params": vectors(2)},
    "half": {"emb_params": vectors(2).half()},
}


@pytest.mark.parametrize("form", FORMS)
def test_an_inversion_equals_diffusers(tiny: Any, form: str, tmp_path: Path) -> None:
    reference = copy.deepcopy(tiny)
    ((_, tensor),) = FORMS[form].items()

    readings = embed(tiny, (write_tensors(tmp_path / "cat.safetensors", FORMS[form]), "<cat>"))
    reference.load_textual_inversion(tensor, token="<cat>")

    prompt = PROMPT.format("<cat>")
    read = PROMPT.format(readings["<cat>"])
    assert read == reference.maybe_convert_prompt(prompt, reference.tokenizer)
    assert tiny.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    assert_equal(weights_of(tiny), weights_of(reference))
    ours = encode(tiny.tokenizer, tiny.text_encoder, read)
    theirs = encode(reference.tokenizer, reference.text_encoder, read)
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    assert tiny.text_encoder.config.vocab_size == reference.text_encoder.config.vocab_size


def write_xl_inversion(file: Path, count: int = 2) -> Path:
    return write_tensors(file, {"clip_l": vectors(count, 1), "clip_g": vectors(count, 2)})


def test_two_inversions_for_xl_equal_diffusers(xl: Any, tmp_path: Path) -> None:
    reference = copy.deepcopy(xl)
    files = [write_xl_inversion(tmp_path / f"{i}.safetensors", i + 1) for i in range(2)]
    tokens = ["<cat>", "<dog>"]

    readings = embed(xl, *zip(files, tokens, strict=True))
    for file, token in zip(files, tokens, strict=True):
        for key, part in (("clip_l", ""), ("clip_g", "_2")):
            reference.load_textual_inversion(
                load_file(file)[key],
                token=token,
                text_encoder=getattr(reference, f"text_encoder{part}"),
                tokenizer=getattr(reference, f"tokenizer{part}"),
            )

    assert readings == {"<cat>": "<cat>", "<dog>": "<dog> <dog>_1"}
    assert_equal(weights_of(xl), weights_of(reference))
    read = PROMPT.format(f"{readings['<cat>']} {readings['<dog>']}")
    for ours, theirs in zip(encoders_of(xl), encoders_of(reference), strict=True):
        for tokenizer in tokenizers_of(xl):
            found, expected = encode(tokenizer, ours, read), encode(tokenizer, theirs, read)
            assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
            assert torch.equal(found[0], expected[0])


def test_the_pooled_vector_stays_that_of_the_end(xl: Any, tmp_path: Path) -> None:
    """XL's configs name a wrong end, by which transformers takes the highest id for it.

    diffusers pools at the new word then. Without new words both are the same.
    """
    tokenizer, encoder = xl.tokenizer_2, xl.text_encoder_2
    right = copy.deepcopy(encoder)
    encoder.text_model.eos_token_id = 2
    plain = encode(tokenizer, encoder, PROMPT)

    embed(xl, (write_xl_inversion(tmp_path / "cat.safetensors"), "<cat>"))
    right.set_input_embeddings(encoder.get_input_embeddings())

    assert torch.equal(encode(tokenizer, encoder, PROMPT).text_embeds, plain.text_embeds)
    prompt = PROMPT.format("<cat>")
    pooled = encode(tokenizer, encoder, prompt).text_embeds
    assert torch.equal(pooled, encode(tokenizer, right, prompt).text_embeds)
    encoder.text_model.eos_token_id = 2
    assert not torch.equal(pooled, encode(tokenizer, encoder, prompt).text_embeds)


def test_other_words_are_read_as_before(tiny: Any, tmp_path: Path) -> None:
    """Of a token like a word nothing is found inside other words, which diffusers does."""
    before = copy.deepcopy(tiny)
    file = write_tensors(tmp_path / "cat.safetensors", {"emb_params": vectors(2)})

    readings = embed(tiny, (file, "MyCat"))

    for prompt in ("", "a red apple", "mycats", "amycat", "my-cat", "mycat_12"):
        ours = encode(tiny.tokenizer, tiny.text_encoder, prompt)
        theirs = encode(before.tokenizer, before.text_encoder, prompt)
        assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    known = len(before.tokenizer)
    for reading in (readings["MyCat"], readings["MyCat"].lower(), "(mycat mycat_1)"):
        ids = tiny.tokenizer(reading, add_special_tokens=False).input_ids
        assert [i for i in ids if i >= known] == [known, known + 1]


def test_rows_behind_the_vocabulary_stay(tiny: Any, tmp_path: Path) -> None:
    """Some checkpoints have more rows than words."""
    encoder, known = tiny.text_encoder, len(tiny.tokenizer)
    with torch.no_grad():
        encoder.resize_token_embeddings(known + 5)
    before = encoder.get_input_embeddings().weight.clone()

    embed(tiny, (write_tensors(tmp_path / "cat.safetensors", {"x": vectors(2)}), "<cat>"))

    after = encoder.get_input_embeddings().weight
    assert torch.equal(after[known : known + 2], vectors(2))
    assert torch.equal(after[:known], before[:known])
    assert torch.equal(after[known + 2 :], before[known + 2 :])


def test_words_without_rows_are_refused(tiny: Any, tmp_path: Path) -> None:
    tiny.tokenizer.add_tokens(["<lost>"])
    known = len(tiny.tokenizer)
    file = write_tensors(tmp_path / "cat.safetensors", {"x": vectors(2)})
    with pytest.raises(CheckpointError, match=f"knows {known} words, its encoder {known - 1}"):
        embed(tiny, (file, "<cat>"))
    assert len(tiny.tokenizer) == known


def test_no_inversion_is_no_change(pipe: Any) -> None:
    before, known = weights_of(pipe), len(pipe.tokenizer)

    assert embed(pipe) == {}

    assert_equal(weights_of(pipe), before)
    assert len(pipe.tokenizer) == known


BAD_FILES: dict[str, tuple[dict[str, Tensor], str]] = {
    "too wide": ({"emb_params": torch.ones(2, 24)}, "'emb_params' is 24 wide, .* are 16 wide"),
    "one too wide": ({"<cat>": torch.ones(24)}, "'<cat>' is 24 wide, this model's words are 16"),
    "none": ({"emb_params": torch.ones(0, 16)}, r"has shape \(0, 16\): must be of vectors"),
    "a number": ({"emb_params": torch.tensor(1.0)}, r"has shape \(\): must be of vectors"),
    "a block": ({"emb_params": torch.ones(2, 2, 16)}, r"has shape \(2, 2, 16\): must be of vec"),
    "NaN": ({"emb_params": torch.full((2, 16), math.nan)}, "'emb_params' is NaN or infinite in 32"),
    "integers": ({"emb_params": torch.ones(2, 16, dtype=torch.int32)}, "is I32: must be one of"),
    "XL's": (
        {"clip_l": vectors(1), "clip_g": vectors(1)}, "hold one tensor, holds 'clip_g', 'clip_l'",
    ),
    "a LoRA": (
        {f"lora_unet_x.lora_{side}.weight": torch.ones(1, 1) for side in "abcd"}, "'.*, …$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_inversion_changes_nothing(tiny: Any, case: str, tmp_path: Path) -> None:
    tensors, reason = BAD_FILES[case]
    good = write_tensors(tmp_path / "good.safetensors", {"x": vectors(2)})
    bad = write_tensors(tmp_path / "cat.safetensors", tensors)
    before, known = weights_of(tiny), tiny.tokenizer.get_vocab()

    with pytest.raises(CheckpointError, match=f"^cat: .*{reason}") as caught:
        embed(tiny, (good, "<good>"), (bad, "<cat>"))

    assert "\n" not in str(caught.value)
    assert_equal(weights_of(tiny), before)
    assert tiny.tokenizer.get_vocab() == known


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"emb_params": vectors(1)}, "must hold clip_l and clip_g, holds 'emb_params'"),
        ({"clip_l": vectors(1), "t5": vectors(1)}, "must hold clip_l and clip_g, holds"),
        ({"clip_l": vectors(1), "clip_g": vectors(2)}, "has 1 in clip_l and 2 in clip_g: must"),
        ({"clip_l": vectors(1), "clip_g": torch.ones(1, 24)}, "'clip_g' is 24 wide"),
    ],
)
def test_xl_needs_both_of_its_vectors(
    xl: Any, tensors: dict[str, Tensor], reason: str, tmp_path: Path
) -> None:
    before, known = weights_of(xl), len(xl.tokenizer_2)

    with pytest.raises(CheckpointError, match=f"^cat: .*{reason}"):
        embed(xl, (write_tensors(tmp_path / "cat.safetensors", tensors), "<cat>"))

    assert_equal(weights_of(xl), before)
    assert len(xl.tokenizer_2) == known


@pytest.mark.parametrize("ending", ["pt", "bin", "safetensors"])
def test_a_pickled_inversion_is_never_opened(tiny: Any, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"cat.{ending}"
    torch.save({"string_to_param": {"*": vectors(1)}}, file)
    with pytest.raises(CheckpointError, match=r"^cat: .*pickle"):
        embed(tiny, (file, "<cat>"))


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (["apple"], r"token = 'apple': is a word already: choose another, such as '<my-apple>'"),
        (["Apple"], "token = 'Apple': is a word already"),
        (["apple</w>"], "is a word already"),
        (["<|endoftext|>"], "is a word already"),
        (["<cat>", "<cat>"], "token = '<cat>': is a word already"),
        (["<cat>", "<CAT>"], "token = '<CAT>': is a word already"),
        (["<cat>", "<cat>_1"], "token = '<cat>_1': is a word already"),
        (["<cat>_1", "<cat>"], "token = '<cat>_1': is a word already"),
        ([""], "token = '': must be one word, without brackets"),
        (["my cat"], "token = 'my cat': must be one word"),
        (["my\ncat"], r"token = 'my\\ncat': must be one word"),
        (["(cat:1.2)"], "must be one word, without brackets"),
        (["cat\\"], "must be one word, without brackets and backslashes"),
    ],
)
def test_a_token_must_be_a_new_word(
    tiny: Any, tokens: list[str], reason: str, tmp_path: Path
) -> None:
    file = write_tensors(tmp_path / "cat.safetensors", {"x": vectors(2)})
    before, known = weights_of(tiny), tiny.tokenizer.get_vocab()

    with pytest.raises(SpecError, match=reason) as caught:
        embed(tiny, *((file, token) for token in tokens))

    assert "\n" not in str(caught.value)
    assert_equal(weights_of(tiny), before)
    assert tiny.tokenizer.get_vocab() == known
