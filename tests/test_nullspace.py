import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from collide_utils.nullspace import matrix_rank, null_space, nullity

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


def test_the_default_tolerance_follows_the_dtype_of_the_matrix():
    # A singular value of 1e-7 relative is rounding in a float32 matrix and a value of its own in a float64 one.
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1e-7]))
    assert matrix_rank(matrix) == 2
    assert matrix_rank(matrix.double()) == 3


def test_dead_filters_count_as_zero_only_above_their_size():
    stem = torch.randn(64, 147, dtype=torch.float64)
    stem[:8] *= 1e-6
    assert (nullity(stem), nullity(stem, rtol=1e-4)) == (83, 91)


def test_basis_is_float64_whatever_comes_in():
    assert null_space(torch.randn(3, 5)).dtype == torch.float64


@pytest.mark.parametrize(("matrix", "error", "text"), [
    (np.ones((2, 2)), TypeError, "ndarray"),
    (torch.ones(2, 2, dtype=torch.int64), TypeError, "int64"),
    (torch.ones(2, 2, dtype=torch.complex64), TypeError, "complex64"),
    (torch.ones(3), ValueError, r"\(3,\)"),
    (torch.ones(2, 2, 2, 2), ValueError, r"\(2, 2, 2, 2\)"),
    (torch.ones(0, 3), ValueError, r"\(0, 3\)"),
    (torch.tensor([[1.0, float("nan")]]), ValueError, "NaN"),
])
def test_bad_matrices_are_named(matrix, error, text):
    for function in (matrix_rank, null_space):
        with pytest.raises(error, match=text):
            function(matrix)


@pytest.mark.parametrize("rtol", [-0.1, 1.0, float("nan"), float("inf")])
def test_bad_tolerances_are_named(rtol):
    with pytest.raises(ValueError, match="rtol must be"):
        matrix_rank(torch.ones(2, 2), rtol=rtol)
