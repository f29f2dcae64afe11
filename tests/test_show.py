import io

import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from collide_utils import randmat, show
from collide_utils.compare import compare


def figures():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    same = compare(model, torch.ones(3, 4, 4), torch.ones(3, 4, 4))
    return [
        show.images([torch.rand(3, 8, 8)] * 5, list("abcde"), alt="five"),
        show.spectrum([3.0, 2.0], columns=4, alt="five"),
        show.change_by_layer({"same": same}, alt="five"),
        show.lines([8, 16], {"float32": [1e-7, 2e-7]}, "title", "x", "y", alt="five", guides={"one": [1, 1]}),
        show.heat_maps([[torch.rand(3, 8, 8), torch.rand(4, 4)]] * 2, ["x", "y"], ["image", "map"], alt="five"),
        show.table({("a", "c"): 1e-9, ("b", "c"): 0.0}, {("a", "c"): "=", ("b", "c"): "≠"}, ["a", "b"], ["c", "d"],
                   "title", "label", alt="five"),
        show.against_law({"n = 2": [0.1, 0.5]}, randmat.limit_pdf, randmat.limit_cdf, "x", alt="five"),
    ]


def test_every_figure_is_a_picture_with_an_alternative_text():
    for figure in figures():
        assert Image.open(io.BytesIO(figure.data)).size[0] > 300
        data, metadata = figure._repr_mimebundle_()
        assert "image/png" in data and metadata["image/png"]["alt"] == "five"


def test_pictures_and_titles_must_match():
    with pytest.raises(ValueError, match="2 pictures.*not 1 title"):
        show.images([torch.rand(3, 8, 8)] * 2, ["a"], alt="")


def test_heat_maps_need_a_label_a_row_and_a_title_a_column():
    with pytest.raises(ValueError, match=r"1 labels and 2 titles do not fit rows of lengths \[1\]"):
        show.heat_maps([[torch.rand(4, 4)]], ["x"], ["a", "b"], alt="")


def test_maps_of_a_column_share_one_scale():
    figure = show.heat_maps([[torch.zeros(2, 2)], [torch.ones(2, 2)]], ["x", "y"], ["map"], alt="")
    colours = Image.open(io.BytesIO(figure.data)).convert("RGB").getcolors(1 << 24)
    seen = {colour: count for count, colour in colours}
    for end in (0.0, 1.0):  # each map is a square of one colour, larger than the bar that shows the scale
        assert seen[colormaps["cividis"](end, bytes=True)[:3]] > 10_000


def test_a_perturbation_is_centred_on_grey():
    picture = show.perturbation(torch.tensor([-2.0, 0.0, 1.0]))
    torch.testing.assert_close(picture, torch.tensor([0.0, 0.5, 0.75]))
