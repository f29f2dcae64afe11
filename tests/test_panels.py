import copy
import html
import io
import math
import re
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from collide_utils import images, models
from collide_utils.comparison import compare
from collide_utils.levelsets import LevelSet
from collide_utils.search import NullSpaceSearch
from collide_utils.show import canvas, charts, panels, scene, walk


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
    row, slider, below = panel.children
    picture, text = below.children
    names = {one.description: one for one in row.children}
    controls = {
        key: next(one for name, one in names.items() if name.startswith(start))
        for key, start in dict(
            network="network",
            photograph="photograph",
            upload="Upload",
            recipe="recipe",
            vector="vector",
            seed="seed",
            valid="stay",
        ).items()
    }
    return SimpleNamespace(**controls, play=slider.children[0], beta=slider.children[1], picture=picture, text=text)


def upload(part, name, content):
    """What ipywidgets does when a reader has picked a file."""
    part.upload.set_state(
        {"value": [dict(name=name, content=memoryview(content), size=len(content), type="", last_modified=0)]}
    )


def a_file(format, size=(300, 200), **options):
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format, **options)
    return buffer.getvalue()


def test_the_beta_panel_takes_a_readers_network_and_image(small, photograph):
    part = parts(panels.beta_panel(small, photograph))
    assert part.network.options == ("network 1",) and part.photograph.options == ("photograph 1",)
    assert Image.open(io.BytesIO(part.picture.value)).format == "WEBP"
    assert "β = 512" in part.text.value and "float32" in part.text.value and 'role="status"' in part.text.value
    assert part.vector.max == NullSpaceSearch(small, (3, 32, 32)).basis.shape[1] - 1


def test_every_control_changes_the_bytes_of_the_one_picture(photograph):
    panel = panels.beta_panel(["patchnet", "stridenet"], ["chelsea", "coffee"])
    part = parts(panel)
    seen = [part.picture.value]
    for control, value in (
        (part.beta, 64),
        (part.seed, 3),
        (part.recipe, "repeat"),
        (part.vector, 5),
        (part.recipe, "pattern"),
        (part.photograph, "coffee"),
        (part.valid, True),
        (part.network, "stridenet"),
    ):
        control.value = value
        seen.append(part.picture.value)
    part.play.value = 9
    seen.append(part.picture.value)
    assert part.beta.value == 512 and "β = 512" in part.text.value
    assert len(set(seen)) == len(seen) and panel.children[2].children[0] is part.picture
    assert "The windows of conv1 overlap" in part.text.value


def test_the_numbers_of_the_beta_panel_are_those_of_compare(small, photograph):
    part = parts(panels.beta_panel({"mine": small}, {"this": photograph}))
    part.beta.value = 4096
    search = NullSpaceSearch(small, (3, 32, 32))
    y = search.collide(photograph, search.random(torch.Generator().manual_seed(0)), 4096)
    found, shown = compare(small, photograph, y), compare(small, photograph, y.clamp(0, 1))
    words = html.unescape(part.text.value)
    assert f"Change after 0: {found.changes['0']:.1e} in float32" in words
    assert f"mine says “{found.said[0]}” to the photograph, “{found.said[1]}” to the numbers" in words
    assert f"and “{shown.said[1]}” to the sum as shown" in words
    part.valid.value = True
    assert "It stays in [0, 1]" in part.text.value and "outside" not in part.text.value


def test_the_sum_is_drawn_clipped_and_what_the_network_sees_is_that_of_the_photograph(small, photograph):
    part = parts(panels.beta_panel(small, photograph))
    part.beta.value = 8192
    search = NullSpaceSearch(small, (3, 32, 32))
    y = search.collide(photograph, search.random(torch.Generator().manual_seed(0)), 8192)
    drawn = np.asarray(Image.open(io.BytesIO(part.picture.value)))
    below, right = 224 + canvas._WORDS, 224 + canvas._GAP
    assert np.array_equal(drawn[below : below + 224, :224], canvas.pixels(y))
    difference = drawn[below : below + 224, right : right + 224].astype(int) - canvas.pixels(search.seen(photograph))
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_uploaded_picture_is_drawn_upright(small, photograph, format):
    part = parts(panels.beta_panel(small, photograph))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    upload(part, "mine", a_file(format, exif=turned))
    assert part.photograph.value == "mine" and "Not" not in part.text.value
    upright = images.from_file(io.BytesIO(a_file(format, exif=turned)), 32)
    drawn = np.asarray(Image.open(io.BytesIO(part.picture.value)))
    assert np.array_equal(drawn[:224, :224], canvas.pixels(upright))


def test_what_is_no_picture_is_refused_and_the_picture_stays(small, photograph, monkeypatch):
    part = parts(panels.beta_panel(small, photograph))
    before, good = part.picture.value, a_file("PNG")
    for name, content in (
        ("notes.txt", b"not a picture"),
        ("cut.png", good[: len(good) // 2]),
        ("a.gif", a_file("GIF")),
        ("empty.jpg", b""),
    ):
        upload(part, name, content)
        assert f"Not loaded: {name} is not a JPEG, PNG or WebP" in part.text.value and part.picture.value == before
        assert part.photograph.options == ("photograph 1",)
    monkeypatch.setattr(scene, "_LARGEST", 1000)
    upload(part, "large.png", good)
    assert "large.png has" in part.text.value and part.picture.value == before


@pytest.mark.parametrize("size", [32, (32, 32), (3, 32, 32)])
def test_a_photograph_by_name_has_the_size_that_the_network_names(size, small):
    small.input_size = size
    try:
        panel = scene.Scene({"n": small}, {"p": "chelsea"})
        panel.draw(8, "n", "p", "repeat", 0, 0, False)
    finally:
        del small.input_size
    assert panel.image.shape == (3, 32, 32)


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_a_bad_beta_is_named(beta, small, photograph):
    panel = scene.Scene({"n": small}, {"p": photograph})
    with pytest.raises(ValueError, match=f"beta must be finite and at least 0, not {beta}"):
        panel.draw(beta, "n", "p", "mosaic", 0, 0, False)


def test_the_panel_outlives_what_it_cannot_draw(small, photograph):
    full = nn.Sequential(nn.Conv2d(3, 48, 4, stride=4), nn.ReLU())
    part = parts(
        panels.beta_panel(
            {"good": small, "full": full, "none": nn.Sequential(nn.ReLU()), "gone": "patchnot"},
            {
                "good": photograph,
                "grey": photograph[:1],
                "bright": photograph + 1,
                "holes": photograph / 0,
                "bytes": (255 * photograph).byte(),
                "array": photograph.numpy(),
            },
        )
    )
    before = part.picture.value
    for control, value, said in (
        (part.network, "full", "has no null space"),
        (part.network, "none", "no convolution, linear or attention"),
        (part.network, "gone", "near matches: patchnet"),
        (part.photograph, "grey", "Not drawn"),
        (part.photograph, "holes", "NaN or infinite"),
        (part.photograph, "bytes", "floating-point"),
        (part.photograph, "array", "ndarray"),
    ):
        good = control.value
        control.value = value
        assert said in html.unescape(part.text.value) and part.picture.value == before, value
        control.value = good
        assert "Not drawn" not in part.text.value and part.picture.value == before
    part.valid.value = True
    part.photograph.value = "bright"
    assert "must lie in [0, 1]" in part.text.value


def test_what_cannot_be_drawn_at_first_is_raised(small):
    for networks, photographs, error, text in (
        (small, torch.rand(32, 32), TypeError, r"\(C, H, W\), not \(32, 32\)"),
        (small, [], ValueError, "at least one photograph"),
        ("patchnet", "chelsie", ValueError, "chelsie"),
        (nn.Sequential(nn.Conv2d(3, 48, 4, stride=4)), torch.rand(3, 32, 32), ValueError, "no null space"),
    ):
        with pytest.raises(error, match=text):
            panels.beta_panel(networks, photographs)


@pytest.fixture
def small_networks(small, monkeypatch):
    """Names of networks that are loaded in no time: what is behind them is `small`, on images of 32×32 pixels."""
    small.input_size = 32
    monkeypatch.setattr(models, "load", lambda name, dtype=torch.float32: copy.deepcopy(small).to(dtype))


def walk_parts(panel):
    row, played, below = panel.children
    *menus, button, progress = row.children
    picture, text = below.children
    return SimpleNamespace(
        menus=menus, button=button, progress=progress, slider=played.children[1], picture=picture, text=text
    )


def test_every_stop_of_a_walk_is_shown_when_it_is_found_and_has_the_logits_of_the_photograph(small, small_networks):
    part = walk_parts(panels.walk_panel(["one"], ["chelsea", "coffee"], stops=3))
    picture = part.picture
    assert "Press Walk" in part.text.value and part.slider.disabled and not part.button.disabled
    seen, words = [picture.value], [part.text.value]
    picture.observe(lambda change: seen.append(change.new), "value")
    part.text.observe(lambda change: words.append(change.new), "value")
    part.button.click()
    assert part.progress.value == part.slider.value == 3 and not part.slider.disabled and not part.button.disabled
    assert len(set(seen)) == len(seen) == 4
    changes = [float(re.search(r"logits change by (\S+) in float64", one)[1]) for one in words]
    assert max(changes) <= 1e-13 and changes[0] == 0
    left = [int(re.search(r": (\d+)% of the distance", one)[1]) for one in words]
    assert left[0] == 100 and left == sorted(left, reverse=True) and left[-1] < 100
    part.slider.value = 1
    assert picture.value == seen[1] and part.text.value == words[1]


def test_the_stops_that_a_walk_shows_are_those_of_the_level_set(small, small_networks):
    shown = walk.Walk("one", "chelsea", "coffee", 2)
    assert list(shown.find()) == [1, 2]
    x, target = (images.load(name, 32).double() for name in ("chelsea", "coffee"))
    stops = LevelSet(small, "logits", x).walk(target, 2)
    assert all(torch.equal(image, stop.image) for image, stop in zip(shown.images[1:], stops, strict=True))


def test_another_choice_begins_another_walk_and_one_to_where_it_begins_is_refused(small_networks):
    part = walk_parts(panels.walk_panel(["one", "two"], ["chelsea", "coffee"], stops=1))
    part.button.click()
    assert part.slider.value == 1
    part.menus[0].value = "two"
    assert part.slider.value == part.progress.value == 0 and part.slider.disabled and "Press Walk" in part.text.value
    part.menus[2].value = "chelsea"
    assert "a walk from &#x27;chelsea&#x27; has to aim at another photograph" in part.text.value
    part.button.click()
    assert "has to aim at another photograph" in part.text.value and not part.button.disabled
    with pytest.raises(ValueError, match="a walk needs two photographs, not 1"):
        panels.walk_panel(["one"], ["chelsea"])
