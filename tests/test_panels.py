import html
import io
import math
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, panels


def test_a_panel_replaces_the_bytes_of_one_picture():
    def draw(n):
        return charts.lines([1, 2], {"a": [n, n + 1]}, "title", "x", "y", alt=f"n is {n} < 9")

    slider = ipywidgets.IntSlider(1, 1, 5, description="n")
    panel = panels.panel(draw, n=slider)
    picture = panel.children[1]
    before = picture.value
    assert before == draw(1).data and "n is 1 &lt; 9" in panel.children[2].value
    slider.value = 4
    assert panel.children[1] is picture and picture.value == draw(4).data != before
    assert "n is 4" in panel.children[2].value
    assert repr(panel) == "[interactive panel: n]"


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 5)).eval()


@pytest.fixture
def photograph():
    return torch.rand(3, 32, 32)


def parts(panel):
    names = {getattr(child, "description", ""): child for child in panel.children}
    controls = {key: next(child for name, child in names.items() if name.startswith(start)) for key, start in dict(
        beta="β", network="network", photograph="photograph", basis="perturbation", valid="stay", draw="new").items()}
    return SimpleNamespace(**controls, text=panel.children[-2], picture=panel.children[-1])


def test_the_beta_panel_takes_a_readers_network_and_image(small, photograph):
    part = parts(panels.beta_panel(small, photograph))
    assert part.network.options == ("network 1",) and part.photograph.options == ("photograph 1",)
    assert Image.open(io.BytesIO(part.picture.value)).format == "PNG"
    assert "β = 512" in part.text.value and "float32" in part.text.value and 'role="status"' in part.text.value


def test_every_control_changes_the_bytes_of_the_one_picture(photograph):
    panel = panels.beta_panel(["patchnet", "stridenet"], ["chelsea", "coffee"])
    part = parts(panel)
    seen = [part.picture.value]
    for control, value in ((part.beta, 64), (part.basis, panels.REPEATED), (part.photograph, "coffee"),
                           (part.valid, True), (part.network, "stridenet")):
        control.value = value
        seen.append(part.picture.value)
    part.draw.click()
    seen.append(part.picture.value)
    assert len(set(seen)) == len(seen) and panel.children[-1] is part.picture
    assert "The windows of the first layer overlap" in part.text.value


def test_the_numbers_of_the_beta_panel_are_those_of_compare(small, photograph):
    part = parts(panels.beta_panel({"mine": small}, {"this": photograph}))
    part.beta.value = 4096
    search = NullSpaceSearch(small, (3, 32, 32))
    v = search.random(torch.Generator().manual_seed(0))
    found = compare(small, photograph, search.collide(photograph, v, 4096))
    assert f"Relative change after 0: {found.changes['0']:.1e} in float32" in part.text.value
    assert f"mine says “{found.said[0]}”" in part.text.value
    part.valid.value = True
    assert "It stays in [0, 1]" in part.text.value and "outside" not in part.text.value


def test_the_pixels_of_the_sum_are_clipped_and_the_networks_input_is_not(small, photograph):
    part = parts(panels.beta_panel(small, photograph))
    part.beta.value = 8192
    search = NullSpaceSearch(small, (3, 32, 32))
    y = search.collide(photograph, search.random(torch.Generator().manual_seed(0)), 8192)
    drawn = np.asarray(Image.open(io.BytesIO(part.picture.value)))
    expected = (255 * y.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy().repeat(7, 0).repeat(7, 1)
    assert np.array_equal(drawn[20:20 + 224, -224:], expected)
    with torch.no_grad():
        difference = (small(y.float()[None]) - small(photograph[None])).abs().max()
    assert f"difference of a logit: {float(difference):.1e}" in part.text.value


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_a_bad_beta_is_named(beta, small, photograph):
    scene = panels._Scene({"n": small}, {"p": photograph})
    with pytest.raises(ValueError, match=f"beta must be finite and at least 0, not {beta}"):
        scene.draw(beta, "n", "p", panels.MOSAIC, False, 0)


def test_the_panel_outlives_what_it_cannot_draw(small, photograph):
    full = nn.Sequential(nn.Conv2d(3, 48, 4, stride=4), nn.ReLU())
    part = parts(panels.beta_panel({"good": small, "full": full, "none": nn.Sequential(nn.ReLU()), "gone": "patchnot"},
                             {"good": photograph, "grey": photograph[:1], "bright": photograph + 1, "holes":
                              photograph / 0, "bytes": (255 * photograph).byte(), "array": photograph.numpy()}))
    before = part.picture.value
    for control, value, said in (
            (part.network, "full", "has no null space"), (part.network, "none", "no convolution, linear or attention"),
            (part.network, "gone", "near matches: patchnet"), (part.photograph, "grey", "Not drawn"),
            (part.photograph, "holes", "NaN or infinite"), (part.photograph, "bytes", "floating-point"),
            (part.photograph, "array", "ndarray"), (part.beta, math.nan, "must be finite and at least 0, not nan")):
        good = control.value
        control.value = value
        assert said in html.unescape(part.text.value) and part.picture.value == before, value
        control.value = good
        assert "Not drawn" not in part.text.value and part.picture.value == before
    part.valid.value = True
    part.photograph.value = "bright"
    assert "must lie in [0, 1]" in part.text.value
    part.beta.value = -5
    assert part.beta.value == 1


def test_what_cannot_be_drawn_at_first_is_raised(small):
    for networks, photographs, error, text in (
            (small, torch.rand(32, 32), TypeError, r"\(C, H, W\), not \(32, 32\)"),
            (small, [], ValueError, "at least one photograph"), ("patchnet", "chelsie", ValueError, "chelsie"),
            (nn.Sequential(nn.Conv2d(3, 48, 4, stride=4)), torch.rand(3, 32, 32), ValueError, "no null space")):
        with pytest.raises(error, match=text):
            panels.beta_panel(networks, photographs)
