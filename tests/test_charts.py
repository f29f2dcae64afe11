"""What the charts draw, read from the artists of the figure before it becomes a picture."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from collide_utils.show import charts


@pytest.fixture(autouse=True)
def _figures(monkeypatch):
    monkeypatch.setattr(charts, "to_image", lambda figure, alt: figure)


def curves(figure):
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def look(line):
    return line.get_marker(), line.get_linestyle(), to_hex(line.get_color())


SERIES = {f"series {k}": [k + 1.0, k + 2.0, k + 3.0] for k in range(20)}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.lines([1, 2, 4], SERIES, "t", "x", "y", "alt"),
        lambda: charts.lines([1, 2, 4], {"one": [1, 2, 3]}, "t", "x", "y", "alt", guides=SERIES),
        lambda: charts.against_band(SERIES, ("band", [0, 0, 0], [9, 9, 9]), "t", "x", "y", "alt"),
        lambda: charts.change_by_layer(
            {name: SimpleNamespace(changes=dict(zip("abc", values, strict=True))) for name, values in SERIES.items()},
            "alt",
        ),
        lambda: charts.lines_apart([1, 2, 4], {"panel": SERIES}, "x", "y", "alt"),
    ],
)
def test_every_series_is_drawn_as_it_is(draw):
    drawn = curves(draw())
    for name, values in SERIES.items():
        assert list(drawn[name].get_ydata()) == values


def test_no_two_series_look_alike():
    drawn = curves(charts.lines([1, 2, 4], SERIES, "t", "x", "y", "alt"))
    assert len({look(line) for line in drawn.values()}) == len(SERIES)


def test_lines_have_the_scales_and_the_marks_that_they_are_given():
    axis = charts.lines([1, 2, 4], {"a": [3, 1, 2]}, "t", "x", "y", "alt", yscale="linear").axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "linear")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "4"]
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("t", "x", "y")
    assert list(axis.lines[0].get_xdata()) == [1, 2, 4]


def test_changes_are_drawn_in_forward_order_and_zero_at_the_floor():
    found = SimpleNamespace(changes={"conv1": 0.0, "relu": 1e-3, "logits": 1e-9})
    axis = charts.change_by_layer({"a": found}, "alt").axes[0]
    assert list(axis.lines[0].get_ydata()) == [1e-17, 1e-3, 1e-9]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["conv1", "relu", "logits"]


def test_a_band_has_its_edges():
    figure = charts.against_band({"a": [1.0, 2.0]}, ("band", [0.5, 1.5], [3.0, 4.0]), "t", "x", "y", "alt")
    corners = {tuple(point) for path in figure.axes[0].collections[0].get_paths() for point in path.vertices}
    assert {(1.0, 0.5), (2.0, 1.5), (2.0, 4.0), (1.0, 3.0)} <= corners


def test_a_histogram_has_the_area_of_its_share():
    axis = charts.histogram({"a": [0.1, 0.2, 0.3, 5.0], "b": [0.1], "c": [0.2]}, "t", "x", "alt", upper=2).axes[0]
    assert len(axis.containers) == 3
    heights = np.array([bar.get_height() for bar in axis.containers[0]])
    assert heights.sum() * 2 / 40 == pytest.approx(3 / 4) and axis.get_xlim() == (0, 2)


def test_strips_put_every_number_on_its_group_from_the_top():
    groups = {"first": {"a": [0.1, 0.9], "b": [0.2]}, "second": {"a": [0.5], "b": [0.3, 0.4]}}
    axis = charts.strips(groups, "t", "x", "alt").axes[0]
    drawn = {line.get_label(): sorted(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axis.lines}
    assert drawn == {"a": [(0.1, 0), (0.5, 1), (0.9, 0)], "b": [(0.2, 0), (0.3, 1), (0.4, 1)]}
    assert axis.get_ylim() == (1.5, -0.5) and axis.get_xlim() == (-0.02, 1.02)


def test_a_shaded_table_has_each_number_in_its_cell_its_mark_and_its_limits():
    values = {("r1", "c1"): 1e-3, ("r1", "c2"): 0.0, ("r2", "c1"): 50.0}
    axis = charts.shaded_table(
        values, dict.fromkeys(values, "=") | {("r2", "c1"): "≠"}, ["r1", "r2"], ["c1", "c2"], "t", "scale", "alt"
    ).axes[0]
    shades = np.array(axis.images[0].get_array().filled(np.nan))
    assert shades[0].tolist() == [-3, -16] and shades[1, 0] == 0 and np.isnan(shades[1, 1])
    assert axis.images[0].get_clim() == (-16, 0)
    marks = {text.get_position(): text.get_text() for text in axis.texts}
    assert marks == {(0, 0): "=", (1, 0): "=", (0, 1): "≠"}
    colours = {text.get_position(): text.get_color() for text in axis.texts}
    assert colours[1, 0] == "white" and colours[0, 1] == "black"
    assert [label.get_text() for label in axis.get_yticklabels() if label.get_text()][:2] == ["r1", "r2"]


def test_bars_stand_in_the_order_given():
    axis = charts.bars({"b": 2.0, "a": 5.0}, "t", "y", "alt").axes[0]
    assert [bar.get_height() for bar in axis.patches] == [2, 5]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["b", "a"]


def test_null_shares_divide_each_row_at_its_rank():
    rows = [
        SimpleNamespace(name=name, groups=1, rows=3, columns=columns, nullity=nullity)
        for name, columns, nullity in (("a", 4, 1), ("b", 8, 6))
    ]
    seen, unseen = charts.null_shares(rows, "t", "alt").axes[0].containers
    assert [bar.get_width() for bar in seen] == [0.75, 0.25]
    assert [(bar.get_x(), bar.get_width()) for bar in unseen] == [(0.75, 0.25), (0.25, 0.75)]
