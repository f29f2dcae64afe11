import pytest
import torch
from torch import nn

from collide_utils import models, weights


def test_matrix_times_window_is_the_convolution():
    for layer in (nn.Conv2d(4, 6, (3, 2), bias=False), nn.Conv2d(4, 6, (3, 2), groups=2, bias=False)):
        found = weights.first_weight(nn.Sequential(layer))
        image = torch.randn(1, 4, 3, 2)
        blocks = found.matrix @ image.view(layer.groups, -1, 1)
        torch.testing.assert_close(blocks.flatten(), layer(image).flatten())
        assert found.kind == "Conv2d" and found.matrix.shape == (layer.groups, 6 // layer.groups, 24 // layer.groups)


def test_linear_weight_is_its_own_matrix():
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    (found,) = weights.layer_weights(model)
    assert (found.name, found.kind) == ("1", "Linear")
    assert torch.equal(found.matrix[0], model[1].weight)


class Backwards(nn.Module):
    """Registers its layers in the opposite order of use."""

    input_size = 8

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(5, 2)
        self.stem = nn.Conv2d(3, 5, 8)

    def forward(self, x):
        return self.head(self.stem(x).flatten(1))


def test_order_is_that_of_the_forward_pass():
    model = Backwards()
    assert [w.name for w in weights.layer_weights(model)] == ["stem", "head", "unused"]
    del Backwards.input_size
    try:
        assert [w.name for w in weights.layer_weights(model)] == ["unused", "head", "stem"]
        assert [w.name for w in weights.layer_weights(model, (3, 8, 8))] == ["stem", "head", "unused"]
    finally:
        Backwards.input_size = 8


def test_looking_leaves_the_model_as_it_was(patchnet):
    before = {key: value.clone() for key, value in patchnet.state_dict().items()}
    weights.layer_weights(patchnet)
    assert all(torch.equal(value, before[key]) for key, value in patchnet.state_dict().items())
    assert not any(module._forward_pre_hooks for module in patchnet.modules())


@pytest.mark.parametrize(("name", "count"), [("resnet18", 21), ("vgg11_bn", 11)])
def test_torchvision_networks_begin_with_their_stem(name, count):
    found = weights.layer_weights(models.load(name, weights=None))
    assert len(found) == count
    assert found[0].matrix.shape[-1] in (3 * 7 * 7, 3 * 3 * 3) and found[-1].kind == "Linear"


def test_no_layer_at_all_is_an_error():
    with pytest.raises(ValueError, match="ReLU has no convolution, linear or attention layer"):
        weights.first_weight(nn.ReLU())


@pytest.mark.parametrize(
    "model, size, text",
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 784, r"\(3, 784, 784\), the shape that its input_size = 784"),
        (nn.Sequential(nn.Conv2d(1, 3, 2)), 28, r"shape \(3, 28, 28\), .* give the input_shape that it takes"),
        (nn.Sequential(nn.Conv2d(1, 3, 2)), "28", "input_size = '28' is neither"),
        (nn.Sequential(nn.Conv2d(1, 3, 2)), (1, 1, 28, 28), r"input_size = \(1, 1, 28, 28\) is neither"),
        (nn.Sequential(nn.Conv2d(1, 3, 2)), 0, "input_size = 0 is neither"),
    ],
)
def test_a_guessed_shape_that_does_not_fit_is_named(model, size, text):
    model.input_size = size
    with pytest.raises(ValueError, match=text):
        weights.layer_weights(model)


def test_a_shape_is_taken_as_given_and_rows_and_columns_from_the_model():
    model = nn.Sequential(nn.Linear(784, 3))
    model.input_size = 784
    assert len(weights.layer_weights(model, (784,))) == 1
    with pytest.raises(ValueError, match=r"input of shape \(783,\): give"):
        weights.layer_weights(model, (783,))
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Flatten(), nn.Linear(3 * 7 * 5, 2))
    model.input_size = (8, 6)
    assert len(weights.layer_weights(model)) == 2
    model.input_size = (3, 8, 6)
    assert weights.default_shape(model) == (3, 8, 6) and len(weights.layer_weights(model)) == 2
    for bad in (28, (1, -28, 28), ("a", 2)):
        with pytest.raises(ValueError, match="does not run on an input of shape"):
            weights.layer_weights(model, bad)


class Scattered(nn.Module):
    """Two layers that its run does not call, one registered first and one in the middle."""

    def __init__(self):
        super().__init__()
        self.before, self.late, self.beside, self.early = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        return self.late(self.early(x))


def test_a_layer_that_is_not_called_follows_the_one_registered_before_it():
    assert [w.name for w in weights.layer_weights(Scattered(), (4,))] == ["early", "late", "beside", "before"]


class Turns(nn.Module):
    """Calls its layers in another order when it is trained."""

    def __init__(self):
        super().__init__()
        self.second, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.first(self.second(x)) if self.training else self.second(self.first(x))


def test_the_order_is_that_of_eval_mode_and_every_mode_is_restored():
    model = nn.Sequential(Turns(), nn.Dropout()).train()
    model[1].eval()
    assert [w.name for w in weights.layer_weights(model, (4,))] == ["0.first", "0.second"]
    assert [module.training for module in model.modules()] == [True, True, True, True, False]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_spectral_norm_in_training_takes_no_step(norm):
    model = norm(nn.Linear(6, 5)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (found,) = weights.layer_weights(model, (6,))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(found.matrix[0], model.eval().weight) or norm is nn.utils.spectral_norm


def test_scripted_and_quantised_networks_are_named():
    model = nn.Sequential(nn.Linear(4, 4))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    for closed in (torch.jit.script(model), quantised):
        with pytest.raises(ValueError, match="is scripted or quantised: its weights are not seen"):
            weights.layer_weights(closed)
    with pytest.raises(TypeError, match="Module, not str"):
        weights.layer_weights("resnet18")
