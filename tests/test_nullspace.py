import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collide_utils import nullspace
from collide_utils.nullspace import (
    default_rtol,
    matrix_rank,
    null_and_row_space,
    null_space,
    nullity,
    principal_angles,
    shared_null_space,
)

seeds = st.integers(0, 2**32 - 1)


@st.composite
def matrices(draw):
    """Gaussian matrices of a planted rank: wide, tall, square, a single row or column, and zero."""
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rank = draw(st.integers(0, min(rows, columns)))
    rng = np.random.default_rng(draw(seeds))
    return torch.from_numpy(rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))), rank


@given(matrices())
def test_null_space_is_scipys_subspace(case):
    matrix, rank = case
    ours, theirs = null_space(matrix, rtol=1e-10).numpy(), scipy.linalg.null_space(matrix.numpy(), rcond=1e-10)
    assert ours.shape == theirs.shape == (matrix.shape[1], matrix.shape[1] - rank)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-7)
    np.testing.assert_allclose(ours.T @ ours, np.eye(ours.shape[1]), atol=1e-12)


@given(matrices(), st.integers(1, 3))
def test_null_and_row_space_are_scipys_and_share_the_space_between_them(case, groups):
    matrix, rank = case
    null, rows = null_and_row_space(matrix.expand(groups, -1, -1), rtol=1e-10)
    explicit = scipy.linalg.block_diag(*[matrix.numpy()] * groups)
    theirs = scipy.linalg.orth(explicit.T, rcond=1e-10)
    assert rows.shape == theirs.shape == (groups * matrix.shape[1], groups * rank)
    np.testing.assert_allclose(rows @ rows.T, theirs @ theirs.T, atol=1e-7)
    both = torch.cat([null, rows], 1)
    np.testing.assert_allclose(both.T @ both, np.eye(len(explicit.T)), atol=1e-12)


@given(matrices())
def test_rank_and_nullity_add_up_to_the_columns(case):
    matrix, rank = case
    assert matrix_rank(matrix, rtol=1e-10) == rank
    assert nullity(matrix, rtol=1e-10) == matrix.shape[1] - rank


@given(seeds, st.floats(1e-7, 0.5), st.booleans())
def test_the_tolerance_is_relative_to_the_largest_singular_value(seed, rtol, above):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in (8, 12))
    last = rtol * (1.01 if above else 0.99)
    matrix = torch.from_numpy(left @ np.diag(1e3 * np.array([1, 1, 0.9, 0.8, last])) @ right.T)
    assert matrix_rank(matrix, rtol=rtol) == (5 if above else 4)


@given(seeds, st.floats(-9, -3), st.integers(1, 4), st.booleans())
def test_planted_deficiencies_are_counted_whatever_the_mixing_and_the_scale(seed, exponent, planted, float32):
    # Singular values `planted` of which stand at 10^exponent, mixed by random rotations and scaled: a tolerance a third
    # below or above decides them alike, from the Gram matrix or from the singular values.
    rng = np.random.default_rng(seed)
    small = 10.0 ** (max(exponent, -5) if float32 else exponent)
    left, right = (np.linalg.qr(rng.normal(size=(n, 8)))[0] for n in (9, 13))
    spectrum = np.concatenate([rng.uniform(0.5, 1, 8 - planted), np.full(planted, small)])
    spectrum[0] = 1
    matrix = torch.from_numpy(left @ np.diag(spectrum) @ right.T * 10.0 ** rng.integers(-12, 12))
    matrix = matrix.float() if float32 else matrix
    assert matrix_rank(matrix, rtol=small * 1.5) == 8 - planted
    assert matrix_rank(matrix, rtol=small / 1.5) == 8


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_a_spectrum_that_is_ambiguous_at_the_tolerance_is_left_to_the_svd(rtol, distance, monkeypatch):
    calls, svdvals = [], torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: calls.append(1) or svdvals(matrix))
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 6)))[0] for n in (20, 30))
    for sign, rank in ((1, 6), (-1, 5)):
        spectrum = np.array([1, 0.9, 0.8, 0.7, 0.6, rtol * (1 + sign * distance)])
        assert matrix_rank(torch.from_numpy(left @ np.diag(spectrum) @ right.T), rtol=rtol) == rank
    # In the Gram matrix the gap between value and tolerance is 2 · rtol² · distance.
    bound = 8 * 30 * np.finfo(float).eps * 3.3
    assert bool(calls) == (2 * rtol**2 * distance < bound)


def test_weights_of_float32_are_settled_without_an_svd(monkeypatch):
    monkeypatch.setattr(torch.linalg, "svdvals", None)
    rng = np.random.default_rng(0)
    for rows, columns, rank in ((64, 147, 64), (64, 147, 56), (300, 100, 100), (1, 9, 1)):
        left, right = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
        assert matrix_rank(torch.from_numpy(left @ right).float()) == rank


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_squares_that_would_leave_the_range_of_float64_do_not_matter(scale):
    matrix = scale * torch.diag(torch.tensor([1.0, 1e-2, 1e-5, 0.0], dtype=torch.float64))
    assert (matrix_rank(matrix, rtol=1e-4), matrix_rank(matrix, rtol=1e-6)) == (2, 3)


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_blocks_are_the_explicit_block_diagonal_matrix(seed, groups, rows, columns):
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=(groups, rows, columns)) * (rng.random((groups, rows, 1)) < 0.7)
    explicit = torch.from_numpy(scipy.linalg.block_diag(*blocks))
    blocks = torch.from_numpy(blocks)
    assert matrix_rank(blocks) == matrix_rank(explicit) == np.linalg.matrix_rank(explicit.numpy())
    ours, theirs = null_space(blocks), null_space(explicit)
    torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, atol=1e-9, rtol=0)
    assert nullity(blocks) == nullity(explicit) == scipy.linalg.null_space(explicit.numpy()).shape[1]


def test_the_default_tolerance_follows_the_dtype_of_the_matrix():
    # A singular value of 1e-7 relative is rounding in a float32 matrix and a value of its own in a float64 one.
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1e-7]))
    assert matrix_rank(matrix) == 2
    assert matrix_rank(matrix.double()) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(matrices())
def test_what_rounding_to_half_precision_leaves_of_a_zero_still_counts_as_zero(dtype, case):
    matrix, rank = case
    matrix = matrix / matrix.abs().max().clamp(min=1e-30)
    rounded = matrix.to(dtype)
    assert matrix_rank(rounded) <= rank
    singular = torch.linalg.svdvals(matrix)
    if rank and singular[rank - 1] > 4 * torch.finfo(dtype).eps * singular[0]:
        assert matrix_rank(rounded) == rank


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_generic_weights_have_the_null_space_of_their_shape_in_every_format(dtype):
    assert nullity(torch.eye(147, dtype=dtype)) == 0
    for rows, columns in ((64, 147), (128, 1152), (128, 64)):
        weight = torch.randn(rows, columns).to(dtype)
        assert nullity(weight) == null_space(weight).shape[1] == max(0, columns - rows)


@given(st.integers(1, 10**9), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_no_default_tolerance_is_above_a_hundredth(size, dtype):
    eps = torch.finfo(dtype).eps
    if dtype in (torch.float16, torch.bfloat16):
        assert default_rtol(size, dtype) == eps <= 1e-2
    else:
        assert default_rtol(size, dtype) == min(size * eps, 1e-2)  # numpy's rule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_matrix_is_left_as_it_was(dtype):
    matrix = 3 * torch.randn(4, 6, dtype=dtype)
    before = matrix.clone()
    for function in (matrix_rank, nullity, null_space, shared_null_space):
        function(matrix)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_large_matrix_is_summed_over_all_of_its_chunks(tall, groups, monkeypatch):
    # Each chunk of columns sees two dimensions of its own; one chunk alone has rank 2.
    monkeypatch.setattr(nullspace, "_CHUNK", 4)
    monkeypatch.setattr(torch.linalg, "svdvals", None)
    matrix = torch.zeros(groups, 9, 17)
    for part in range(4):
        matrix[:, 2 * part : 2 * part + 2, 4 * part : 4 * part + 4] = torch.randn(groups, 2, 4)
    assert matrix_rank(matrix.mT if tall else matrix) == groups * 8
    torch.testing.assert_close(torch.from_numpy(nullspace._gram(matrix, 2.0)), (matrix @ matrix.mT / 4).double())
    generic = torch.randn(groups, 9, 17)
    assert matrix_rank(generic.mT if tall else generic) == groups * 9


def test_dead_filters_count_as_zero_only_above_their_size():
    stem = torch.randn(64, 147, dtype=torch.float64)
    stem[:8] *= 1e-6
    assert (nullity(stem), nullity(stem, rtol=1e-4)) == (83, 91)


def test_basis_is_float64_whatever_comes_in():
    assert null_space(torch.randn(3, 5)).dtype == torch.float64


@pytest.mark.parametrize(
    ("matrix", "error", "text"),
    [
        (np.ones((2, 2)), TypeError, "ndarray"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, "int64"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "complex64"),
        (torch.ones(2, 2).to(torch.float8_e4m3fn), TypeError, "float64, .* not a torch.float8_e4m3fn tensor"),
        (torch.ones(3), ValueError, r"\(3,\)"),
        (torch.ones(2, 2, 2, 2), ValueError, r"\(2, 2, 2, 2\)"),
        (torch.ones(0, 3), ValueError, r"\(0, 3\)"),
        (torch.tensor([[1.0, float("nan")]]), ValueError, "NaN"),
    ],
)
def test_bad_matrices_are_named(matrix, error, text):
    for function in (matrix_rank, null_space, shared_null_space, lambda m: principal_angles(m, m)):
        with pytest.raises(error, match=text):
            function(matrix)


@pytest.mark.parametrize("rtol", [-0.1, 1.0, float("nan"), float("inf")])
def test_bad_tolerances_are_named(rtol):
    with pytest.raises(ValueError, match="rtol must be"):
        matrix_rank(torch.ones(2, 2), rtol=rtol)


@st.composite
def planted(draw, most=4):
    """Gaussian matrices of one to `most` that vanish on a common subspace of known dimension and on nothing else."""
    columns = draw(st.integers(2, 20))
    shared = draw(st.integers(0, columns - 1))
    rng = np.random.default_rng(draw(seeds))
    frame = np.linalg.qr(rng.normal(size=(columns, columns)))[0]
    ranks = draw(st.lists(st.integers(1, columns - shared), min_size=1, max_size=most))
    ranks.append(max(1, columns - shared - sum(ranks)))
    scales = draw(st.lists(st.integers(-12, 12), min_size=len(ranks), max_size=len(ranks)))
    matrices = [
        10.0**scale * rng.normal(size=(rank, columns - shared)) @ frame[:, shared:].T
        for rank, scale in zip(ranks, scales, strict=True)
    ]
    return [torch.from_numpy(matrix) for matrix in matrices], frame[:, :shared]


@settings(deadline=None)
@given(planted())
def test_shared_null_space_is_the_planted_subspace_and_scipys_of_the_stack(case):
    matrices, expected = case
    ours = shared_null_space(*matrices, rtol=1e-9).numpy()
    stack = np.concatenate([matrix.numpy() / np.linalg.norm(matrix.numpy(), 2) for matrix in matrices])
    theirs = scipy.linalg.null_space(stack, rcond=1e-9)
    assert ours.shape == expected.shape == theirs.shape
    np.testing.assert_allclose(ours.T @ ours, np.eye(ours.shape[1]), atol=1e-12)
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, atol=1e-6)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-6)


@settings(deadline=None)
@given(planted(), st.randoms(use_true_random=False))
def test_shared_null_space_knows_no_order_and_no_scale(case, random):
    matrices, _ = case
    other = [matrix * 2.0 ** random.randint(-30, 30) for matrix in random.sample(matrices, len(matrices))]
    first, second = (shared_null_space(*some, rtol=1e-9) for some in (matrices, other))
    torch.testing.assert_close(first @ first.T, second @ second.T, atol=1e-6, rtol=0)


def test_two_random_stems_share_19_dimensions_and_three_none():
    stems = torch.randn(3, 64, 147)
    assert [shared_null_space(*stems[:count]).shape[1] for count in (1, 2, 3)] == [83, 19, 0]
    shared = shared_null_space(*stems[:2].double())
    assert (stems[:2].double() @ shared).abs().max() < 1e-12


def test_a_quiet_matrix_is_not_drowned_by_a_loud_one():
    loud, quiet = 1e12 * torch.randn(3, 9, dtype=torch.float64), 1e-6 * torch.randn(4, 9, dtype=torch.float64)
    assert shared_null_space(loud, quiet).shape == (9, 2)
    assert null_space(torch.cat([loud, quiet])).shape == (9, 6)  # what the plain stack would say


def test_float32_matrices_share_what_they_share_up_to_their_rounding():
    frame = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    matrices = [(torch.randn(12, 35, dtype=torch.float64) @ frame[:, 5:].T).float() for _ in range(4)]
    shared = shared_null_space(*matrices)
    assert shared.dtype == torch.float64
    torch.testing.assert_close(shared @ shared.T, frame[:, :5] @ frame[:, :5].T, atol=1e-4, rtol=0)


def test_zero_matrices_share_everything():
    assert torch.equal(shared_null_space(torch.zeros(2, 4), torch.zeros(1, 4)), torch.eye(4, dtype=torch.float64))
    assert shared_null_space(torch.zeros(2, 4), torch.eye(4)).shape == (4, 0)


def test_matrices_that_do_not_fit_are_named_by_their_shapes():
    with pytest.raises(ValueError, match=r"columns, not shapes \(2, 5\), \(2, 5\), \(3, 6\)"):
        shared_null_space(torch.ones(2, 5), torch.ones(2, 5), torch.ones(3, 6))
    with pytest.raises(ValueError, match=r"rows, not shapes \(5, 2\), \(6, 2\)"):
        principal_angles(torch.ones(5, 2), torch.ones(6, 2))
    for function in (shared_null_space, lambda blocks: principal_angles(blocks, torch.eye(3))):
        with pytest.raises(ValueError, match=r"2 dimensions and at least one entry, not shape \(2, 3, 3\)"):
            function(torch.ones(2, 3, 3))
    with pytest.raises(ValueError, match="at least one matrix"):
        shared_null_space()


@settings(deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 6), st.lists(st.floats(-8, 0), min_size=6, max_size=6))
def test_principal_angles_are_the_planted_ones_however_small(seed, p, q, logarithms):
    rng = np.random.default_rng(seed)
    angles = np.sort(np.pi / 2 * 10.0 ** np.array(logarithms[: min(p, q)]))
    near, far, rest = np.split(np.linalg.qr(rng.normal(size=(18, 18)))[0], 3, axis=1)
    turned = near[:, : len(angles)] * np.cos(angles) + far[:, : len(angles)] * np.sin(angles)
    b = np.concatenate([turned, rest[:, : q - len(angles)]], axis=1)
    a, b = (basis @ np.linalg.qr(rng.normal(size=2 * basis.shape[1:]))[0] for basis in (near[:, :p], b))
    found = principal_angles(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, angles, rtol=1e-6, atol=1e-14)


@settings(deadline=None)
@given(seeds, st.integers(2, 9), st.integers(1, 5), st.integers(1, 5))
def test_principal_angles_are_scipys(seed, rows, p, q):
    rng = np.random.default_rng(seed)
    a, b = (np.linalg.qr(rng.normal(size=(rows, min(count, rows))))[0] for count in (p, q))
    angles = principal_angles(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert len(angles) == min(p, q, rows) and (np.diff(angles) >= 0).all()
    np.testing.assert_allclose(angles, np.sort(scipy.linalg.subspace_angles(a, b)), atol=5e-8)
    np.testing.assert_allclose(np.sum(np.cos(angles) ** 2), np.sum((a.T @ b) ** 2), atol=1e-12)


@settings(deadline=None)
@given(planted(most=1))
def test_an_angle_of_zero_is_a_shared_dimension(case):
    first, second = case[0]
    bases = [null_space(matrix, rtol=1e-9) for matrix in (first, second)]
    if min(basis.shape[1] for basis in bases):
        angles = principal_angles(*bases)
        assert int((angles < 1e-6).sum()) == shared_null_space(first, second, rtol=1e-9).shape[1]
