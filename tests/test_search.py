import copy
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import dense, layers
from torch import nn

from collide_utils import counting, images, models, nullspace, windows
from collide_utils.comparison import Reference, compare
from collide_utils.search import ClampWarning, NullSpaceSearch, OverlapWarning

RESNET18 = Path(__file__).resolve().parent.parent.parent / "shared" / "reference" / "resnet18_conv1.npy"
BETAS = [8 * 2**k for k in range(11)]


@pytest.mark.parametrize("name", images.names())
def test_patchnet_collides_on_every_photograph_at_every_beta(name, patchnet, search):
    photograph = images.load(name)
    references = [Reference(model, photograph) for model in (patchnet, models.load("patchnet"))]
    for v in (search.repeat(3), search.random(torch.Generator().manual_seed(1))):
        for beta in BETAS:
            double, float32 = (reference.compare(search.collide(photograph, v, beta)) for reference in references)
            assert double.changes["conv1"] < 1e-10
            assert float32.changes["conv1"] < 1e-3
            assert double.collides_from == float32.collides_from == "conv1"
            assert double.predictions[0] == double.predictions[1]
            assert float32.predictions[0] == float32.predictions[1]


def test_stridenet_does_not_collide(search):
    model = models.load("stridenet", dtype=torch.float64)
    with pytest.warns(OverlapWarning, match="overlap") as caught:
        own = NullSpaceSearch(model)
        v = own.random(torch.Generator().manual_seed(1))
    assert len(caught) == 1
    # Noise of the same size, which a stem hears whole: tiled null vectors are about a third as loud (the tests of the
    # symbol look at all of them), one alone may be less so. A collision leaves 1e-10 at most.
    noise = torch.randn(v.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise *= v.norm() / noise.norm()
    for name in images.names():
        photograph = images.load(name)
        reference = Reference(model, photograph)
        loud, *found = (
            reference.compare(own.collide(photograph, perturbation, 512))
            for perturbation in (noise, v, own.repeat(3), search.random(torch.Generator().manual_seed(1)))
        )
        assert all(one.changes["conv1"] > loud.changes["conv1"] / 10 for one in found)
        assert all(one.collides_from is None for one in found)


def test_every_perturbation_vanishes_under_the_dense_matrix_of_the_stem():
    # Stem and normalisation as one explicit matrix on a small image, built from unit images.
    model = models.SmallResNet("patch", ["a", "b"]).double().eval()
    shape = (3, 21, 23)
    search = NullSpaceSearch(model, shape)
    units = torch.cat([torch.zeros(1, 3 * 21 * 23), torch.eye(3 * 21 * 23)]).double().view(-1, *shape)
    with torch.no_grad():
        responses = model.conv1(model.normalize(units)).flatten(1)
    dense = (responses[1:] - responses[0]).T
    for v in (*(search.repeat(k) for k in range(83)), search.random()):
        assert (dense @ v.flatten()).abs().max() < 1e-13
    assert dense.shape[1] - nullspace.matrix_rank(dense, 1e-12) == 9 * 83 + 3 * (21 * 23 - 21 * 21)


@settings(deadline=None)
@given(layers(separate=True), st.integers(1, 2), st.integers(0, 2**31))
def test_mosaics_and_patterns_vanish_under_the_dense_stem(case, groups, seed):
    # Normalisation, bias, groups, gaps, dilation and padding: the stem as one matrix, brute force.
    (layer, (channels, *size)), generator = case, torch.Generator().manual_seed(seed)
    shape = (groups * channels, *size)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    normalize = models.Normalize(draw(shape[0]).tolist(), (0.1 + draw(shape[0])).tolist()).double()
    conv = nn.Conv2d(
        shape[0], groups * layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups
    ).double()
    nn.init.normal_(conv.weight, generator=generator)
    stem = nn.Sequential(normalize, conv)
    search = NullSpaceSearch(stem, shape)
    origin = torch.zeros(1, *shape, dtype=torch.float64)
    units = torch.eye(origin.numel(), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        matrix = (stem(units) - stem(origin)).flatten(1).T
    # One vector a window, and a vector scaled from window to window, as a pattern is.
    pattern = (2 * draw(*search.geometry.grid, 1) - 1) * search.basis[:, 0]
    for v in (search.random(generator), windows.tile(search.geometry, pattern)):
        assert (matrix @ v.flatten()).abs().max() <= 1e-12 * max(1, matrix.abs().max())


@settings(deadline=None, max_examples=30)
@given(layers(separate=True), st.integers(0, 2**31))
def test_what_the_network_sees_is_the_smallest_image_with_the_same_features(case, seed):
    layer, shape = case
    search = NullSpaceSearch(nn.Sequential(layer), shape)
    matrix = dense(layer, shape)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smallest = torch.linalg.pinv(matrix) @ (matrix @ image.flatten())
    torch.testing.assert_close(search.seen(image).flatten(), smallest, atol=1e-9, rtol=0)


def test_colliding_images_look_the_same_to_the_network(search, cat):
    seen = search.seen(cat)
    torch.testing.assert_close(search.seen(search.collide(cat, search.random(), 8192)), seen, atol=1e-12, rtol=0)
    torch.testing.assert_close(search.seen(seen), seen, atol=1e-13, rtol=0)


def test_the_pixel_space_weight_acts_on_windows_of_pixels(patchnet, search, cat):
    assert search.weight.shape == (64, 147) and search.complement.shape == (147, 64)
    with torch.no_grad():
        first, second = patchnet.conv1(patchnet.normalize(torch.stack([cat.double(), 1 - cat.double()])))
    change = windows.unfold(search.geometry, 1 - 2 * cat.double()) @ search.weight.T
    torch.testing.assert_close(change.permute(2, 0, 1), second - first, atol=1e-12, rtol=0)
    both = torch.cat([search.basis, search.complement], dim=1)
    torch.testing.assert_close(both @ both.T, torch.eye(147, dtype=torch.float64), atol=1e-13, rtol=0)


def test_the_tolerance_decides_what_is_null():
    layer = nn.Conv2d(1, 2, 2, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1e-3, 0, 0]]).view(2, 1, 2, 2))
    for rtol, count in ((None, 2), (1e-2, 3)):
        assert NullSpaceSearch(nn.Sequential(layer), (1, 4, 4), rtol=rtol).basis.shape == (4, count)
    with pytest.raises(ValueError, match="rtol"):
        NullSpaceSearch(nn.Sequential(layer), (1, 4, 4), rtol=1)


def vectors_by_tolerance(weight, rtols):
    """How many basis vectors there are, after a look at the responses to them: rtol of the largest response at most."""
    layer = nn.Conv2d(3, len(weight), 7, stride=7, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
    counts = {}
    for rtol in rtols:
        search = NullSpaceSearch(nn.Sequential(layer), (3, 7, 7), rtol=rtol)
        with torch.no_grad():
            responses = layer(search.basis.T.reshape(-1, 3, 7, 7)).flatten(1).norm(dim=1)
        assert responses.max() <= 1.001 * rtol * torch.linalg.matrix_norm(weight.double().flatten(1), 2)
        counts[rtol] = len(responses)
    return counts


@pytest.mark.parametrize("dead", [[1e-5, 8e-7, *6 * [1e-7]], [1e-9], [1e-5]])
def test_dead_filters_count_as_null_from_their_size_on(dead):
    # Weight decay leaves filters that training has given up between zero and what is alive. Table 1 has 90 vectors for
    # ResNet-18, and 84 for its secure variant; a stem of 64 filters has 83 whatever they are.
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in (64, 147))
    singular = torch.tensor([*torch.linspace(1, 0.1, 64 - len(dead)), *dead], dtype=torch.float64)
    rtols = (1e-10, 1e-8, 1e-6, 1e-4)
    counts = vectors_by_tolerance(left @ (singular[:, None] * right[:64]), rtols)
    assert counts == {rtol: 83 + sum(value <= rtol for value in dead) for rtol in rtols}


@pytest.mark.skipif(not RESNET18.exists(), reason="no weights of torchvision's ResNet-18")
def test_the_stem_of_resnet18_has_the_published_number_of_vectors_at_one_tolerance():
    counts = vectors_by_tolerance(torch.from_numpy(np.load(RESNET18)), (1e-10, 1e-7, 1e-6, 1e-4))
    published = next(row["first_nullity"] for row in counting.published() if row["builder"] == "resnet18")
    assert list(counts.values()) == [83, 89, published, 91]


def test_basis_is_orthonormal_in_pixel_space(search):
    assert search.basis.shape == (147, 83) and search.basis.dtype == torch.float64
    torch.testing.assert_close(search.basis.T @ search.basis, torch.eye(83, dtype=torch.float64), atol=1e-13, rtol=0)


def test_windows_have_unit_norm_and_the_chosen_vectors(search):
    indices = torch.randint(83, (32, 32))
    mosaic = search.mosaic(indices)
    assert mosaic.shape == (3, 224, 224)
    cut = nn.functional.unfold(mosaic[None], 7, stride=7)[0]
    torch.testing.assert_close(cut, search.basis[:, indices.flatten()])
    torch.testing.assert_close(cut.norm(dim=0), torch.ones(1024, dtype=torch.float64))
    torch.testing.assert_close(search.repeat(4), search.mosaic(torch.full((32, 32), 4)))


def test_random_follows_its_generator(search):
    draws = [search.random(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_beta_is_the_norm_of_a_windows_change_in_grey_levels(search, cat):
    change = 255 * (search.collide(cat, search.repeat(0), 8) - cat.double())
    torch.testing.assert_close(
        nn.functional.unfold(change[None], 7, stride=7)[0].norm(dim=0), torch.full((1024,), 8.0, dtype=torch.float64)
    )
    assert torch.equal(search.collide(cat, search.repeat(0), 0), cat.double())


def test_a_fully_connected_first_layer_is_searched_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    search = NullSpaceSearch(model, (2, 6, 5))
    x = torch.rand(2, 6, 5, dtype=torch.float64)
    assert search.basis.shape == (60, 53)
    assert compare(model, x, search.collide(x, search.repeat(0), 512)).collides_from == "1"


def test_a_grouped_first_layer_and_a_padded_one():
    for layer in (nn.Conv2d(4, 6, 3, stride=3, groups=2), nn.Conv2d(4, 6, 3, stride=4, padding=2)):
        model = nn.Sequential(layer, nn.ReLU()).double()
        search = NullSpaceSearch(model, (4, 12, 13))
        x = torch.rand(4, 12, 13, dtype=torch.float64)
        y = search.collide(x, search.random(), 4096)
        assert (x - y).abs().max() > 1
        assert compare(model, x, y).changes["0"] < 1e-12


def test_the_recipe_is_exact_on_an_untrained_vision_transformer():
    model = torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=64)
    model = model.double().eval()
    search = NullSpaceSearch(model, (3, 64, 64))
    x = images.load("flower", 64)
    comparison = compare(model, x, search.collide(x, search.random(), 512))
    assert next(iter(comparison.changes)) == comparison.collides_from == "conv_proj"


class Squared(nn.Module):
    def forward(self, x):
        return x**2


class Pointwise(nn.Module):
    """Affine in each pixel, but not the same map across a channel."""

    def forward(self, x):
        return x * torch.linspace(1, 2, x.shape[-1], dtype=x.dtype)


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (Squared(), r"not an affine map of each pixel \(called first: 0 \(Squared\)\)"),
        (nn.AvgPool2d(2), "not an affine map of each pixel"),
        (Pointwise(), "read alike"),
    ],
)
def test_a_first_layer_that_does_not_see_pixels_is_refused(before, text):
    model = nn.Sequential(before, nn.Conv2d(3, 4, 3, stride=3))
    with pytest.raises(ValueError, match=text):
        NullSpaceSearch(model, (3, 12, 12))


class First(nn.Module):
    """A first layer that sees what `before` makes of the image; `after` reads its output and the image."""

    def __init__(self, before, after=lambda features, image: features, layer=None):
        super().__init__()
        self.before, self.after = before, after
        self.first = layer or nn.Conv2d(3, 4, 3, stride=3)

    def forward(self, x):
        return self.after(self.first(self.before(x)), x)


def test_a_network_that_normalises_in_place_is_searched():
    search = NullSpaceSearch(First(lambda x: x.sub_(0.5).div_(0.25)), (3, 12, 12))
    plain = NullSpaceSearch(First(lambda x: (x - 0.5) / 0.25, layer=search_layer(search)), (3, 12, 12))
    torch.testing.assert_close(search.weight, plain.weight)


def search_layer(search):
    layer = nn.Conv2d(3, 4, 3, stride=3).double()
    with torch.no_grad():
        layer.weight.copy_(search.layer.matrix.view(4, 3, 3, 3))
    return layer


@pytest.mark.parametrize("clamp", [lambda x: x.clamp(0, 1), lambda x: x.clamp(-1, 2), lambda x: x.clamp_(0, 1)])
def test_a_network_that_clamps_its_images_collides_inside_only(clamp):
    with pytest.warns(ClampWarning, match="outside .0, 1."):
        search = NullSpaceSearch(First(clamp), (3, 12, 12))
    x = torch.rand(3, 12, 12, dtype=torch.float64)
    model, v = First(clamp, layer=search_layer(search)), search.random()
    features = [
        model.double()(image.clone()[None])
        for image in (x, search.collide(x, search.shrink(x, v, 8192)[0], 8192), search.collide(x, v, 8192))
    ]
    torch.testing.assert_close(features[1], features[0])
    assert (features[2] - features[0]).abs().max() > 0.01


@pytest.mark.parametrize(
    "after",
    [
        lambda features, image: torch.cat([features.flatten(1), image.flatten(1)], 1),
        lambda features, image: {"logits": features.mean((2, 3)), "mean": (features, image.mean((2, 3)))},
    ],
)
def test_a_network_whose_image_is_read_by_more_than_the_first_layer_is_refused(after):
    for stride in (3, 2):
        with pytest.raises(ValueError, match="not alone in reading the image"):
            NullSpaceSearch(First(nn.Identity(), after, nn.Conv2d(3, 4, 3, stride)), (3, 12, 12))


def test_a_second_layer_that_reads_the_image_is_refused():
    second = nn.Conv2d(3, 4, 3, stride=3).double()
    with pytest.raises(ValueError, match="not alone in reading the image"):
        NullSpaceSearch(First(nn.Identity(), lambda features, image: features + second(image)), (3, 12, 12))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight.sin(), self.bias, self.stride)


def test_a_layer_that_does_not_compute_what_its_weight_says_is_refused():
    with pytest.raises(ValueError, match="does not compute what its weight says"):
        NullSpaceSearch(nn.Sequential(Standardised(3, 4, 3, stride=3)), (3, 12, 12))


def test_a_pixel_wise_scale_before_a_fully_connected_layer_is_part_of_the_weight():
    model = nn.Sequential(Pointwise(), nn.Flatten(), nn.Linear(2 * 4 * 5, 7)).double()
    search, units = NullSpaceSearch(model, (2, 4, 5)), torch.eye(40, dtype=torch.float64).view(-1, 2, 4, 5)
    with torch.no_grad():
        matrix = (model(units) - model(0 * units)).T
    torch.testing.assert_close(search.weight, matrix)
    assert (matrix @ search.basis).abs().max() < 1e-14


def test_a_first_weight_of_zeros_lets_every_image_collide(cat):
    layer = nn.Conv2d(3, 4, 3, stride=3)
    nn.init.zeros_(layer.weight)
    search = NullSpaceSearch(nn.Sequential(layer), (3, 12, 12))
    image, target = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    assert search.basis.shape == (27, 27) and search.complement.shape == (27, 0)
    assert torch.equal(search.toward(image, target), target) and not search.seen(image).any()


@pytest.mark.parametrize(
    ("model", "shape", "text"),
    [
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), (3, 4, 4), "not a ConvTranspose2d"),
        # A Linear on the places of one channel: tokens are not mixed here, but pixels of patches.
        (
            nn.Sequential(nn.Unfold(3, stride=3), nn.Linear(16, 4)),
            (3, 12, 12),
            "not boxes of pixels inside it, of all channels",
        ),
    ],
)
def test_other_first_layers_are_named(model, shape, text):
    with pytest.raises(ValueError, match=text):
        NullSpaceSearch(model, shape)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int64])
def test_indices_of_any_whole_number_type_choose_the_same_vectors(dtype, search):
    indices = torch.arange(1024).view(32, 32) % 83
    assert torch.equal(search.mosaic(indices.to(dtype)), search.mosaic(indices))


def test_a_first_layer_without_a_null_space_is_named():
    model = nn.Sequential(nn.Conv2d(3, 30, 3, stride=3))
    with pytest.raises(ValueError, match=r"0 \(Conv2d, 30×27\), has no null space"):
        NullSpaceSearch(model, (3, 12, 12))


def test_a_frozen_stem_is_fooled_in_both_networks_at_once():
    first = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 5, 2)).double()
    second = copy.deepcopy(first)
    second[0].requires_grad_(False)
    optimiser = torch.optim.SGD((p for p in second.parameters() if p.requires_grad), lr=0.1)
    image = torch.rand(3, 12, 12, dtype=torch.float64)
    second(image[None]).square().sum().backward()
    optimiser.step()
    colliding = NullSpaceSearch(first, (3, 12, 12))
    colliding = colliding.collide(image, colliding.random(), 2048)
    assert not torch.equal(first(image[None]), second(image[None]))
    for model in (first, second):
        assert compare(model, image, colliding).collides_from == "0"


def test_the_quietest_changes_of_pixels_are_the_last_singular_vectors_of_the_stem():
    stem = nn.Sequential(models.Normalize(models.MEAN, models.STD), nn.Conv2d(3, 30, 4, stride=2, padding=1)).double()
    shape = (3, 8, 10)
    with pytest.warns(OverlapWarning, match=r"quietest\(\) finds what it answers least"):
        gains, found = NullSpaceSearch(stem, shape).quietest(2)
    singular = torch.linalg.svdvals(dense(lambda x: stem(x) - stem(0 * x), shape))
    torch.testing.assert_close(gains, singular[-2:].flip(0), rtol=1e-2, atol=0)
    with torch.no_grad():
        response = (stem(found) - stem(0 * found)).flatten(1).norm(dim=1)
    torch.testing.assert_close(response, gains, rtol=1e-9, atol=0)


@pytest.mark.parametrize("run_before", [False, True])
def test_a_compiled_network_is_compared_layer_by_layer(run_before):
    model = torch.compile(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 5, 2)), backend="eager")
    image = torch.rand(3, 12, 12)
    if run_before:
        model(image[None])
    search = NullSpaceSearch(model, (3, 12, 12))
    found = compare(model, image, search.collide(image, search.random(), 2048))
    assert found.collides_from == "_orig_mod.0" and len(found.changes) == 4


def test_a_network_that_cannot_be_copied_is_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3, stride=3)))
    with pytest.raises(ValueError, match="Sequential cannot be copied .*take the one of nn.utils.parametrizations"):
        NullSpaceSearch(model, (3, 12, 12))


@pytest.mark.parametrize("size", [12, (12, 12), (3, 12, 12)])
def test_the_network_may_say_the_size_of_its_images(size):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3))
    model.input_size = size
    assert NullSpaceSearch(model).geometry.shape == (3, 12, 12)


def test_the_size_of_the_images_must_be_known():
    with pytest.raises(ValueError, match="input_shape"):
        NullSpaceSearch(nn.Sequential(nn.Conv2d(3, 4, 3, stride=3)))


def test_the_callers_model_is_left_alone():
    model = models.SmallResNet("patch", ["a"]).train()
    NullSpaceSearch(model)
    assert model.training and model.conv1.weight.dtype == torch.float32
    assert int(model.bn1.num_batches_tracked) == 0


def test_separate_windows_do_not_warn(patchnet):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NullSpaceSearch(patchnet)


@pytest.mark.parametrize("beta", [-1, math.nan, math.inf])
def test_bad_beta_is_named(beta, search, cat):
    with pytest.raises(ValueError, match=str(beta)):
        search.collide(cat, search.repeat(0), beta)


def test_bad_images_are_named(search, cat):
    v = search.repeat(0)
    for image, error, text in [
        (cat[:, :100], ValueError, r"\(3, 224, 224\), not \(3, 100, 224\)"),
        (cat[None], ValueError, r"not \(1, 3, 224, 224\)"),
        ((255 * cat).byte(), TypeError, "uint8"),
        (cat.numpy(), TypeError, "ndarray"),
        (cat.clone().fill_(math.nan), ValueError, "NaN"),
    ]:
        with pytest.raises(error, match=text):
            search.collide(image, v, 8)
        with pytest.raises(error, match="perturbation"):
            search.collide(cat, image, 8)


def test_bad_indices_are_named(search):
    for index in (83, -1):
        with pytest.raises(IndexError, match=f"{index}; there are 83"):
            search.repeat(index)
    with pytest.raises(ValueError, match=r"\(32, 32\)"):
        search.mosaic(torch.zeros(31, 32, dtype=torch.int64))
    for dtype in (torch.float32, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=str(dtype)):
            search.mosaic(torch.zeros(32, 32, dtype=dtype))
