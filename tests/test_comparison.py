import pytest
import torch
from torch import nn

from collide_utils.comparison import compare


def small():
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Conv2d(3, 8, 3), relu, nn.Conv2d(8, 8, 3), relu, nn.Flatten(), nn.Linear(8 * 4, 5)).eval()


def images():
    return torch.rand(3, 6, 6), torch.rand(3, 6, 6)


def test_changes_are_those_of_the_layers_run_by_hand():
    model, (x, y) = small(), images()
    found = compare(model, x, y)
    assert list(found.changes) == ["0", "1", "2", "1 (2)", "4", "5", "logits"]
    first, second = x[None], y[None]
    for layer, change in zip(model, found.changes.values(), strict=False):
        with torch.no_grad():  # the ReLU works in place: give it copies
            first, second = layer(first.clone()), layer(second.clone())
        expected = (second - first).norm() / first.norm()
        assert change == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(found.logits, torch.cat([first, second]).double())
    assert found.predictions == (int(first.argmax()), int(second.argmax()))
    assert found.probabilities[1] == pytest.approx(float(second.softmax(1).max()), rel=1e-5)


def test_an_image_and_itself_collide_from_the_first_layer():
    model, (x, _) = small(), images()
    found = compare(model, x, x)
    assert found.collides_from == "0" and max(found.changes.values()) == 0
    assert "collide from 0" in found.verdict


def test_a_collision_in_the_middle_is_found_there():
    model, (x, y) = small().double(), [image.double() for image in images()]
    model[2].weight.data.zero_()
    found = compare(model, x, y)
    assert found.collides_from == "2" and found.changes["1"] > 0.1


def test_different_images_do_not_collide():
    model, (x, y) = small(), images()
    found = compare(model, x, y)
    assert found.collides_from is None
    assert found.verdict.startswith("no collision")


def test_a_tiny_difference_above_rounding_is_not_a_collision():
    model, (x, y) = small().double(), [image.double() for image in images()]
    found = compare(model, x, x + 1e-9 * y)
    assert found.collides_from is None


def test_bfloat16_that_rounds_a_change_as_large_as_the_image_cannot_tell():
    model, (x, y) = small().bfloat16(), images()
    assert compare(model, x, x + 1000 * y).verdict.startswith("cannot tell")


def test_it_prints_as_a_table_with_rounding_as_a_word():
    model, (x, y) = small(), images()
    text = repr(compare(model, x, x))
    assert text.splitlines()[0].split() == ["layer", "relative", "change"]
    assert text.count("rounding") == 8 and text.endswith(compare(model, x, x).verdict)
    model.categories = list("abcde")
    with torch.no_grad():
        probabilities, places = model(torch.stack([x, y])).softmax(1).max(1)
    expected = [f"{'abcde'[k]}, p = {p:.3f}" for k, p in zip(places, probabilities, strict=True)]
    assert compare(model, x, y).said == tuple(expected)


def test_long_networks_print_as_short_tables():
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(40))).append(nn.Flatten())
    x, y = images()
    lines = repr(compare(model, x, y)).splitlines()
    assert len(lines) == 13 and lines[9].startswith("… 33 more")


def test_bad_images_are_named():
    model, (x, y) = small(), images()
    for bad, error, text in [
        (x[None], ValueError, r"\(1, 3, 6, 6\)"),
        (torch.rand(3, 6, 7), ValueError, "differ in shape"),
        (x.byte(), TypeError, "uint8"),
        (x.numpy(), TypeError, "ndarray"),
        (x * float("nan"), ValueError, "NaN"),
    ]:
        with pytest.raises(error, match=text):
            compare(model, y, bad)


def test_hooks_are_gone_afterwards():
    model, (x, y) = small(), images()
    compare(model, x, y)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
