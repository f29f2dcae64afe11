import ipywidgets

from collide_utils import charts, panels


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
