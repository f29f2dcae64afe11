import io

import pytest
import torch
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
        show.heat_maps([torch.rand(4, 4)] * 2, ["a", "b"], "unit", alt="five", extent=(0, 1, 0, 1)),
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
    with pytest.raises(ValueError, match="2 matrices.*not 1 title"):
        show.heat_maps([torch.rand(8, 8)] * 2, ["a"], "unit", alt="")


def test_a_perturbation_is_centred_on_grey():
    picture = show.perturbation(torch.tensor([-2.0, 0.0, 1.0]))
    torch.testing.assert_close(picture, torch.tensor([0.0, 0.5, 0.75]))
