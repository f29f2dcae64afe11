import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from collide_utils import counting, models, symbol, weights


def published():
    return {row["model"]: tuple(row.values())[1:] for row in counting.published()}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("resnet18", (21, 17, 17, 26771, 83)),
        ("resnet50", (54, 33, 33, 40683, 83)),
        ("vgg16_bn", (16, 14, 14, 53336, 0)),
    ],
)
def test_shapes_give_the_tables_lower_bound(name, row):
    found = counting.count(name)
    assert (found.n, found.nu, found.mu, found.total_nullity, found.first_nullity) == row
    assert found.name == name and found.skipped == () and found.error is None


@pytest.mark.parametrize(
    ("name", "layers", "weights", "n"), [("resnet18", 6, 17, 21), ("resnet50", 22, 33, 54), ("vgg16_bn", 2, 14, 16)]
)
def test_few_layers_have_the_null_space_of_their_weights_on_images(name, layers, weights, n):
    found = counting.count(name)
    assert (found.nu_layers, found.nu, found.n) == (layers, weights, n)
    # By hand: a window of at least the stride touches all pixels of a cell, a shortcut of stride 2 one in four.
    expected = 0
    for layer in models.shapes_only(name).modules():
        if isinstance(layer, nn.Conv2d):
            seen = 1 if layer.kernel_size == (1, 1) else layer.stride[0] ** 2
            expected += layer.out_channels < layer.in_channels * layer.stride[0] ** 2 or seen < layer.stride[0] ** 2
        elif isinstance(layer, nn.Linear):
            expected += layer.out_features < layer.in_features
    assert expected == layers


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 3, 1, stride=2)
        ),
        nn.Sequential(
            nn.ConvTranspose2d(6, 2, 2, stride=2), nn.ConvTranspose2d(2, 3, 1, stride=2), nn.Conv1d(4, 6, 2, 2)
        ),
        nn.Sequential(nn.Linear(5, 3), nn.MultiheadAttention(4, 2, kdim=7)),
    ],
)
def test_the_column_of_layers_is_what_the_symbol_says(model):
    for layer in model:
        if hasattr(layer, "kernel_size"):
            layer.weight.data[:1] = 0
    for row in counting.per_layer(model):
        layer = model.get_submodule(row.name)
        assert row.cell_nullity == (symbol.cell_nullity(layer) if hasattr(layer, "kernel_size") else row.nullity)


def test_vgg_has_the_same_shapes_without_batch_normalisation():
    shapes = [[(row.rows, row.columns) for row in counting.per_layer(name)] for name in ("vgg16", "vgg16_bn")]
    assert shapes[0] == shapes[1]


def test_one_of_six_weights_of_a_transformers_block_narrows():
    blocks = [row for row in counting.per_layer("vit_b_32") if row.name.startswith("encoder.layers.")]
    assert len(blocks) == 12 * 6
    assert all(row.wide == (place % 6 == 5) for place, row in enumerate(blocks))


# ν, μ, sum of the nullities, nullity of the first weight: published minus what the shapes alone imply. The notebook
# explains each.
DIFFERENCES = {
    "ResNet-18 (regular)": (0, 0, 7, 7),
    "ResNet-18 (L2-secure, ε = 0.01)": (0, 0, 1, 1),
    "ResNet-18 (L2-secure, ε = 0.25)": (0, 0, 0, 0),
    "ResNet-18 (L2-secure, ε = 5)": (0, 0, 0, 0),
    "ResNet-50 (regular)": (3, 0, 18, 1),
    "ResNet-50 (L2-secure, ε = 0.01)": (0, 0, 1, 0),
    "ResNet-50 (L2-secure, ε = 0.25)": (0, 0, 1, 0),
    "ResNet-50 (L∞-secure, ε = 0.5)": (0, 0, 1, 0),
    "VGG-16 (regular)": (1, 0, 21, 0),
    "VGG-16 (L2-secure, ε = 3)": (1, 0, 1213, 0),
}


def test_the_published_table_differs_from_the_shapes_as_the_notebook_says():
    found = {}
    for name, (builder, nu, _, mu, _, total, first) in published().items():
        shape = counting.count(builder)
        found[name] = (nu - shape.nu, mu - shape.mu, total - shape.total_nullity, first - shape.first_nullity)
    assert found == DIFFERENCES


def test_percentages_are_cut_off_as_published():
    for builder, nu, nu_percent, mu, mu_percent, total, first in published().values():
        row = counting.NullityCount(builder, counting.count(builder).n, nu, mu, total, first)
        assert row.truncated_percents == (nu_percent, mu_percent)
        assert row.nu_percent == pytest.approx(100 * nu / row.n)
        assert row.mu_percent == pytest.approx(100 * mu / row.n)


def by_hand(module):
    """Nullity of every weight as the explicit matrix of what the layer does to one window, or to one pixel."""
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            found.append(layer.weight.detach().numpy())
        elif isinstance(layer, nn.modules.conv._ConvNd):
            size = math.prod(layer.kernel_size)
            spatial = [1] * len(layer.kernel_size) if layer.transposed else layer.kernel_size
            inputs = layer.in_channels * (1 if layer.transposed else size)
            units = torch.eye(inputs).view(inputs, layer.in_channels, *spatial)
            with torch.no_grad():
                found.append(layer(units).flatten(1).T.numpy())
    return [matrix.shape[1] - np.linalg.matrix_rank(matrix.astype(float), rtol=1e-5) for matrix in found]


@settings(max_examples=40)
@given(
    st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
)
def test_convolutions_count_as_the_matrix_of_what_they_do(kind, groups, inputs, outputs, size, dead):
    layer = kind(groups * inputs, groups * outputs, size, groups=groups, bias=False)
    if dead:
        layer.weight.data[0] = 0
    (row,) = counting.per_layer(nn.Sequential(layer), rtol=1e-5)
    assert [row.nullity] == by_hand(layer)
    assert row.nullity >= 0 and row.wide == (row.columns > row.rows)


def test_groups_are_the_blocks_of_a_block_diagonal_matrix():
    layer = nn.Conv2d(6, 9, 2, groups=3, bias=False)
    layer.weight.data[3:6] *= 1e-8  # the second block, negligible beside the others but not on its own
    (row,) = counting.per_layer(layer)
    explicit = scipy.linalg.block_diag(*layer.weight.detach().view(3, 3, 8).numpy())
    assert row.nullity == explicit.shape[1] - np.linalg.matrix_rank(explicit) == 24 - 6


def test_attention_has_three_weights_and_an_output():
    for layer, nullities in (
        (nn.MultiheadAttention(4, 2), [0, 0, 0, 0]),
        (nn.MultiheadAttention(4, 2, kdim=7, vdim=5), [0, 3, 1, 0]),
    ):
        rows = counting.per_layer(layer)
        assert [row.kind.split()[-1] for row in rows[:3]] == ["query", "key", "value"]
        assert [row.nullity for row in rows] == nullities
    layer = nn.MultiheadAttention(4, 2)
    layer.in_proj_weight.data[4:8] = 1  # the key's rows
    assert [row.nullity for row in counting.per_layer(layer)] == [0, 3, 0, 0]


def test_what_is_not_counted_is_listed():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2), nn.LSTM(2, 3), nn.LayerNorm(4))
    assert counting.count(model).skipped == ("0.weight", "2.weight_ih_l0", "2.weight_hh_l0")


def test_a_network_without_any_weight_is_an_error():
    with pytest.raises(ValueError, match="ReLU has no convolution, linear or attention layer"):
        counting.count(nn.ReLU())


def test_a_module_counts_as_its_shapes_when_it_has_full_rank():
    network = get_model("mobilenet_v3_small", weights=None)
    found, shape = counting.count(network), counting.count("mobilenet_v3_small")
    assert (found.n, found.nu, found.mu, found.total_nullity) == (shape.n, shape.nu, shape.mu, shape.total_nullity)
    assert found.name == "MobileNetV3"


def test_executors_change_nothing(patchnet):
    with ThreadPoolExecutor(2) as executor:
        assert counting.per_layer(patchnet, executor=executor) == counting.per_layer(patchnet)
        names = ["resnet18", "googlenet", "fcn_resnet50", "swin_t"]
        assert counting.atlas(names, executor) == [counting.count(name) for name in names]


def test_the_atlas_holds_every_builder_that_is_not_quantised(shapes, monkeypatch):
    monkeypatch.setattr(models, "shapes_only", shapes.__getitem__)
    rows = counting.atlas()
    assert [row.name for row in rows] == models.builders() and not any("quantized" in row.name for row in rows)
    assert {"resnet18", "regnet_y_400mf", "fcn_resnet50", "maskrcnn_resnet50_fpn", "r3d_18", "raft_small"} <= {
        row.name for row in rows
    }
    assert all(0 < row.mu <= row.n and row.nu == row.mu and row.first_nullity <= row.total_nullity for row in rows)


@pytest.mark.parametrize("name", ["regnet_x_400mf", "inception_v3", "ssdlite320_mobilenet_v3_large"])
def test_skeletons_have_the_shapes_of_the_networks(name):
    options = {"weights_backbone": None} if "ssd" in name else {}
    options |= {"init_weights": False} if "inception" in name else {}
    shapes = [(w.name, w.matrix.shape) for w in weights.layer_weights(get_model(name, weights=None, **options))]
    found = weights.layer_weights(models.shapes_only(name))
    assert [(w.name, w.matrix.shape) for w in found] == shapes and all(w.matrix.is_meta for w in found)


def test_unknown_builders_are_named():
    with pytest.raises(ValueError, match="no network called 'resnet_18'; near matches: resnet18"):
        counting.count("resnet_18")
    with pytest.raises(ValueError, match="'quantized_resnet18'.*quantised ones"):
        counting.count("quantized_resnet18")
    with pytest.raises(ValueError, match="rtol must be"):
        counting.count(nn.Linear(2, 2), rtol=2)


def test_a_folder_is_counted_to_its_end(tmp_path, patchnet):
    torch.save(get_model("squeezenet1_1", weights=None).state_dict(), tmp_path / "squeezenet1_1-mine.pth")
    models.save(models.load("patchnet"), tmp_path / "ours.safetensors")
    (tmp_path / "resnet18_l2_eps1.ckpt").write_bytes(b"half a file")
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "mystery.pt")
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    (tmp_path / "folder.pt").mkdir()
    torch.save({0: torch.ones(2, 2)}, tmp_path / "resnet18-numbered.pt")
    torch.save(
        {"module.normalizer.new_mean": torch.ones(3), "module.model.fc.weight": torch.ones(2, 2)},
        tmp_path / "resnet18-robust.pt",
    )
    save_file({"a": torch.ones(1)}, tmp_path / "resnet18-ours.safetensors", {"stem": "patch", "categories": "null"})
    half = get_model("squeezenet1_1", weights=None).bfloat16()
    torch.save({"net": half.state_dict()}, tmp_path / "squeezenet1_1.tar")
    rows = {row.name: row for row in counting.count_folder(tmp_path)}
    assert list(rows) == [
        "folder.pt",
        "mystery.pt",
        "ours.safetensors",
        "resnet18-numbered.pt",
        "resnet18-ours.safetensors",
        "resnet18-robust.pt",
        "resnet18_l2_eps1.ckpt",
        "squeezenet1_1-mine.pth",
        "squeezenet1_1.tar",
    ]
    assert [name for name, row in rows.items() if row.error is None] == [
        "ours.safetensors",
        "squeezenet1_1-mine.pth",
        "squeezenet1_1.tar",
    ]
    assert rows["squeezenet1_1.tar"].total_nullity == counting.count("squeezenet1_1").total_nullity
    assert "of no torchvision classifier" in rows["mystery.pt"].error and rows["mystery.pt"].n is None
    assert "not a whole checkpoint" in rows["resnet18_l2_eps1.ckpt"].error
    assert rows["ours.safetensors"].total_nullity == counting.count(models.load("patchnet")).total_nullity
    assert rows["squeezenet1_1-mine.pth"].n == counting.count("squeezenet1_1").n


def test_a_folder_without_checkpoints_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file that ends in .pt"):
        counting.count_folder(tmp_path)
    with pytest.raises(NotADirectoryError, match="missing"):
        counting.count_folder(tmp_path / "missing")


class Shortcut(nn.Module):
    """Narrows to 6 outputs beside a shortcut, adds 20, and narrows to 5 again."""

    def __init__(self):
        super().__init__()
        self.inside, self.widen, self.after = nn.Linear(12, 6), nn.Linear(6, 12), nn.Linear(12, 5)
        self.block, self.relu = nn.Identity(), nn.ReLU()

    def forward(self, x):
        x = x.flatten(1)
        x = self.block(x + self.relu(self.widen(self.relu(self.inside(x)))))
        return {"logits": self.after(x)}


def test_collisions_are_guaranteed_from_the_first_narrow_layer_that_nothing_bypasses():
    assert counting.first_guaranteed(Shortcut(), (3, 2, 2)) == ("after", 5)
    assert counting.first_guaranteed(nn.Sequential(nn.Flatten(), nn.Linear(12, 11)), (3, 2, 2)) == ("1", 11)
    assert counting.first_guaranteed(nn.Sequential(nn.Flatten(), nn.Linear(12, 12)), (3, 2, 2)) is None
    assert counting.first_guaranteed("resnet18") == ("layer2.0", 128 * 28 * 28)
    assert counting.first_guaranteed("resnet50") == ("layer4.0", 2048 * 7 * 7)
    assert counting.first_guaranteed("vit_b_32") == ("conv_proj", 768 * 7 * 7)
    with pytest.raises(ValueError, match="give input_shape"):
        counting.first_guaranteed("fasterrcnn_resnet50_fpn")
    with pytest.raises(ValueError, match="Shortcut has no input_size; give input_shape"):
        counting.first_guaranteed(Shortcut())


def test_a_shape_may_be_given_where_it_would_be_guessed_wrong():
    grey = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3 * 7 * 7, 5))
    grey.input_size = 8  # of one channel, which a number does not say
    for call in (counting.count, counting.per_layer):
        with pytest.raises(ValueError, match=r"\(3, 8, 8\), .* give the input_shape that it takes"):
            call(grey)
    assert counting.count(grey, input_shape=(1, 8, 8)).n == len(counting.per_layer(grey, input_shape=(1, 8, 8))) == 2


@pytest.mark.parametrize("window", [1, 3])
def test_active_outputs_are_the_distinct_rows_of_the_jacobian(window):
    model = nn.Sequential(nn.Conv2d(3, 4, window, padding=window // 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)).double()
    image = torch.rand(3, 6, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: model(y[None]).flatten(), image).flatten(1)
    rows = {tuple(row) for row in jacobian.mul(1e6).round().tolist() if any(row)}
    for layer, at_most in (("2", 36), ("1", 144), ("0", 144)):
        count = counting.active_outputs(model, layer, image)
        assert count <= at_most and (layer != "2" or count == len(rows))
    assert torch.linalg.matrix_rank(jacobian) <= len(rows)
