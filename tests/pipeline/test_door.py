"""The door as a whole: what is hostile or absurd is refused in one line, whichever way it comes.

Single files and headers, specs and pictures have their own tests; here they come in by the front.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import socket
import sys
import tarfile
import time
import tomllib
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import headers
from pipeline.containers import png_text
from pipeline.errors import GreatcircleError, SpecError
from pipeline.headers import MAX_HEADER_BYTES, read_header
from pipeline.model import Model, load_model
from pipeline.pictures import read_record, save_png
from pipeline.spec import EmbeddingSpec, LoraSpec, ModelSpec, StillSpec
from pipeline.values import MAX_SPEC_BYTES, load_spec
from scripts import generate
from tests.tiny_adapters import create_lora, write_tensors
from tests.tiny_single import join_parts, read_parts, write_single
from ui.endpoint import make_endpoint
from ui.generate import FIELDS, spec_of
from ui.models import ModelField

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
TEXT_2 = "text_encoder_2/model.safetensors"


def refusal(make: Callable[[], object]) -> str:
    """The one line that `make` is refused with."""
    with pytest.raises(GreatcircleError) as caught:
        make()
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


def door(**values: Any) -> Callable[[], Model]:
    """Loading, with these values in the spec."""
    values = {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
    return lambda: load_model(ModelSpec(device="cpu", **values))


def change_json(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values | changes))


# T1: pickles


class Trap:
    """Whoever unpickles this leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("trapped").touch, ()


def as_zip() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": Trap()}, stream)
    return stream.getvalue()


def as_old() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": Trap()}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def as_tar() -> bytes:
    stream, data = io.BytesIO(), pickle.dumps(Trap())
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def as_plain_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    return stream.getvalue()


def with_header(data: bytes, held: int) -> bytes:
    """`data` behind a safetensors header that says that a tensor has `held` bytes of it."""
    entry = {"dtype": "U8", "shape": [held], "data_offsets": [0, held]}
    header = json.dumps({"a": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


CONVERT, PLAIN = "convert it elsewhere", "is not safetensors"

PICKLES: dict[str, tuple[str, str, Callable[[], bytes], str]] = {
    "ckpt": ("source", "m.ckpt", as_zip, CONVERT),
    "pt": ("source", "m.pt", as_zip, CONVERT),
    "pth": ("source", "m.pth", as_zip, CONVERT),
    "bin": ("source", "m.bin", as_zip, CONVERT),
    "pkl": ("source", "m.pkl", lambda: pickle.dumps(Trap()), CONVERT),
    "pickle": ("source", "m.pickle", lambda: pickle.dumps(Trap()), CONVERT),
    "capitals": ("source", "M.CKPT", as_zip, CONVERT),
    "of old torch": ("source", "m.ckpt", as_old, CONVERT),
    "renamed": ("source", "m.safetensors", as_zip, CONVERT),
    "of old torch, renamed": ("source", "m.safetensors", as_old, CONVERT),
    "plain, renamed": ("source", "m.safetensors", lambda: pickle.dumps(Trap()), CONVERT),
    "in text, renamed": ("source", "m.safetensors", lambda: pickle.dumps(Trap(), 0), PLAIN),
    "in a zip, renamed": ("source", "m.safetensors", as_plain_zip, CONVERT),
    "in a tar, renamed": ("source", "m.safetensors", as_tar, PLAIN),
    "behind a header": (
        "source", "m.safetensors", lambda: with_header(as_zip(), 0), "its header says 0",
    ),
    "as a tensor": (
        "source", "m.safetensors", lambda: with_header(z := as_zip(), len(z)),
        "bring a checkpoint as the model",
    ),
    "a vae": ("vae", "v.pt", as_zip, CONVERT),
    "a vae, renamed": ("vae", "v.safetensors", as_zip, CONVERT),
    "a LoRA": ("lora", "l.pt", as_zip, CONVERT),
    "a LoRA, renamed": ("lora", "l.safetensors", as_zip, CONVERT),
    "a LoRA, as a tensor": (
        "lora", "l.safetensors", lambda: with_header(z := as_zip(), len(z)), "is not a LoRA",
    ),
    "words": ("words", "w.bin", as_zip, CONVERT),
    "words, renamed": ("words", "w.safetensors", as_old, CONVERT),
    "a config": ("config", "c.ckpt", as_zip, CONVERT),
}  # fmt: skip


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to be in, where opening any unpickler is a failure."""

    def forbid(*_: object, **__: object) -> None:
        pytest.fail("an unpickler was opened")

    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, forbid)
    monkeypatch.setattr(torch, "load", forbid)
    for name in ("load", "_load", "_legacy_load"):
        monkeypatch.setattr(torch.serialization, name, forbid)
    return folder


@pytest.fixture(scope="session")
def tiny_file(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a single file."""
    file = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    return write_single(file, join_parts("sd1", read_parts(tiny_folder)))


@pytest.mark.parametrize("form", PICKLES)
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
def test_a_pickle_is_refused_unopened(
    sealed: Path, tiny_folder: Path, tiny_file: Path, form: str, linked: bool
) -> None:
    part, name, make, reason = PICKLES[form]
    file = sealed / name
    if linked:
        (sealed / "elsewhere").write_bytes(make())
        file.symlink_to("elsewhere")
    else:
        file.write_bytes(make())

    match part:
        case "source":
            spec: dict[str, Any] = {"source": file}
        case "lora":
            spec = {"source": tiny_folder, "loras": (LoraSpec(source=name),)}
        case "words":
            spec = {"source": tiny_folder, "embeddings": (EmbeddingSpec(source=name, token="<a>"),)}
        case "config":
            spec = {"source": tiny_file, "config": file}
        case _:
            spec = {"source": tiny_folder, part: file}
    line = refusal(door(**spec))

    assert reason in line
    assert str(sealed) not in line.replace(repr(str(file)), "")  # but for what was typed
    assert not (sealed / "trapped").exists()


def only_bin(folder: Path) -> None:
    (folder / UNET).with_suffix(".bin").write_bytes(as_zip())


def sharded_bin(folder: Path) -> None:
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for shard in shards:
        (folder / "unet" / shard).write_bytes(as_zip())
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    change_json(folder / "unet/diffusion_pytorch_model.bin.index.json", **index)


def safetensors_index_of_bins(folder: Path) -> None:
    sharded_bin(folder)
    index = folder / "unet/diffusion_pytorch_model.bin.index.json"
    index.rename(folder / "unet/diffusion_pytorch_model.safetensors.index.json")


def renamed_part(folder: Path) -> None:
    (folder / UNET).write_bytes(as_zip())


def link_to_bin(folder: Path) -> None:
    only_bin(folder)
    (folder / UNET).symlink_to("diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (only_bin, CONVERT),
        (sharded_bin, CONVERT),
        (safetensors_index_of_bins, "is not a safetensors file beside it"),
        (renamed_part, CONVERT),
        (link_to_bin, CONVERT),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_with_pickles_is_refused_unopened(
    sealed: Path, tiny_folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = sealed / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / UNET).unlink()
    spoil(folder)

    assert reason in refusal(door(source=folder))
    assert not (sealed / "trapped").exists()


def test_a_folder_of_one_pickle_says_how_to_convert_it(sealed: Path) -> None:
    (sealed / "m.ckpt").write_bytes(as_zip())
    assert CONVERT in refusal(door(source=sealed))


# T2: code in configs

EVIL = "from pathlib import Path\nPath('ran').touch()\n"
"""A module beside the configs; it is not to be imported."""


def index(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "model_index.json", **changes)


def config(part: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / part, **changes)


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "nobody/evil", "r": 1}
ADAPTER |= {"target_modules": ["q_proj"], "auto_mapping": {"parent_library": "evil"}}
CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]

CODE: dict[str, Callable[[Path], None]] = {
    "os.system": index(unet=["os", "system"]),
    "builtins.eval": index(scheduler=["builtins", "eval"]),
    "a module beside it": index(unet=["evil", "UNet2DConditionModel"]),
    "a module by its path": index(vae=["./evil.py", "AutoencoderKL"]),
    "an unknown library": index(text_encoder=["onnxruntime", "InferenceSession"]),
    "deep in a known library": index(tokenizer=["transformers.dynamic_module_utils", "exec"]),
    "a list for a class": index(unet=["diffusers", ["evil", "Own"]]),
    "a part of its own": index(evil=["evil", "Own"]),
    "a pipeline of its own": index(_class_name=["evil", "EvilPipeline"]),
    "a pipeline by name": index(_class_name="evil"),
    "a foreign checker": index(safety_checker=["evil", "StableDiffusionSafetyChecker"]),
    "a foreign processor": index(safety_checker=CHECKER, feature_extractor=["evil", "Own"]),
    "a foreign image encoder": index(image_encoder=["evil", "Own"]),
    "auto_map of the index": index(auto_map=["evil", "Own"]),
    "auto_map of the network": config("unet/config.json", auto_map={"AutoModel": "evil.Own"}),
    "auto_map of the text encoder": config(
        "text_encoder/config.json", auto_map={"AutoModel": "nobody/evil--evil.Own"}
    ),
    "auto_map of the tokenizer": config(
        "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Own", None]}
    ),
    "auto_map of the scheduler": config(
        "scheduler/scheduler_config.json", auto_map={"AutoModel": "evil.Own"}
    ),
    "auto_map within": config("vae/config.json", inner=[{"auto_map": {"AutoModel": "evil.Own"}}]),
    "a hub's kernel": config("text_encoder/config.json", attn_implementation="nobody/evil"),
    "a hub's kernel, inside": config(
        "text_encoder/config.json", _attn_implementation_internal="nobody/evil:Own"
    ),
    "a quantizer": config("text_encoder/config.json", quantization_config={"quant_method": "gptq"}),
    "a quantizer of the network": config(
        "unet/config.json", quantization_config={"quant_method": "bitsandbytes"}
    ),
    "an adapter beside the weights": config("text_encoder/adapter_config.json", **ADAPTER),
}


@pytest.fixture
def snapshot(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound checkpoint to spoil; a module that must not be imported can be found from there."""
    folder = tmp_path / "snapshot"
    shutil.copytree(tiny_folder, folder)
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.usefixtures("tiny")  # so that what loading needs is imported before
@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("case", CODE)
def test_code_in_a_snapshot_is_refused(snapshot: Path, case: str, checks: bool) -> None:
    CODE[case](snapshot)
    before = set(sys.modules)

    line = refusal(door(source=snapshot, safety_checker=checks))

    assert set(sys.modules) == before
    assert not (snapshot / "ran").exists()
    assert str(snapshot) not in line
    if not checks or "safety" not in line:
        assert line.startswith("snapshot: ")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"trust_remote_code": True, "_class_name": ["evil", "Own"]}),
        ("text_encoder/config.json", {"trust_remote_code": True, "architectures": ["evil.Own"]}),
        ("tokenizer/tokenizer_config.json", {"trust_remote_code": True, "tokenizer_class": "evil"}),
        ("scheduler/scheduler_config.json", {"_class_name": ["evil", "Own"]}),
    ],
)
def test_names_that_nobody_follows_import_nothing(
    snapshot: Path, file: str, changes: dict[str, Any]
) -> None:
    """The classes are chosen here; what a part's own config calls itself is not looked up."""
    change_json(snapshot / file, **changes)
    load_model(ModelSpec(source=str(snapshot), device="cpu"))

    assert "evil" not in sys.modules
    assert not (snapshot / "ran").exists()


# T3: headers that are heavy in other ways than those of the header's own tests

TENSOR = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
FULL = MAX_HEADER_BYTES - 200


def repeat(entry: bytes, count: int) -> bytes:
    return b"{" + b",".join([entry] * count) + b"}"


def numbered(count: int, last: bytes) -> bytes:
    return b"{" + b",".join(b'"%d":%b' % (i, TENSOR) for i in range(count)) + b"," + last + b"}"


HEAVY: dict[str, bytes] = {
    "one name, many times": repeat(b'"a":' + TENSOR, 250_000),
    "one name, escaped": b'{"' + b"\\u0061" * (FULL // 6) + b'":{}}',
    "a broken name": b'{"' + b"\\u12" * (FULL // 4) + b'":{}}',
    "a surrogate, many times": b'{"' + b"\\ud800" * (FULL // 6) + b'":{}}',
    "one tensor too many": numbered(headers.MAX_TENSORS, b'"last":' + TENSOR),
    "the last one twice": numbered(headers.MAX_TENSORS - 1, b'"0":' + TENSOR),
    "the last one leaves a gap": numbered(
        headers.MAX_TENSORS - 1, b'"x":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}'
    ),
    "metadata of many keys": b'{"__metadata__":'
    + repeat(b'"a":"b"', 1_500_000)
    + b',"a":'
    + TENSOR
    + b"}",
    "metadata that is nested": b'{"__metadata__":' + b'{"a":' * (FULL // 5) + b"}",
    "lists in lists": b'{"a":{"shape":' + b"[" * FULL + b"}}",
    "a number of many digits": b'{"a":{"dtype":"U8","shape":[' + b"9" * FULL + b"]}}",
    "an exponent": b'{"a":{"dtype":"U8","shape":[1e' + b"9" * 1000 + b'],"data_offsets":[0,0]}}',
    "bytes that are no text": b"{" + b"\xff" * FULL,
    "zeros": b"{" + b"\0" * FULL,
    "commas": b"{" + b"," * FULL,
    "quotes": b"{" + b'"' * FULL,
    "backslashes": b'{"' + b"\\" * FULL,
    "braces that close": b"{" + b"}" * FULL,
}


@pytest.mark.parametrize("case", HEAVY)
def test_a_heavy_header_is_refused_fast_and_in_little_memory(tmp_path: Path, case: str) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(len(HEAVY[case]).to_bytes(8, "little") + HEAVY[case])

    start = time.process_time()
    line = refusal(lambda: read_header(file))
    assert time.process_time() - start < 1  # of the processor, however busy the machine is
    assert len(line) < 250

    tracemalloc.start()
    refusal(lambda: read_header(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


# T4: weights that are not what they should be

Weights = dict[str, torch.Tensor]


def first(weights: Weights, ndim: int = 1) -> str:
    """A tensor to spoil, always the same."""
    return min(name for name, tensor in weights.items() if tensor.ndim >= ndim)


def missing(weights: Weights, name: str) -> None:
    weights.pop(name)


def put(value: float) -> Callable[[Weights, str], None]:
    def spoil(weights: Weights, name: str) -> None:
        weights[name].view(-1)[-1] = value

    return spoil


def of_dtype(dtype: torch.dtype) -> Callable[[Weights, str], None]:
    def spoil(weights: Weights, name: str) -> None:
        weights[name] = weights[name].to(dtype)

    return spoil


def scalar(weights: Weights, name: str) -> None:
    weights[name] = torch.tensor(1.0)


def of_no_size(weights: Weights, name: str) -> None:
    weights[name] = torch.zeros(0)


def longer(weights: Weights, name: str) -> None:
    weights[name] = torch.cat([weights[name], weights[name]])


def renamed(weights: Weights, name: str) -> None:
    weights["x" + name] = weights.pop(name)


MUTATIONS: dict[str, Callable[[Weights, str], None]] = {
    "missing": missing,
    "NaN": put(float("nan")),
    "infinite": put(float("inf")),
    "longer": longer,
    "int8": of_dtype(torch.int8),
    "bool": of_dtype(torch.bool),
    "float8": of_dtype(torch.float8_e4m3fn),
    "scalar": scalar,
    "no size": of_no_size,
    "renamed": renamed,
}


@pytest.fixture
def xl(tiny_xl_folder: Path, tmp_path: Path) -> Path:
    """A tiny XL to spoil."""
    return Path(shutil.copytree(tiny_xl_folder, tmp_path / "xl"))


@pytest.mark.parametrize("file", [UNET, VAE, TEXT, TEXT_2])
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_broken_weights_are_named(xl: Path, file: str, mutation: str) -> None:
    weights = load_file(xl / file)
    name = first(weights)
    MUTATIONS[mutation](weights, name)
    save_file(weights, xl / file, {"format": "pt"})

    line = refusal(door(source=xl))

    assert line.startswith(f"xl: {file.partition('/')[0]}")
    assert name.rpartition("text_model.")[2] in line


def test_two_tensors_that_changed_places_are_named(xl: Path) -> None:
    weights = load_file(xl / UNET)
    one, other = "conv_in.weight", "conv_out.weight"
    weights[one], weights[other] = weights[other], weights[one]
    save_file(weights, xl / UNET, {"format": "pt"})

    assert f"tensor {one} has shape" in refusal(door(source=xl))


def test_a_layer_too_many_is_named(xl: Path) -> None:
    weights = load_file(xl / UNET)
    weights["down_blocks.9.resnets.0.conv1.weight"] = torch.ones(2)
    save_file(weights, xl / UNET, {"format": "pt"})

    assert "'down_blocks.9.resnets.0.conv1.weight'" in refusal(door(source=xl))


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
@pytest.mark.parametrize("file", [UNET, TEXT_2])
def test_a_file_cut_short_is_named(xl: Path, file: str, keep: int) -> None:
    (xl / file).write_bytes((xl / file).read_bytes()[:keep])
    assert refusal(door(source=xl)).startswith(f"xl: {file}: ")


NAN, INF = float("nan"), float("inf")

CONFIGS: list[tuple[str, str, Any]] = [
    *(("vae", "scaling_factor", v) for v in (NAN, INF, None, 0, -1, "x", [1])),
    ("vae", "latent_channels", -4),
    ("vae", "block_out_channels", [-8, 16]),
    ("vae", "block_out_channels", "x"),
    ("unet", "block_out_channels", [-8, 16]),
    ("unet", "down_block_types", ["os", "system"]),
    ("unet", "sample_size", None),
    ("unet", "sample_size", -16),
    ("unet", "in_channels", 9),
    ("unet", "cross_attention_dim", 10**9),
    ("text_encoder", "hidden_size", -16),
    ("text_encoder", "num_attention_heads", 0),
    ("text_encoder", "num_hidden_layers", "x"),
    ("text_encoder", "hidden_act", "os.system"),
    ("text_encoder_2", "layer_norm_eps", "x"),
    ("text_encoder_2", "max_position_embeddings", 4),
    ("tokenizer", "model_max_length", 10**9),
    ("tokenizer", "model_max_length", 0),
    ("tokenizer_2", "model_max_length", "x"),
    ("scheduler", "num_train_timesteps", -1),
    ("scheduler", "num_train_timesteps", 10**13),
    ("scheduler", "prediction_type", "x"),
    ("scheduler", "beta_schedule", "x"),
    ("scheduler", "beta_start", "x"),
    ("scheduler", "beta_end", NAN),
    ("scheduler", "trained_betas", ["x"]),
]


@pytest.mark.parametrize(("part", "key", "value"), CONFIGS, ids=str)
def test_absurd_configs_are_refused(xl: Path, part: str, key: str, value: Any) -> None:
    """Before a picture begins: schedulers are made when a spec is resolved."""
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    change_json(xl / part / names.get(part.removesuffix("_2"), "config.json"), **{key: value})

    line = refusal(lambda: door(source=xl)().resolve(StillSpec(prompt="a")))

    assert part.removesuffix("_2") in line
    assert len(line) < 300


# T12: absurd values through every door

NO = ""
"""No such field at that door."""

# The key, the value as TOML, and what the field is called on the web.
ABSURD: list[tuple[str, str, str]] = [
    *(
        ("seed", v, "seed")
        for v in ("-1", "4294967296", "1000000000000000000", "0.5", "nan", "[1]")
    ),
    *(("count", v, "count") for v in ("0", "-3", "10001", "1.5", "inf", '"many"')),
    *(
        ("sampling.num_inference_steps", v, "num_inference_steps")
        for v in ("0", "-1", "1001", "2000000000", "2.5", "nan", "inf", '"ten"', "[20]")
    ),
    *(
        ("sampling.guidance_scale", v, "guidance_scale")
        for v in ("-0.1", "100.5", "101", "nan", "inf", "-inf", '"x"', "[7.5]")
    ),
    *(("sampling.width", v, "width") for v in ("0", "-64", "15", "100000", "64.5", "nan", '"w"')),
    *(("sampling.height", v, "height") for v in ("0", "-1", "8193", "inf", "[64]")),
    *(("sampling.scheduler", v, "scheduler") for v in ('"euler_a"', '"os.system"', "7", "[1]")),
    *(("variation.seed", v, "variation_seed") for v in ("-1", "4294967296", "0.5", "nan")),
    *(
        ("variation.strength", v, "variation_strength")
        for v in ("-0.1", "1.5", "nan", "inf", '"far"')
    ),
    ("prompt", "7", "prompt"),
    ("prompt", "[1]", "prompt"),
    ("prompt", f'"{"x" * 10_001}"', "prompt"),
    ("prompt", '"a (word:99)"', "prompt"),
    ("prompt", '"a (word:1000000000)"', "prompt"),
    ("prompt", '"a (word:1.2.3)"', "prompt"),
    ("prompt", '"((((((((((((((((((((((((((a))))))))))))))))))))))))))"', "prompt"),
    ("prompt", '"<lora:x:1>"', "prompt"),
    ("negative_prompt", "7", "negative_prompt"),
    ("negative_prompt", f'"{"x" * 10_001}"', "negative_prompt"),
    ("negative_prompt", '"(word:-99)"', "negative_prompt"),
    *(("sampling.strength", v, "page strength") for v in ("0", "-1", "2", "nan", "inf", '"x"')),
    ("image.fit", '"stretch"', "page fit"),
    *(("model.clip_skip", v, "model clip_skip") for v in ("-1", "99", "1.5", "nan")),
    *(
        ("model.loras", f'[{{source = "l.safetensors", weight = {v}}}]', "model loras")
        for v in ("nan", "1e9", "-11.5", "inf")
    ),
    ("model.source", '""', NO),
    ("model.device", '"gpu"', NO),
    ("model.device", '"cuda:x"', NO),
    ("model.dtype", '"int8"', NO),
    ("model.prediction_type", '"x"', NO),
    ("model.low_memory", '"perhaps"', NO),
    ("model.safety_checker", "7", NO),
    ("model.embeddings", '[{source = "e.safetensors", token = "two words"}]', NO),
    ("model.embeddings", '[{source = "e.safetensors"}]', NO),
    ("model.loras", "5", NO),
    ("sampling.batch_size", "0", NO),
    ("sampling.batch_size", "257", NO),
    ("sampling.guidance_interval", "[0.9, 0.1]", NO),
    ("sampling.guidance_interval", "[0, nan]", NO),
    ("sampling.guidance_interval", "[0.5]", NO),
    ("sampling.steps", "5", NO),
    ("sampling", "5", NO),
    ("promt", '"a"', NO),
]


def test_there_are_values_enough_at_every_door() -> None:
    on_the_web = [key for key, _, field in ABSURD if field]
    assert len(on_the_web) >= 60
    assert len({(key, value) for key, value, _ in ABSURD}) == len(ABSURD)


def toml_of(key: str, value: str) -> str:
    """A spec in which everything else is in order."""
    lines = {"prompt": '"a pear"', key: value}
    if key == "variation.strength":
        lines["variation.seed"] = "1"
    if key in ("sampling.strength", "image.fit"):
        lines["image.source"] = '"a.png"'
    return "".join(f"{k} = {v}\n" for k, v in lines.items())


def on_the_web(key: str, field: str, value: Any) -> list[Callable[[], object]]:
    """What the doors of the web make of `value` in that field: the endpoint, the page."""

    def forbid(*_: object) -> None:
        pytest.fail("waited for a model")

    kind, _, name = field.rpartition(" ")
    if kind == "model":
        text = "" if name == "clip_skip" else f"l.safetensors={value[0]['weight']}"
        held = {"clip_skip": value if name == "clip_skip" else None, "loras": text}
        names = ("source", "revision", "vae", "loras", "clip_skip")
        widgets: Any = SimpleNamespace(
            **{n: n for n in names}, is_shared=False, loading=SimpleNamespace(spec=ModelSpec())
        )
        values: Any = {"source": "embedded", "revision": "", "vae": "", **held}
        return [lambda: ModelField.spec_of(widgets, values)]

    blank = dict.fromkeys(FIELDS) | {"prompt": "a pear", "seed": 0, "count": 1, "fit": "crop"}
    blank |= {"image": "a.png"} if kind == "page" else {}
    variation = {"variation_seed": 1, "variation_strength": 0.5}
    given = (variation if name in variation else {}) | {name: value}
    doors: list[Callable[[], object]] = [lambda: spec_of(blank | given, ModelSpec())]
    if kind != "page":
        latest = SimpleNamespace(spec=ModelSpec(), wait=forbid, model=forbid)
        loading: Any = SimpleNamespace(latest=latest)
        endpoint = make_endpoint(loading, Path("nowhere"))
        doors.append(lambda: list(endpoint(**{"prompt": "a pear", **given})))
    return doors


@pytest.mark.parametrize(("key", "value", "field"), ABSURD, ids=lambda value: str(value)[:40])
def test_an_absurd_value_is_refused_alike_at_every_door(
    key: str,
    value: str,
    field: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.model.load_model", lambda spec: pytest.fail("loaded a model"))
    text = toml_of(key, value)
    Path("spec.toml").write_text(text)
    values = tomllib.loads(text)

    line = refusal(lambda: StillSpec(**values))
    assert len(line) < 300
    assert refusal(lambda: load_spec(StillSpec, Path("spec.toml"))) == line

    sets = [f"--set={entry}" for entry in text.splitlines()]
    assert generate.main(sets) == 2
    assert capsys.readouterr().err == f"error: {line}\n"

    plain: Any = values
    for part in key.split("."):
        plain = plain[part]
    for door in on_the_web(key, field, plain) if field else []:
        with pytest.raises((gr.Error, SpecError)) as refused:
            door()
        assert getattr(refused.value, "message", str(refused.value)) == line
    assert {file.name for file in tmp_path.iterdir()} == {"spec.toml"}


# T14: secrets

HOST = "host-of-somebody-9f2"
TOKEN = "hf_" + "QzPlanted" * 4


def test_no_secret_gets_into_what_is_made(
    tiny_folder: Path,
    tiny: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home-of-somebody"
    work, models = home / "work-of-somebody", home / "models-of-somebody"
    shutil.copytree(tiny_folder, models / "tiny-sd")
    shutil.copytree(tiny_folder / "vae", models / "vae")
    lora = create_lora("kohya", tiny.unet)
    write_tensors(models / "style.safetensors", lora)
    write_tensors(models / "cat.safetensors", {"<cat>": torch.zeros(1, 16)})
    save_png(Image.new("RGB", (64, 64), "red"), models / "start.png", None)
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr("platform.node", lambda: HOST)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("HOSTNAME", HOST)
    monkeypatch.setenv("USER", "somebody-9f2")

    code = generate.main([
        "a <cat>", "--model", str(models / "tiny-sd"), "--vae", str(models / "vae"),
        "--lora", f"{models / 'style.safetensors'}=0.5", "--image", str(models / "start.png"),
        "--set", f'model.embeddings=[{{source="{models / "cat.safetensors"}", token="<cat>"}}]',
        "--num-inference-steps", "2", "--device", "cpu",
    ])  # fmt: skip

    said = capsys.readouterr()
    assert (code, said.err.count("\n")) == (0, 1)
    (file,) = Path("outputs").iterdir()
    assert said.out == f"{file}\n"
    record = read_record(file)
    assert record.spec.model.source == "tiny-sd"
    assert len(record.hashes) == 3
    data = file.read_bytes()
    with file.open("rb") as stream:
        told = (png_text(stream, b"greatcircle") or b"") + b"\n"
    with Image.open(file) as image:
        told += repr(image.info).encode()
    secrets = [
        TOKEN,
        HOST,
        "somebody",
        str(tmp_path),
        str(tiny_folder.parent),
        socket.gethostname(),
    ]
    shown = [data, told, said.out.encode(), said.err.encode(), file.name.encode()]
    assert [s for s in secrets for text in shown if s.encode() in text] == []


# T15: hostile files

TOMLS: dict[str, tuple[str, str]] = {
    "a value is missing": ("prompt = 'a'\nseed =\n", "line 2"),
    "two signs": ("prompt = 'a'\n\nseed = = 3\n", "line 3"),
    "a key twice": ("prompt = 'a'\nprompt = 'b'\n", "line 2"),
    "a table twice": ("[sampling]\n[model]\n[sampling]\n", "line 3"),
    "a table over a value": ("prompt = 'a'\n[prompt]\nx = 1\n", "line 2"),
    "a text without end": ("prompt = 'a\nseed = 1\n", "line 1|end of document"),
    "a list without end": ("prompt = 'a'\nseed = [1,\n", "end of document"),
    "an escape": ('prompt = "\\q"\n', "line 1"),
    "a control character": ("prompt = 'a\x01'\n", "line 1"),
    "a date": ("prompt = 'a'\nseed = 2024-02-31\n", "valid date|line 2|day"),
    "a bare word": ("prompt = 'a'\nseed = null\n", "line 2"),
    "JSON": ('{"prompt": "a"}\n', "line 1"),
    "YAML": ("prompt: a\n", "line 1"),
    "an inline table of two lines": (
        "model = {source = 'a',\nseed = 1}\n",
        "line 1|line 2|Expected",
    ),
    "a surrogate": ('prompt = "\\ud800"\n', "line 1"),
    "a text of many quotes": ('prompt = """' + '"' * 20 + "\n", "line 1"),
    "deep": ("prompt = 'a'\nseed = " + "[" * 100_000, "nested too deeply"),
    "deep tables": ("prompt = 'a'\nseed = " + "{a=" * 50_000, "nested too deeply"),
    "many digits": ("prompt = 'a'\nseed = " + "9" * 5000, "digits"),
    "large": ("#" * (MAX_SPEC_BYTES + 1), f"larger than {MAX_SPEC_BYTES} bytes"),
}


@pytest.mark.parametrize("case", TOMLS)
def test_a_hostile_toml_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    text, reason = TOMLS[case]
    file = tmp_path / "bad.toml"
    file.write_text(text)

    line = refusal(lambda: load_spec(StillSpec, file))

    assert line.startswith("bad.toml: ")
    assert any(word in line for word in reason.split("|"))
    assert len(line) < 300


JSONS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not valid JSON"),
    "a list": (b"[]", "is not a JSON object"),
    "unfinished": (b'{\n"a": 1,\n"b"', "line 3"),
    "a key twice": (b'{"a": 1, "a": 2}', "'a' stands there twice"),
    "NaN": (b'{"a": NaN}', "NaN is not allowed"),
    "infinite": (b'{"a": 1e999}', "1e999 is too large"),
    "many digits": (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
    "deep": (b'{"a":' * 100_000, "nested too deeply"),
    "not UTF-8": (b'{"a": "\xff"}', "is not valid JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not valid JSON"),
    "large": (b" " * (10**6 + 1), "is larger than 1000000 bytes"),
}


@pytest.mark.parametrize("case", JSONS)
@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"],
)
def test_a_hostile_config_is_refused(snapshot: Path, file: str, case: str) -> None:
    data, reason = JSONS[case]
    (snapshot / file).write_bytes(data)

    line = refusal(door(source=snapshot))

    assert line.startswith(f"snapshot: {file}: ")
    assert reason in line
