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
