"""LPIPS against the implementation of torchmetrics, with weights that are drawn, not downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as published

from pipeline.errors import CheckpointError, SpecError
from pipeline.perceptual import SMALLEST, load_lpips


def draw(seed: int, side: int = 64, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    """torchmetrics' network, its AlexNet laid out as torchvision's, which is not needed then."""

    def features(net: str, pretrained: bool = False) -> nn.Sequential:
        conv, relu = nn.Conv2d, nn.ReLU
        return nn.Sequential(
            conv(3, 64, 11, 4, 2), relu(), nn.MaxPool2d(3, 2),
            conv(64, 192, 5, padding=2), relu(), nn.MaxPool2d(3, 2),
            conv(192, 384, 3, padding=1), relu(),
            conv(384, 256, 3, padding=1), relu(),
            conv(256, 256, 3, padding=1), relu(), nn.MaxPool2d(3, 2),
        )  # fmt: skip

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "_get_tv_model_features", features)
        network: nn.Module = published._LPIPS(pretrained=False, net="alex", pnet_rand=True)
    for layer in network.lins:
        layer.model[1].weight.abs_()  # the published ones are not negative
    return network


@pytest.fixture(scope="module")
def weights(oracle: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    save_file({name: tensor.clone() for name, tensor in oracle.state_dict().items()}, file)
    return file


def test_the_distance_is_that_of_torchmetrics(oracle: nn.Module, weights: Path):
    distance = load_lpips(str(weights))
    a, b = draw(1, batch=3), draw(2, batch=3)

    found = distance(a, b)

    # the same convolutions; torch sums their squares in another order
    torch.testing.assert_close(found, oracle(a, b).flatten().double(), rtol=1e-5, atol=1e-8)


def test_equal_pictures_are_at_no_distance_and_both_ways_are_the_same(weights: Path):
    distance = load_lpips(str(weights))
    a, b = draw(1, SMALLEST), draw(2, SMALLEST)

    assert distance(a, a).item() == 0
    assert distance(a, b).item() == distance(b, a).item() > 0
    assert distance(a, a + 0.5).item() > 0


def test_small_pictures_are_refused(weights: Path):
    small = draw(0, SMALLEST - 1)

    with pytest.raises(SpecError, match=r"^LPIPS of 30 × 30 pixels: sides must be 31 or more$"):
        load_lpips(str(weights))(small, small)


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.pop("lin2.model.1.weight"), "tensor lin2.model.1.weight is missing"),
        (
            lambda w: w.update({"net.slice1.0.bias": torch.ones(5)}),
            r"tensor net.slice1.0.bias has shape \(5,\): must be \(64,\)",
        ),
        (lambda w: w["net.slice1.0.bias"].fill_(torch.nan), "tensor 'net.slice1.0.bias' is NaN"),
    ],
)
def test_weights_that_are_not_whole_are_refused(
    weights: Path, tmp_path: Path, change: Change, fault: str
):
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, tmp_path / "odd.safetensors")

    with pytest.raises(CheckpointError, match=f"^odd.safetensors: {fault}"):
        load_lpips(str(tmp_path / "odd.safetensors"))


def test_a_pickle_is_refused_unopened(tmp_path: Path):
    (tmp_path / "alex.pth").write_bytes(b"\x80\x02.")

    with pytest.raises(CheckpointError, match="pickle"):
        load_lpips(str(tmp_path / "alex.pth"))
