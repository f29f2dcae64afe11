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
