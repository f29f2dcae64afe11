import copy
import threading
import time

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from collide_utils.comparison import Comparison, compare


def small():
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Conv2d(3, 8, 3), relu, nn.Conv2d(8, 8, 3), relu, nn.Flatten(), nn.Linear(8 * 4, 5)).eval()


def images():
    return torch.rand(3, 6, 6), torch.rand(3, 6, 6)


def blind_to_the_difference(model, x, y):
    """Take from the second convolution's filters what sees any window of the difference of x and y there."""
    with torch.no_grad():
        windows = F.unfold(model[:2](y[None]) - model[:2](x[None]), 3)[0]
        seen = torch.linalg.qr(windows)[0]
        weight = model[2].weight.flatten(1)
        model[2].weight.copy_((weight - weight @ seen @ seen.T).view_as(model[2].weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_changes_are_those_of_the_layers_run_by_hand(dtype):
    model, (x, y) = small().to(dtype), [image.to(dtype) for image in images()]
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
    blind_to_the_difference(model, x, y)
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


def printed(changes):
    changes = {str(number): change for number, change in enumerate(changes)}
    found = Comparison(changes, 1e-12, None, None, ("a", "a"), "both are 'a'", None, None, None)
    return [line.split() for line in repr(found).splitlines()[1:-2]]


@pytest.mark.parametrize(("place", "words"), [(7, "rounding"), (8, "…"), (11, "…"), (12, "rounding")])
def test_hidden_rows_have_one_word_if_it_is_the_same(place, words):
    assert printed([float(number == place) for number in range(13)])[8] == ["…", "4", "more", words]


def test_ten_rows_are_printed_and_of_eleven_two_are_hidden():
    assert printed([0.0] * 10) == [[str(number), "rounding"] for number in range(10)]
    assert printed([0.0] * 11)[7:] == [["7", "rounding"], ["…", "2", "more", "rounding"], ["10", "rounding"]]


def test_bad_images_are_named():
    model, (x, y) = nn.Conv2d(3, 2, 3), images()  # for images of any size
    for bad, error, text in [
        (x[None], ValueError, r"\(1, 3, 6, 6\)"),
        (torch.rand(3, 6, 7), ValueError, "differ in shape"),
        (x.byte(), TypeError, "uint8"),
        (x.numpy(), TypeError, "ndarray"),
        (x * float("nan"), ValueError, "NaN"),
    ]:
        for pair in ((y, bad), (bad, y)):
            with pytest.raises(error, match=text):
                compare(model, *pair)


def test_hooks_are_gone_afterwards():
    model, (x, y) = small(), images()
    compare(model, x, y)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_runs_in_eval_mode_whatever_the_mode_is():
    model, (x, y) = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(128, 5)),
        images(),
    )
    expected = compare(model.eval(), x, y)
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    found = compare(model, x, y)
    assert found.changes == expected.changes
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Counts(nn.Module):
    """Counts its runs in buffers, in place and not, and is random also in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))
        self.head = nn.Linear(108, 3)

    def forward(self, x):
        self.runs += 1
        self.steps = self.steps + 1
        return self.head(x.flatten(1) + 0.1 * torch.rand(1, 108, dtype=x.dtype))


def test_a_random_network_is_compared_with_the_same_draw_and_its_buffers_are_put_back():
    model, (x, _) = Counts(), images()
    state = torch.get_rng_state()
    found = compare(model, x, x)
    assert max(found.changes.values()) == 0 and (model.runs, model.steps) == (0, 0)
    assert torch.equal(state, torch.get_rng_state())


class InPlace(nn.Module):
    """Normalises as some networks do: into the tensor that it is given."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(108, 5)

    def forward(self, x):
        return self.head(x.sub_(0.5).div_(0.25).flatten(1))


def test_a_network_that_normalises_in_place_does_not_write_into_the_photograph():
    model, (x, y) = InPlace(), images()
    kept = x.clone(), y.clone()
    found = compare(model, x, y)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    torch.testing.assert_close(found.logits[0].float(), model.head(((x - 0.5) / 0.25).flatten()).detach())


def test_what_float32_rounds_away_is_not_called_a_collision():
    model, (x, y) = small(), images()
    model[5].weight.data.mul_(1e-8)  # the bias drowns what the images have to say
    found = compare(model, x, y)
    assert found.changes["5"] <= found.bound and found.collides_from is None
    assert found.verdict.startswith("cannot tell in float32, which rounds away a change of up to ")


def test_a_head_of_zeros_is_no_collision_of_two_images():
    model, (x, y) = small(), images()
    model[5].weight.data.zero_()
    for kind in (model, model.double()):
        found = compare(kind, x, y)
        assert found.collides_from is None and "from 5 on Sequential is blind to noise" in found.verdict


def test_a_collision_in_float32_is_confirmed_in_float64():
    model = nn.Sequential(nn.Conv2d(3, 2, 2, stride=2), nn.Flatten(), nn.Linear(18, 4))
    model[0].weight.data[:, 1] = model[0].weight.data[:, 0]
    x, shift = torch.rand(3, 6, 6, dtype=torch.float64), torch.rand(6, 6, dtype=torch.float64)
    y = x + torch.stack([shift, -shift, 0 * shift])
    found = compare(model, x, y)
    assert found.collides_from == "0" and found.doubt is None
    assert found.verdict.startswith("the features collide from 0 on")


def test_a_black_image_does_not_make_the_bound_infinite():
    model, (x, y) = small().double(), images()
    found = compare(model, torch.zeros_like(x), y)
    growth = float(y.norm()) / (0.1 * y.numel() ** 0.5)  # as if the black image were a tenth of white
    assert found.bound == pytest.approx(64 * 2**-52 * growth, rel=1e-6, abs=0) and found.collides_from is None


def test_the_bound_grows_with_the_other_image_and_not_below_its_rounding():
    x, _ = images()
    for factor in (0.0, 0.5, 1.0, 3.0):
        expected = 64 * 2**-23 * max(1, factor)
        assert compare(small(), x, factor * x).bound == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("size", "collides"), [(1e12, True), (1e14, False)])
def test_a_perturbation_that_drowns_the_features_in_rounding_proves_nothing(size, collides):
    # A shift that the channels' sum takes away, whatever its size, as a whole number: 64 · eps · 1e14 is 1.4.
    model = nn.Sequential(nn.Conv2d(3, 2, 2, stride=2, bias=False)).double()
    model[0].weight.data[:, 1] = model[0].weight.data[:, 0]
    x, shift = torch.rand(3, 6, 6, dtype=torch.float64), torch.full((6, 6), size, dtype=torch.float64)
    found = compare(model, x, x + torch.stack([shift, -shift, 0 * shift]))
    assert found.collides_from == ("0" if collides else None)
    assert found.verdict.startswith("the features collide" if collides else "cannot tell, for rounding alone")


def test_a_collision_before_a_head_of_zeros_is_one():
    model, (x, y) = small().double(), [image.double() for image in images()]
    blind_to_the_difference(model, x, y)
    model[5].weight.data.zero_()
    assert compare(model, x, y).collides_from == "2"


def test_features_of_zero_are_as_near_as_can_be_or_infinitely_far():
    dead = nn.Sequential(nn.Flatten(), nn.ReLU()).double()
    x, y = -torch.rand(2, 3, 6, 6, dtype=torch.float64)
    assert compare(dead, x, y).changes["1"] == 0
    y[0, 0, 0] = 1
    assert compare(dead, x, y).changes["1"] == float("inf")


def test_what_is_returned_comes_last_although_a_layer_has_its_name():
    model = nn.Sequential()
    for name, layer in {"flat": nn.Flatten(), "logits": nn.Linear(108, 5), "after": nn.Tanh()}.items():
        model.add_module(name, layer)
    x, y = images()
    found = compare(model, x, y)
    assert list(found.changes) == ["flat", "after", "logits"]
    assert found.changes["logits"] == found.changes["after"]


def test_full_float32_is_used_and_the_flags_come_back():
    model, (x, y) = small(), images()
    torch.backends.fp32_precision = "tf32"
    try:
        found = compare(model, x, y)
        assert torch.backends.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = "none"
    with torch.autocast("cpu", torch.bfloat16):
        assert compare(model, x, y).changes == found.changes == compare(model, x, y).changes


class Waits(nn.Module):
    """Gives other threads time to come between."""

    def forward(self, x):
        time.sleep(0.002)
        return x


def test_threads_on_one_model_do_not_mix():
    (x, y), model = (
        images(),
        nn.Sequential(nn.Conv2d(3, 8, 3), Waits(), nn.Dropout(), nn.Flatten(), Waits(), nn.Linear(128, 5)).train(),
    )
    expected, found = compare(model, x, y), []
    threads = [threading.Thread(target=lambda: found.append(compare(model, x, y))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(one.changes == expected.changes for one in found)
    assert all(module.training for module in model.modules())


class Wrapped(nn.Module):
    def __init__(self, model, wrap):
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, x):
        return self.wrap(self.model(x))


def dense():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()


def test_a_map_of_labels_is_compared_pixel_by_pixel():
    x = torch.rand(3, 8, 8, dtype=torch.float64)
    y = x.clone()
    y[:, 2, 3] = torch.tensor([-9.0, 9.0, 9.0])
    model = Wrapped(dense(), lambda scores: {"out": scores, "names": ["a"], "none": None})
    model.categories = ["sky", "road", "car"]
    found, labels = compare(model, x, y), dense_labels(model, x, y)
    same = int((labels[0] == labels[1]).sum())
    assert found.agreement == f"{100 * same / 64 - 0.005:.2f} % of pixels have the same label" or same == 64
    assert list(found.changes)[-1] == "output.out" and found.logits is None and found.predictions is None
    most = int(labels[0].flatten().mode().values)
    share = 100 * float((labels[0] == most).double().mean())
    assert found.said[0] == f"{model.categories[most]} on {share:.0f} % of pixels"


def dense_labels(model, *images):
    with torch.no_grad():
        return [model(image[None])["out"].argmax(1) for image in images]


def test_a_share_of_pixels_is_never_rounded_up_to_all():
    model = Wrapped(nn.Identity(), lambda x: x)
    x = torch.rand(2, 200, 200)
    y = x.clone()
    y[:, 0, 0] = x[:, 0, 0].flip(0)
    assert compare(model, x, y).agreement == "99.99 % of pixels have the same label"
    assert compare(model, x, x).agreement == "100.00 % of pixels have the same label"


def test_boxes_match_one_to_one_by_place_and_label():
    def boxes(x):  # one for each row of the image
        return [{"boxes": 100 * x[0, 0, :, :4], "labels": x[0, 0, :, 4].round().long(), "scores": x[0, 0, :, 5]}]

    x = torch.rand(1, 7, 6)
    x[0, :, 4] = torch.arange(7)
    y = x.clone()
    y[0, 0, 4] = 5  # another label
    y[0, 1, 0] += 0.02  # two pixels off
    y[0, 2, 1] += 0.001
    y = y[:, [3, 4, 5, 6, 2, 1, 0]]
    found = compare(Wrapped(nn.Identity(), boxes), x, y)
    assert (found.said, found.agreement) == (("7 boxes", "7 boxes"), "5 boxes of 7 match")
    assert list(found.changes)[-3:] == ["output.0.boxes", "output.0.labels", "output.0.scores"]


def test_equal_labels_on_other_boxes_are_no_collision():
    def boxes(x):
        return [{"boxes": 100 * x[0, 0, :, :4], "labels": (x[0, 0, :, 4] > 0.5).long()}]

    x = torch.rand(3, 7, 6, generator=torch.Generator().manual_seed(1))
    found = compare(Wrapped(nn.Identity(), boxes), x, x + torch.eye(7, 6) * (torch.arange(6) < 4))
    assert found.changes["output.0.labels"] == 0 < found.changes["output.0.boxes"]
    assert found.collides_from is None and found.verdict == "no collision: 3 boxes of 7 match"


def test_another_number_of_boxes_is_no_crash():
    def boxes(x):
        seen = x[0, 0, x[0, 0, :, 0] > 0.5]
        return [{"boxes": seen[:, :4], "labels": seen[:, 4].round().long()}]

    x = torch.rand(1, 7, 6) / 2
    y = x.clone()
    y[0, :3, 0] = 0.75
    found = compare(Wrapped(nn.Identity(), boxes), x, y)
    assert found.agreement == "0 boxes of 3 match" and found.changes["output.0.boxes"] == float("inf")


def test_torchvisions_detectors_run():
    backbone = nn.Conv2d(3, 32, 8, stride=8)
    backbone.out_channels = 32
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(((8,),), ((1.0,),))
    model = torchvision.models.detection.FCOS(
        backbone, 2, 64, 64, anchor_generator=anchors, score_thresh=0.0, detections_per_img=7
    )
    x = torch.rand(3, 64, 64)
    found = compare(model, x, x)
    assert found.agreement == "7 boxes of 7 match" and "output.0.boxes" in found.changes


class Fields:
    def __init__(self, values):
        self.values, self.itself = values, self


def test_tuples_objects_with_fields_and_an_output_function():
    x, y = torch.rand(3, 6, 6), torch.rand(3, 6, 6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    plain = compare(model, x, y)
    for wrap in (lambda s: (s, s[0, :2]), lambda s: Fields([s]), lambda s: {"a": [s, (s,)]}):
        found = compare(Wrapped(model, wrap), x, y)
        if len([name for name in found.changes if name.startswith("output")]) > 1:
            assert found.logits is None and found.agreement.startswith("what is returned differs by ")
        else:
            assert found.predictions == plain.predictions
    found = compare(Wrapped(model, lambda s: {"a": s, "b": s}), x, y, output=lambda returned: returned["b"])
    assert found.predictions == plain.predictions and found.changes["logits"] == plain.changes["logits"]
    with pytest.raises(ValueError, match="Wrapped returns str, in which there is no tensor"):
        compare(Wrapped(model, str), x, y)


def test_networks_without_parameters_scripted_and_quantised_ones():
    x, y = torch.rand(3, 6, 6), torch.rand(3, 6, 6)
    assert compare(nn.Flatten(), x, y).logits.shape == (2, 108)
    scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)))
    assert list(compare(scripted, x, y).changes) == ["logits"]
    assert compare(scripted, x, x).collides_from == "logits" and compare(scripted, x, y).collides_from is None
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert compare(quantised, x, y).collides_from is None
    assert "in float64 Sequential does not run" in compare(quantised, x, x).verdict
