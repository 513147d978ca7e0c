"""Of a repository's files those are chosen that a model is loaded from, and no pickle ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CheckpointError
from pipeline.repository import PICKLES, choose_files

WORDS = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
SD_1 = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in WORDS),
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
XL = [
    *SD_1,
    *(f"tokenizer_2/{name}" for name in WORDS),
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
]
CLUTTER = [
    ".gitattributes", "README.md", "LICENSE.md", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors",
    "sd_xl_base_1.0.safetensors", "sd_xl_offset_lora.safetensors", "comparison.png", "config.yaml",
    "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_flax_model.msgpack",
    "unet/model.onnx", "unet/model.onnx_data", "unet/openvino_model.bin", "unet/openvino_model.xml",
    "unet/custom.py", "text_encoder/flax_model.msgpack", "text_encoder/pytorch_model.bin",
    "tokenizer/tokenizer.py", "vae_1_0/config.json", "vae_1_0/diffusion_pytorch_model.safetensors",
    "vae_decoder/model.onnx", "safety_checker/config.json", "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json", "image_encoder/model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("names", [SD_1, XL])
def test_what_lies_around_a_checkpoint_is_left(names: list[str]) -> None:
    chosen = choose_files([*CLUTTER, *names])

    assert sorted(chosen) == sorted(names)
    assert chosen[-1] == "model_index.json", "it marks what is whole, and comes last"


def test_a_published_set_of_defaults_comes_along() -> None:
    assert "greatcircle.json" in choose_files([*SD_1, "greatcircle.json"])


def test_of_each_part_one_precision_is_chosen() -> None:
    names = [*SD_1, "unet/diffusion_pytorch_model.fp16.safetensors"]

    assert set(names) - set(choose_files(names)) == {
        "unet/diffusion_pytorch_model.fp16.safetensors"
    }
    assert set(names) - set(choose_files(names, prefer_half=True)) == {
        "unet/diffusion_pytorch_model.safetensors"
    }


@pytest.mark.parametrize("prefer_half", [True, False])
def test_the_one_precision_that_there_is_suffices(prefer_half: bool) -> None:
    names = [name.replace(".safetensors", ".fp16.safetensors") for name in SD_1]

    assert sorted(choose_files(names, prefer_half=prefer_half)) == sorted(names)


@pytest.mark.parametrize("dotted", ["", ".fp16"])
def test_shards_come_with_their_index_or_not_at_all(dotted: str) -> None:
    stem = "unet/diffusion_pytorch_model"
    shards = [f"{stem}{dotted}-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = f"{stem}.safetensors.index{dotted}.json"
    rest = [name for name in SD_1 if name != f"{stem}.safetensors"]

    assert set(choose_files([*rest, *shards, index])) == {*rest, *shards, index}
    for lost in (*shards, index):
        left = [name for name in [*shards, index] if name != lost]
        with pytest.raises(CheckpointError, match="unet: has no safetensors weights"):
            choose_files([*rest, *left])


def test_the_safety_checker_comes_when_asked_for() -> None:
    more = set(choose_files([*CLUTTER, *SD_1], safety_checker=True)) - set(SD_1)

    assert more == {
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "feature_extractor/preprocessor_config.json",
    }
    with pytest.raises(CheckpointError, match="has no safety_checker"):
        choose_files(SD_1, safety_checker=True)


@pytest.mark.parametrize("lost", [name for name in XL[1:] if "tokenizer" not in name])
def test_a_file_that_is_lacking_is_named(lost: str) -> None:
    names = [name for name in XL if name != lost]
    part = lost.split("/")[0]

    with pytest.raises(CheckpointError, match=rf"^{part}: has no|^has no {part}$"):
        choose_files(names, parts=["scheduler"])


def test_a_part_that_must_be_there_and_is_not_is_named() -> None:
    with pytest.raises(CheckpointError, match="has no text_encoder_2"):
        choose_files(SD_1, parts=["text_encoder_2"])
    with pytest.raises(CheckpointError, match=r"^has no text_encoder$"):
        choose_files([name for name in SD_1 if "text_encoder" not in name])
    with pytest.raises(CheckpointError, match=r"^tokenizer: has no tokenizer.json, nor"):
        choose_files([name for name in SD_1 if name != "tokenizer/merges.txt"])


@pytest.mark.parametrize("suffix", sorted(PICKLES))
def test_a_part_that_is_only_a_pickle_is_refused(suffix: str) -> None:
    names = [name for name in SD_1 if name != "vae/diffusion_pytorch_model.safetensors"]

    with pytest.raises(CheckpointError, match=f"vae/weights{suffix}: is a pickle.* convert it"):
        choose_files([*names, f"vae/weights{suffix}"])


def test_a_component_is_chosen_from_the_top() -> None:
    names = [
        "README.md", "config.json", "diffusion_pytorch_model.bin", "taesd_encoder.safetensors",
        "diffusion_pytorch_model.safetensors", "taesd_decoder.safetensors",
    ]  # fmt: skip

    assert choose_files(names) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_one_safetensors_file_alone_is_chosen() -> None:
    assert choose_files(["README.md", "lora.safetensors", "lora.bin"]) == ["lora.safetensors"]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["a.safetensors", "b.safetensors"], "no model_index.json but 2 safetensors files, a.safe"),
        (["model.ckpt"], "model.ckpt: is a pickle"),
        (["config.json", "pytorch_model.bin"], "pytorch_model.bin: is a pickle"),
        (["README.md"], "holds no model"),
        (["deep/model.safetensors"], "holds no model"),
        ([], "holds no model"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(names: list[str], line: str) -> None:
    with pytest.raises(CheckpointError, match=line):
        choose_files(names)


@given(st.sets(st.sampled_from([*CLUTTER, *XL])), st.booleans(), st.booleans())
def test_whatever_is_chosen_is_there_and_no_pickle(
    names: set[str], prefer_half: bool, safety_checker: bool
) -> None:
    try:
        chosen = choose_files(names, prefer_half=prefer_half, safety_checker=safety_checker)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    assert chosen
    assert set(chosen) <= names
    assert len(set(chosen)) == len(chosen)
    assert all(name.endswith((".json", ".txt", ".safetensors")) for name in chosen)
