"""LPIPS against its definition, with random weights of AlexNet's trunk and the released ones of its distance."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.lpips import SMALLEST, Lpips


def _trunk() -> nn.Sequential:
    """As torchvision lays it out."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


@pytest.fixture(scope="module")
def trunk() -> nn.Sequential:
    torch.manual_seed(0)
    return _trunk()


@pytest.fixture(scope="module")
def weights(trunk: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in trunk.state_dict().items()}, path)
    return path


@torch.no_grad()
def _by_definition(trunk: nn.Sequential, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    shipped = resources.files("torchmetrics").joinpath("functional/image/lpips_models/alex.pth")
    heads = torch.load(str(shipped), map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], dtype=torch.float64)

    def layers(pictures: np.ndarray) -> list[Tensor]:
        x = (torch.from_numpy(pictures).double() / 127.5 - 1 - shift) / scale
        x, found = x.permute(0, 3, 1, 2), []
        for layer in trunk.double():
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    total = torch.zeros(len(one), dtype=torch.float64)
    for i, (a, b) in enumerate(zip(layers(one), layers(other), strict=True)):
        apart = (a - b).square() * heads[f"lin{i}.model.1.weight"].double()
        total += apart.sum(1).mean((1, 2))
    return total.numpy()


@pytest.mark.parametrize("shape", [(64, 64, 3), (SMALLEST, 40, 3)])
def test_the_distance_is_its_definition(trunk: nn.Sequential, weights: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (3, *shape)).astype(np.uint8) for _ in range(2))
    found = Lpips(weights)(one, other)
    np.testing.assert_allclose(found, _by_definition(trunk, one, other), rtol=1e-9)
    assert (found > 1e-4).all()


def test_the_distance_of_nearly_equal_pictures_keeps_its_digits(trunk: nn.Sequential, weights: Path) -> None:
    """What an export that is nearly right makes: in float32 differences of features are rounding for the most part."""
    one = np.random.default_rng(2).integers(0, 256, (2, 32, 40, 3)).astype(np.uint8)
    other = one.copy()
    other[:, 5, 5, 0] ^= 1
    np.testing.assert_allclose(Lpips(weights)(one, other), _by_definition(trunk, one, other), rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_weights_that_are_no_floats_are_refused(trunk: nn.Sequential, tmp_path: Path, dtype: torch.dtype) -> None:
    """Cast to whole numbers most are zero, and all pictures are equal then."""
    state = {f"features.{name}": value.to(dtype) for name, value in trunk.state_dict().items()}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ExportError, match=rf"'features\.0\.weight' in {str(dtype)[6:]}, and no floats"):
        Lpips(tmp_path / "other.pth")


def test_equal_pictures_are_at_no_distance_and_grey_is_spread(weights: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 1)).astype(np.uint8)
    network = Lpips(weights)
    assert network(grey, grey).tolist() == [0.0, 0.0]
    one, other = grey[:1], grey[1:]
    assert network(one, other) == network(one.repeat(3, axis=3), other.repeat(3, axis=3))


def test_too_small_pictures_and_other_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    small = np.zeros((1, SMALLEST - 1, 64, 3), np.uint8)
    with pytest.raises(ExportError, match="not defined for pictures of 30x64"):
        Lpips(weights)(small, small)
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ExportError, match=r"does not hold AlexNet's 'features\.0\.weight'"):
        Lpips(tmp_path / "other.pth")
