"""Single files: every weight arrives as it was, whatever is wrong is named, nothing is fetched."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.checkpoint import check_folder, checkpoint_hash, hash_file
from pipeline.errors import CheckpointError
from pipeline.families import LAYOUTS
from pipeline.headers import shorten
from pipeline.loaders import Parts, load_folder
from pipeline.single_file import check_file, load_single_file, load_single_vae
from tests.tiny import create_vae, write_tiny_checkpoint, write_tiny_xl
from tests.tiny_single import join_parts, name_vae, read_parts, write_single

FAMILIES = ("sd1", "sd2", "xl")
UNET = "model.diffusion_model."
VAE = "first_stage_model."
JUNK = {
    "alphas_cumprod": torch.ones(1000),
    "betas": torch.ones(1000),
    "model_ema.decay": torch.tensor(0.9999),
    "model_ema.num_updates": torch.tensor(470_000, dtype=torch.int32),
    "first_stage_model.loss.logvar": torch.tensor(0.0),
    "global_step": torch.tensor(470_000),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may so much as try to connect."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of each family in diffusers' layout."""
    folder = tmp_path_factory.mktemp("folders")
    return {
        "sd1": write_tiny_checkpoint(folder / "sd1"),
        "sd2": write_tiny_checkpoint(folder / "sd2", prediction_type="v_prediction"),
        "xl": write_tiny_xl(folder / "xl"),
    }


@pytest.fixture(scope="module")
def weights(folders: dict[str, Path]) -> dict[str, dict[str, Tensor]]:
    """The same under the names of single files."""
    return {family: join_parts(family, read_parts(folders[family])) for family in FAMILIES}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tiny.safetensors"


Load = Callable[..., Parts]


@pytest.fixture
def load(file: Path, folders: dict[str, Path]) -> Load:
    """Write tensors to the file and load it through the door."""

    def write_and_load(
        family: str, tensors: dict[str, Tensor], metadata: Any = None, **settings: Any
    ) -> Parts:
        write_single(file, tensors, metadata)
        dtype = settings.pop("dtype", torch.float32)
        settings = {"config": folders[family], **settings}
        return load_single_file(check_file(file, "tiny"), dtype, **settings)

    return write_and_load


def modules_of(parts: Parts) -> list[nn.Module]:
    return [parts.unet, parts.vae, *parts.text_encoders]


def assert_equal(found: nn.Module, wanted: nn.Module) -> None:
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert type(found) is type(wanted)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def refusal(load: Callable[..., object], *args: Any, **settings: Any) -> str:
    """The one line of a refusal."""
    with pytest.raises(CheckpointError) as caught:
        load(*args, **settings)
    line = str(caught.value)
    assert "\n" not in line
    assert "/tmp" not in line
    return line


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_the_folders(
    load: Load, folders: dict[str, Path], weights: dict[str, dict[str, Tensor]], family: str
) -> None:
    wanted = load_folder(check_folder(folders[family], "folder"), torch.float32)

    found = load(family, weights[family])

    for ours, theirs in zip(modules_of(found), modules_of(wanted), strict=True):
        assert_equal(ours, theirs)
        assert not ours.training
        assert not any(weight.requires_grad for weight in ours.parameters())
    assert found.is_xl is (family == "xl")
    assert found.scheduler_config == wanted.scheduler_config
    assert found.settings == wanted.settings
    for ours, theirs in zip(found.tokenizers, wanted.tokenizers, strict=True):
        assert ours.get_vocab() == theirs.get_vocab()
        assert (ours.pad_token_id, ours.model_max_length) == (theirs.pad_token_id, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_compute_what_the_folders_compute(
    load: Load, folders: dict[str, Path], weights: dict[str, dict[str, Tensor]], family: str
) -> None:
    """Weights are not all: attention, activations and buffers come from how it is made."""
    wanted = load_folder(check_folder(folders[family], "folder"), torch.float32)
    found = load(family, weights[family])
    ids = torch.arange(16)[None]

    for ours, theirs in zip(found.text_encoders, wanted.text_encoders, strict=True):
        read = [encoder(ids, output_hidden_states=True) for encoder in (ours, theirs)]
        assert torch.equal(read[0].hidden_states[-2], read[1].hidden_states[-2])
        assert torch.equal(read[0][0], read[1][0])
    pixels = torch.rand(1, 3, 32, 32)
    encoded = [vae.encode(pixels).latent_dist.mean for vae in (found.vae, wanted.vae)]
    assert torch.equal(*encoded)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_what_diffusers_makes_of_the_file(
    load: Load,
    file: Path,
    folders: dict[str, Path],
    weights: dict[str, dict[str, Tensor]],
    family: str,
) -> None:
    """Its converters and ours know nothing of one another."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    found = load(family, weights[family])
    pipe = (
        diffusers.StableDiffusionXLPipeline if family == "xl" else diffusers.StableDiffusionPipeline
    )
    settings = {} if family == "xl" else {"safety_checker": None}

    theirs = pipe.from_single_file(
        str(file), config=str(folders[family]), local_files_only=True, **settings
    )

    assert_equal(found.unet, theirs.unet)
    assert_equal(found.vae, theirs.vae)
    assert_equal(found.text_encoders[0], theirs.text_encoder)
    if family == "xl":  # the whole loader tells its two encoders by their width, the same here
        ours = found.text_encoders[1].state_dict()
        converted = convert_open_clip_checkpoint(
            found.text_encoders[1], load_file(file), "conditioner.embedders.1.model."
        )
        assert all(torch.equal(weight, converted[name]) for name, weight in ours.items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_brought_to_what_is_asked(
    load: Load, weights: dict[str, dict[str, Tensor]], kind: torch.dtype
) -> None:
    narrow = {name: tensor.to(kind) for name, tensor in weights["xl"].items()}

    found = load("xl", narrow).unet.state_dict()

    first = narrow[f"{UNET}input_blocks.0.0.weight"]
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert torch.equal(found["conv_in.weight"], first.float())


def test_half_precision_is_kept_where_it_is_asked(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    found = load("sd1", weights["sd1"], dtype=torch.float16)

    for module in modules_of(found):
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float16}


def test_averages_and_what_trainers_leave_behind_are_not_read(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    """Copies of the averaged weights lie under names of their own; a NaN in them hurts nobody."""
    plain = load("sd1", weights["sd1"])
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): torch.full_like(t, torch.nan)
        for name, t in weights["sd1"].items()
        if name.startswith(UNET)
    }
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"

    found = load("sd1", weights["sd1"] | averages | JUNK | {positions: torch.arange(16)[None]})

    for ours, theirs in zip(modules_of(found), modules_of(plain), strict=True):
        assert_equal(ours, theirs)


def test_a_layer_more_of_the_second_text_encoder_is_not_read(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    """Files of Stable Diffusion 2 bring the last layer, which it was trained without."""
    last = {
        name.replace("resblocks.1.", "resblocks.2."): tensor.clone()
        for name, tensor in weights["sd2"].items()
        if "resblocks.1." in name
    }

    found = load("sd2", weights["sd2"] | last)

    assert found.text_encoders[0].config.num_hidden_layers == 2


def test_older_names_and_shapes_are_understood(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    """Text encoders without their wrapper, attention that is named and shaped as today."""
    plain = load("sd1", weights["sd1"])
    older = {}
    for name, tensor in weights["sd1"].items():
        name = name.replace(".transformer.text_model.", ".transformer.")
        if ".mid.attn_1." in name:
            tensor = tensor.flatten(1) if tensor.ndim > 1 else tensor
            for letter in "qkv":
                name = name.replace(f".{letter}.", f".to_{letter}.")
        older[name] = tensor

    for ours, theirs in zip(modules_of(load("sd1", older)), modules_of(plain), strict=True):
        assert_equal(ours, theirs)


def a_tensor_of_each_part() -> list[tuple[str, str]]:
    clip = "conditioner.embedders.0.transformer.text_model.encoder.layers.0."
    open_clip = "conditioner.embedders.1.model."
    return [
        ("xl", f"{UNET}input_blocks.0.0.weight"),
        ("xl", f"{UNET}label_emb.0.2.bias"),
        ("xl", f"{UNET}out.2.weight"),
        ("sd1", f"{UNET}input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"),
        ("sd1", f"{VAE}decoder.mid.attn_1.q.weight"),
        ("sd1", f"{VAE}quant_conv.weight"),
        ("sd1", "cond_stage_model.transformer.text_model.final_layer_norm.bias"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.1.mlp.c_fc.weight"),
        ("sd2", "cond_stage_model.model.positional_embedding"),
        ("xl", f"{clip}self_attn.k_proj.weight"),
        ("xl", f"{open_clip}text_projection"),
        ("xl", f"{open_clip}transformer.resblocks.0.attn.in_proj_bias"),
    ]


@pytest.mark.parametrize(("family", "name"), a_tensor_of_each_part()[1::2])
def test_a_missing_tensor_is_named(
    load: Load, weights: dict[str, dict[str, Tensor]], family: str, name: str
) -> None:
    rest = {k: v for k, v in weights[family].items() if k != name}

    assert f"tiny: tensor {shorten(name)} is missing" in refusal(load, family, rest)


@pytest.mark.parametrize(("family", "name"), a_tensor_of_each_part())
def test_a_tensor_that_is_not_all_numbers_is_named(
    load: Load, weights: dict[str, dict[str, Tensor]], family: str, name: str
) -> None:
    broken = weights[family][name].clone()
    broken[(0,) * broken.ndim] = torch.nan if family == "sd1" else torch.inf

    line = refusal(load, family, weights[family] | {name: broken})

    assert f"tiny: tensor {shorten(name)} is NaN or infinite in 1 of its" in line


@pytest.mark.parametrize(("family", "name"), a_tensor_of_each_part()[::2])
def test_a_tensor_of_another_shape_is_named(
    load: Load, weights: dict[str, dict[str, Tensor]], family: str, name: str
) -> None:
    wrong = torch.cat([weights[family][name]] * 2)

    line = refusal(load, family, weights[family] | {name: wrong})

    assert f"tiny: tensor {shorten(name)} has shape {tuple(wrong.shape)}: must be (" in line


@pytest.mark.parametrize(
    "name",
    [f"{UNET}output_blocks.9.0.in_layers.0.weight", f"{VAE}encoder.down.5.block.0.conv1.bias"],
)
def test_a_layer_too_many_is_named(
    load: Load, weights: dict[str, dict[str, Tensor]], name: str
) -> None:
    """A network that is deeper than it is taken for would draw, but not what it was trained to."""
    line = refusal(load, "sd1", weights["sd1"] | {name: torch.ones(2)})

    assert f"tiny: tensor '{name}' is for a layer that the model does not have" in line


def test_a_weight_too_large_for_half_precision_is_named(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    name = f"{UNET}out.2.bias"
    large = weights["sd1"] | {name: torch.full_like(weights["sd1"][name], 1e6)}

    line = refusal(load, "sd1", large, dtype=torch.float16)

    assert f"tiny: tensor '{name}' is NaN or infinite" in line


def test_published_sizes_are_expected_without_configs(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    line = refusal(load, "sd1", weights["sd1"], config=None)

    assert "must be (" in line
    assert "a file of other sizes than usual needs a folder as config" in line


@pytest.mark.parametrize(
    ("family", "metadata", "marks", "chosen", "found"),
    [
        ("sd1", {}, (), None, "epsilon"),
        ("sd2", {}, (), None, "v_prediction"),
        ("sd2", {}, (), "epsilon", "epsilon"),
        ("sd2", {"modelspec.prediction_type": "epsilon"}, (), None, "epsilon"),
        ("sd2", {"modelspec.prediction_type": "epsilon"}, (), "v_prediction", "v_prediction"),
        ("sd2", {"modelspec.prediction_type": "unheard of"}, (), "epsilon", "epsilon"),
        ("xl", {}, (), None, "epsilon"),
        ("xl", {"modelspec.prediction_type": "v"}, (), None, "v_prediction"),
        ("xl", {}, ("v_pred",), None, "v_prediction"),
        ("xl", {}, ("v_pred", "ztsnr"), None, "v_prediction"),
        ("xl", {}, ("v_pred", "ztsnr"), "epsilon", "epsilon"),
    ],
)
def test_what_the_network_predicts(
    load: Load,
    weights: dict[str, dict[str, Tensor]],
    family: str,
    metadata: dict[str, str],
    marks: tuple[str, ...],
    chosen: str | None,
    found: str,
) -> None:
    """A choice goes before what the file says, and that before what is usual."""
    tensors = weights[family] | {mark: torch.zeros(0) for mark in marks}

    config = load(family, tensors, metadata, prediction_type=chosen).scheduler_config

    assert config["prediction_type"] == found
    assert config.get("rescale_betas_zero_snr", False) is ("ztsnr" in marks)


def test_a_file_that_says_what_nobody_knows_is_refused(
    load: Load, weights: dict[str, dict[str, Tensor]]
) -> None:
    said = {"modelspec.prediction_type": "unheard of"}

    line = refusal(load, "sd2", weights["sd2"], said)

    assert line.startswith("tiny: has modelspec.prediction_type 'unheard of'")


def test_configs_of_ones_own_lie_over_the_published(
    load: Load, folders: dict[str, Path], weights: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    """Such as Lightning's, which differs from XL in its scheduler alone."""
    folder = tmp_path / "lightning"
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        shutil.copytree(folders["xl"] / part, folder / part)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "greatcircle.json").write_text('{"num_inference_steps": 4}')
    published = LAYOUTS / "xl" / "model_index.json"

    found = load("xl", weights["xl"], config=folder)

    assert found.scheduler_config == scheduler
    assert found.defaults == {"num_inference_steps": 4}
    assert found.settings == json.loads(published.read_text())
    assert [len(tokenizer) for tokenizer in found.tokenizers] == [49408, 49408]


def set_value(part: str, key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    return change


def write_text(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


SHIPPED_CODE = '{"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"]}'


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (shutil.rmtree, "config mine: is no folder with configs in diffusers' layout"),
        (write_text("unet/config.json", "{"), "config mine/unet: config.json: is not valid JSON"),
        (write_text("vae/config.json", "[]"), "config mine/vae: config.json: is not a JSON object"),
        (write_text("model_index.json", SHIPPED_CODE), "unet is ['os', 'system']: must be of"),
        (set_value("unet", "norm_num_groups", 3), "config unet/config.json: no model can be made"),
        (set_value("unet", "block_out_channels", 8), "config unet/config.json: no model can be"),
        (set_value("unet", "block_out_channels", [-8, 16]), "config unet/config.json: no model"),
        (set_value("vae", "act_fn", "loud"), "config vae/config.json: no model can be made of it"),
        (set_value("text_encoder", "hidden_act", "loud"), "config text_encoder/config.json: no mo"),
        (set_value("unet", "layers_per_block", 2), "is missing"),
        (set_value("unet", "cross_attention_dim", 24), "has shape (16, 16): must be (16, 24)"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    load: Load,
    folders: dict[str, Path],
    weights: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    change: Callable[[Path], None],
    line: str,
) -> None:
    folder = shutil.copytree(folders["sd1"], tmp_path / "mine")
    change(folder)

    assert line in refusal(load, "sd1", weights["sd1"], config=folder)


def test_configs_of_another_family_are_refused(
    load: Load, folders: dict[str, Path], weights: dict[str, dict[str, Tensor]]
) -> None:
    line = refusal(load, "xl", weights["xl"], config=folders["sd1"])

    assert line == "config sd1: has not the parts of a Stable Diffusion XL"


@pytest.mark.parametrize(
    ("prediction_type", "sample_size"), [(None, 96), ("v_prediction", 96), ("epsilon", 64)]
)
def test_the_two_kinds_of_stable_diffusion_2_differ_in_size(
    monkeypatch: pytest.MonkeyPatch,
    weights: dict[str, dict[str, Tensor]],
    file: Path,
    prediction_type: str | None,
    sample_size: int,
) -> None:
    """Seen in the network that is made, since no file of the published size is at hand."""
    made = {}

    class Seen(Exception):
        pass

    def see(_: object, __: object, modules: dict[str, Any]) -> None:
        made.update(modules)
        raise Seen

    monkeypatch.setattr("pipeline.single_file._plan", see)
    checkpoint = check_file(write_single(file, weights["sd2"]), "tiny")

    with pytest.raises(Seen):
        load_single_file(checkpoint, torch.float32, prediction_type=prediction_type)

    assert made["unet"].config.sample_size == sample_size


@pytest.mark.parametrize(("family", "pads"), [("sd1", [49407]), ("sd2", [0]), ("xl", [49407, 0])])
def test_the_words_are_those_of_clip(
    load: Load,
    folders: dict[str, Path],
    weights: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    family: str,
    pads: list[int],
) -> None:
    """Ids as CLIP's own tokenizer gives them; the encoders of OpenCLIP were padded with zeros."""
    folder = shutil.copytree(folders[family], tmp_path / "mine")
    for part in folder.glob("tokenizer*"):
        shutil.rmtree(part)

    found = load(family, weights[family], config=folder).tokenizers

    assert [tokenizer.pad_token_id for tokenizer in found] == pads
    for tokenizer in found:
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert tokenizer("A Photo of a CAT").input_ids == tokenizer("a photo of a cat").input_ids
        assert tokenizer("jekyll’s 3 naïve 🍎").input_ids[-1] == 49407
        assert (tokenizer.model_max_length, len(tokenizer)) == (77, 49408)


def test_the_checkpoint_is_the_file(
    file: Path, folders: dict[str, Path], weights: dict[str, dict[str, Tensor]]
) -> None:
    checkpoint = check_file(write_single(file, weights["xl"]), "tiny")

    assert checkpoint.name == "tiny"
    assert checkpoint.files == (file,)
    assert checkpoint.components == check_folder(folders["xl"], "folder").components
    assert checkpoint_hash(checkpoint) == hash_file(file)


def write_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (lambda f: f.write_bytes(pickle.dumps({"a": 1})), "is a pickle under another name, never"),
        (lambda f: f.write_bytes(pickle.dumps({"a": 1}, 0)), "is not safetensors"),
        (write_zip, "is a pickle under another name, never opened"),
        (lambda f: f.write_bytes(b"\xff" * 99), "is not safetensors"),
        (lambda f: f.write_bytes(b""), "is not safetensors"),
        (lambda f: f.mkdir(), "cannot be read"),
        (lambda f: None, "cannot be read"),
    ],
)
def test_what_is_no_safetensors_file_is_never_opened(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    line: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an unpickler was opened")

    write(file)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    before = set(sys.modules)

    assert refusal(check_file, file, "tiny").startswith(f"tiny: {line}")
    assert refusal(load_single_vae, file, "tiny", torch.float32, create_vae()).startswith("tiny: ")
    assert set(sys.modules) == before


def test_a_mistake_is_named_at_the_door(file: Path) -> None:
    write_single(file, {"lora_unet_mid_block_x.lora_down.weight": torch.ones(2, 2)})

    assert refusal(check_file, file, "tiny").startswith("tiny: is a LoRA: name it among the loras")


@pytest.fixture(scope="module")
def vae_folder(folders: dict[str, Path]) -> Path:
    return folders["xl"] / "vae"


def as_ldm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return name_vae(weights)


def as_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {VAE + name: tensor for name, tensor in name_vae(weights).items()} | JUNK


def as_old_diffusers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in weights.items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        renamed[name] = tensor
    assert set(renamed) != set(weights)
    return renamed


@pytest.mark.parametrize("rename", [dict, as_ldm, as_part, as_old_diffusers])
def test_a_vae_alone_arrives_as_it_was(
    file: Path, vae_folder: Path, rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    """Its scale is that of the autoencoder whose place it takes: XL's here, unlike the usual."""
    wanted = load_file(vae_folder / "diffusion_pytorch_model.safetensors")
    like = create_vae(scaling_factor=0.13025, force_upcast=True)
    write_single(file, rename(wanted))

    found = load_single_vae(file, "tiny", torch.float32, like)

    assert type(found) is type(like)
    assert {
        name: torch.equal(t, wanted[name]) for name, t in found.state_dict().items()
    } == dict.fromkeys(wanted, True)
    assert found.config.scaling_factor == 0.13025
    assert not found.training
    assert not any(weight.requires_grad for weight in found.parameters())


def test_a_whole_checkpoint_lends_its_vae(
    file: Path, vae_folder: Path, weights: dict[str, dict[str, Tensor]]
) -> None:
    wanted = load_file(vae_folder / "diffusion_pytorch_model.safetensors")

    found = load_single_vae(write_single(file, weights["xl"]), "x", torch.float32, create_vae())

    assert torch.equal(
        found.state_dict()["decoder.conv_in.weight"], wanted["decoder.conv_in.weight"]
    )


def test_a_tiny_autoencoder_arrives_as_it_was(file: Path) -> None:
    from diffusers import AutoencoderTiny

    wanted = AutoencoderTiny()
    save_file(wanted.state_dict(), file)

    found = load_single_vae(file, "taesd", torch.float32, create_vae())

    assert_equal(found, wanted)
    assert found.config.scaling_factor == 1


def test_a_vae_for_a_model_whose_own_says_no_scale_is_refused(file: Path, vae_folder: Path) -> None:
    from diffusers import AutoencoderTiny

    wanted = load_file(vae_folder / "diffusion_pytorch_model.safetensors")
    write_single(file, wanted)

    line = refusal(load_single_vae, file, "mine", torch.float32, AutoencoderTiny())

    assert line.startswith("mine: does not say how its latents are scaled, and the model's")


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (drop("decoder.conv_out.bias"), "mine: tensor 'decoder.conv_out.bias' is missing"),
        (
            put("encoder.conv_in.weight", torch.full((8, 3, 3, 3), torch.nan)),
            "mine: tensor 'encoder.conv_in.weight' is NaN or infinite in 216 of its 216 places",
        ),
        (
            put("decoder.conv_in.weight", torch.ones(16, 16, 3, 3)),
            "mine: tensor 'decoder.conv_in.weight' has shape (16, 16, 3, 3): must be (16, 4, 3, 3)",
        ),
        (
            put("quant_conv.bias", torch.ones(8, dtype=torch.int32)),
            "mine: tensor 'quant_conv.bias' is I32: must be one of F16",
        ),
        (
            put("decoder.condition_encoder.layers.0.bias", torch.ones(2)),
            "mine: tensor 'decoder.condition_encoder.layers.0.bias' is for a layer that the model",
        ),
        (dict.clear, "mine: holds no AutoencoderKL, nor both sides of an AutoencoderTiny"),
    ],
)
def test_a_vae_that_is_not_whole_is_refused(
    file: Path, vae_folder: Path, change: Callable[[dict[str, Tensor]], object], line: str
) -> None:
    tensors = name_vae(load_file(vae_folder / "diffusion_pytorch_model.safetensors"))
    change(tensors)
    write_single(file, {"unrelated": torch.ones(1)} | tensors)

    assert refusal(load_single_vae, file, "mine", torch.float32, create_vae()).startswith(line)
