"""Numbers that the lessons on the look of a null space and on β state, on more draws than their cells can wait for."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import kurtosis

from collide_utils import images, models, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch


def blurred(image):
    return torch.from_numpy(gaussian_filter(image.clamp(0, 1).mean(0).numpy(), 5)).flatten()


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


@pytest.mark.parametrize("name", images.names())
def test_the_cover_of_a_null_space_hides_less_than_white_noise_and_nothing_from_the_network(search, name):
    x = images.load(name).double()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        y = search.collide(x, search.random(generator), 8192)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype) / len(search.basis) ** 0.5
        mosaic, white = (correlation(blurred(x), blurred(z)) for z in (y, x + 8192 / 255 * noise))
        assert mosaic > 0.8 and mosaic > white + 0.01
        assert (search.seen(y) - search.seen(x)).norm() < 1e-12 * search.seen(x).norm()


@pytest.mark.parametrize("network", ["patchnet", "patchnet-b", "patchnet-l2"])
def test_a_mosaic_sparkles_in_the_basis_of_an_svd_and_not_in_a_turned_one(network):
    search = NullSpaceSearch(models.load(network))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        size = search.basis.shape[1]
        turned = search.basis @ torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        choice = torch.randint(size, search.geometry.grid, generator=generator)
        assert kurtosis(search.mosaic(choice).flatten(), fisher=False) > 10
        assert kurtosis(windows.tile(search.geometry, turned.T[choice]).flatten(), fisher=False) == pytest.approx(
            3, abs=0.3
        )


def test_eight_bits_move_a_number_by_half_a_level_at_most_and_by_a_twelfth_on_average(search, patchnet, cat):
    mosaic = search.random(torch.Generator().manual_seed(0))
    y = search.collide(cat, search.shrink(cat, mosaic, 64)[0], 64)
    moved = (255 * y).round() - 255 * y
    assert moved.abs().max() <= 0.5
    assert moved.square().mean() == pytest.approx(1 / 12, rel=0.05)  # less where the photograph is black, white or even
    change, finer = (compare(patchnet, cat, (steps * y).round() / steps).changes["conv1"] for steps in (255, 65535))
    assert 1e-4 < change < 0.01 and change / finer == pytest.approx(257, rel=0.1)


def test_a_valid_collision_can_show_the_fine_lines_of_another_photograph(search, patchnet, cat):
    china = images.load("china").double()
    lines = china - torch.from_numpy(gaussian_filter(china.numpy(), (0, 2, 2)))
    y = search.toward(cat, cat + 6 * lines)
    assert y.min() >= 0 and y.max() <= 1 and compare(patchnet, cat, y).collides_from == "conv1"
    assert correlation((y - cat).flatten(), lines.flatten()) > 0.3
    coffee = images.load("coffee").double()
    once = search.toward(cat, coffee)
    assert (search.toward(once, coffee) - once).abs().max() < 1e-6  # the nearest point of a convex set is one
