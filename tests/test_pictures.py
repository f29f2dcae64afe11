import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from collide_utils import counting
from collide_utils.comparison import compare
from collide_utils.show import charts, drawings, pictures


def figures():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    same = compare(model, torch.ones(3, 4, 4), torch.ones(3, 4, 4))
    return [
        pictures.images([torch.rand(3, 8, 8)] * 5, list("abcde"), alt="five"),
        pictures.images([torch.rand(3, 8, 12)] * 2, list("ab"), alt="five", legend=pictures.colours("abc")),
        drawings.one_stem(["a word", "a map", "boxes"], alt="five"),
        charts.lines_apart([1, 2], {"a": {"x": [1, 2]}, "b": {"x": [2, 3]}}, "x", "y", alt="five"),
        charts.bars({"a": 1.0, "b": -1.0}, "title", "y", alt="five"),
        charts.layer_shapes([(3, 4), (3, 4), (5, 2)], "title", alt="five"),
        charts.null_shares([counting.LayerCount("a", "Linear", 1, 2, 4, 2, 2)], "title", alt="five"),
        charts.change_by_layer({"same": same}, alt="five"),
        charts.lines([8, 16], {"float32": [1e-7, 2e-7]}, "title", "x", "y", alt="five", guides={"one": [1, 1]}),
        pictures.heatmaps([torch.rand(7, 7)] * 4, list("abcd"), "x", "y", "share", alt="five"),
        pictures.heatmaps([torch.rand(7, 7)], ["a"], "x", "y", "share", alt="five", shared=False, extent=(0, 1, 0, 1)),
        charts.strips({"a": {"x": [0.1, 0.5], "y": [0]}, "b": {"x": [1], "y": []}}, "title", "x", alt="five"),
        charts.against_band({"a": [1.0, 2.0]}, ("b", [0.5, 1.5], [2.0, 2.5]), "title", "x", "y", alt="five"),
        pictures.map_grid([[torch.rand(3, 8, 8), torch.rand(4, 4)]] * 2, ["x", "y"], ["image", "map"], alt="five"),
        charts.shaded_table(
            {("a", "c"): 1e-9, ("b", "c"): 0.0},
            {("a", "c"): "=", ("b", "c"): "≠"},
            ["a", "b"],
            ["c", "d"],
            "title",
            "label",
            alt="five",
        ),
        charts.waves({"a": torch.rand(7, 7), "b": torch.rand(7, 7)}, "title", "share", alt="five"),
        pictures.sheets({"a": [torch.rand(3, 7, 7)] * 36, "b": [torch.rand(3, 7, 7)] * 3}, alt="five"),
        drawings.vector(torch.rand(3, 7, 7), alt="five"),
        drawings.sums([torch.rand(3, 7, 7)] * 6, ["a", "b"], alt="five"),
        drawings.nearest_valid(alt="five"),
        charts.histogram({"n = 2": [0.1, 0.5]}, "t", "x", "five", {"law": ([0, 1], [1, 0])}, {"mean": 0.3}),
    ]


def test_every_figure_is_a_picture_with_an_alternative_text():
    for figure in figures():
        assert Image.open(io.BytesIO(figure.data)).size[0] > 300
        data, metadata = figure._repr_mimebundle_()
        assert "image/png" in data and metadata["image/png"]["alt"] == "five"


def test_a_table_can_be_sorted_and_quotes_what_it_is_given():
    page = pictures.table([("a <b>", 1234), ("c", 5)], ["name", "n"], caption="some & all").data
    assert "a &lt;b&gt;" in page and "1,234" in page and "some &amp; all" in page
    assert page.count("<button") == 2 and page.count("<tr>") == 3 and "ariaSort" in page


def test_a_label_map_has_each_label_in_its_colour():
    colours = pictures.colours(["road", "sky"])
    labels = torch.tensor([[1, 0, 0], [0, 1, 0]])
    picture = pictures.label_map(labels, colours)
    assert picture.shape == (3, 2, 3) and len(set(colours.values())) == 2
    for row in range(2):
        for column in range(3):
            expected = colours[("road", "sky")[labels[row, column]]]
            assert picture[:, row, column].tolist() == pytest.approx(expected)


def test_a_legend_leaves_the_pictures_as_they_are():
    drawn = [torch.rand(3, 30, 40) for _ in range(2)]
    plain, explained = (
        np.asarray(Image.open(io.BytesIO(pictures.images(drawn, list("ab"), "", legend=legend).data)))
        for legend in (None, pictures.colours(["road", "sky"]))
    )
    assert explained.shape[0] > plain.shape[0]
    np.testing.assert_array_equal(explained[: plain.shape[0] - 2], plain[:-2])


def test_boxes_are_drawn_where_they_are():
    image, colours = torch.zeros(3, 20, 30), {"sky": (0.0, 0.0, 1.0), "car": (1.0, 0.0, 0.0), "person": (0.0, 1.0, 0.0)}
    found = dict(boxes=torch.tensor([[4.0, 5, 14, 12], [20, 2, 26, 18]]), labels=torch.tensor([1, 0]))
    drawn = pictures.with_boxes(image, found, ["car", "person"], colours)
    assert drawn[:, 5, 4].tolist() == drawn[:, 12, 14].tolist() == [0, 1, 0] and drawn[:, 8, 9].max() == 0
    assert drawn[:, 2, 20].tolist() == [1, 0, 0]
    none = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    assert torch.equal(pictures.with_boxes(image, none, ["car", "person"], colours), image)


def test_pictures_and_titles_must_match():
    with pytest.raises(ValueError, match="2 pictures.*not 1 title"):
        pictures.images([torch.rand(3, 8, 8)] * 2, ["a"], alt="")
    with pytest.raises(ValueError, match="2 matrices.*not 1 title"):
        pictures.heatmaps([torch.rand(7, 7)] * 2, ["a"], "x", "y", "share", alt="")


def test_heat_maps_need_a_label_a_row_and_a_title_a_column():
    with pytest.raises(ValueError, match=r"1 labels and 2 titles do not fit rows of lengths \[1\]"):
        pictures.map_grid([[torch.rand(4, 4)]], ["x"], ["a", "b"], alt="")


def test_maps_of_a_column_share_one_scale():
    figure = pictures.map_grid([[torch.zeros(2, 2)], [torch.ones(2, 2)]], ["x", "y"], ["map"], alt="")
    colours = Image.open(io.BytesIO(figure.data)).convert("RGB").getcolors(1 << 24)
    seen = {colour: count for count, colour in colours}
    for end in (0.0, 1.0):  # each map is a square of one colour, larger than the bar that shows the scale
        assert seen[colormaps["cividis"](end, bytes=True)[:3]] > 10_000


def test_a_perturbation_is_centred_on_grey():
    picture = pictures.perturbation(torch.tensor([-2.0, 0.0, 1.0]))
    torch.testing.assert_close(picture, torch.tensor([0.0, 0.5, 0.75]))


@pytest.mark.parametrize("size", [7, 75, 112, 224, 300])
def test_every_pixel_of_a_picture_is_a_square_of_equal_size(size):
    picture = (torch.arange(size) % 2 / 2).expand(3, size, size)  # black and grey columns, on white
    png = pictures.images([picture] * 3, ["a", "b\nc", ""], alt="", columns=2).data
    row = np.asarray(Image.open(io.BytesIO(png)).convert("L"))[-10]  # through the third picture
    squares = row[row < 255].reshape(size, max(1, 286 // size))
    assert (squares == squares[:, :1]).all() and set(squares[::2, 0]) == {0} and set(squares[1::2, 0]) <= {127, 128}
