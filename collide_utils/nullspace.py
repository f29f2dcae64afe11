"""Rank, nullity and null space of plain matrices, in float64.

One tolerance decides all three: a singular value counts as zero when it is at most ``rtol`` times the largest. What it
is by default, :func:`default_rtol` says: numpy's and scipy's rule, except that a matrix is judged by the format that it
comes in although it is decomposed in float64, because its entries were rounded to that format before they got here.

The choice matters for trained weights. Weight decay shrinks a filter that training has abandoned towards zero without
reaching it: among its 64 singular values the ResNet-18 stem of torchvision has eight such dead ones, from 1e-5 down to
1e-7. Whether they count as zero moves the nullity of that 64×147 matrix between 83 (none) and 91 (all), so a nullity is
only meaningful together with its tolerance.
"""

import math

import numpy as np
import torch
from scipy.linalg import eigvalsh
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf

_CHUNK = 1024  # columns of a large matrix that are held in float64 at a time
_HALF = (torch.float16, torch.bfloat16)
_FORMATS = (*_HALF, torch.float32, torch.float64)
_LARGEST_DEFAULT = 1e-2


def default_rtol(size, dtype):
    """Return the tolerance by which a matrix of `dtype` is judged; `size` is the larger of its rows and columns.

    For float32 and float64 that is numpy's rule, ``size · eps`` with the format's machine epsilon: rounding errors in
    a decomposition may add up over the size. For float16 and bfloat16, ``size · eps`` would be larger than 1 for the
    weights of networks; but nothing is ever decomposed in these formats, only entries were rounded to them, once. That
    moves no singular value by more than ``eps/2`` times the Frobenius norm, and those of a dense matrix by about
    ``eps/4`` times the largest, because the entries' errors are as good as independent. So there it is ``eps`` alone:
    9.8e-4 for float16, 7.8e-3 for bfloat16. A smaller singular value may be what rounding made of a zero. In no format
    is it more than 1e-2.
    """
    eps = torch.finfo(dtype).eps
    return min(eps if dtype in _HALF else size * eps, _LARGEST_DEFAULT)


def matrix_rank(matrix, rtol=None):
    """Return the number of singular values of `matrix` above ``rtol`` times the largest.

    Parameters
    ----------
    matrix : real floating-point tensor ``(rows, columns)``, or ``(groups, rows, columns)`` for the block-diagonal
        matrix of these blocks.
    rtol : number in [0, 1); by default that of :func:`default_rtol`.

    The rank is read from the eigenvalues of the smaller Gram matrix, W Wᵀ or Wᵀ W, in float64, and from the singular
    values only where these leave it open. A Gram matrix squares the singular values: what stands at rtol in W stands at
    rtol² there, where rounding moves eigenvalues by no more than 8 · max(rows, columns) · eps · ‖W‖², eps being that of
    float64 and the norm Frobenius'. If an eigenvalue lies that close to the squared tolerance, the rank is open. For
    float32 weights and the default tolerance that is rare: float32's eps squared is 64 times float64's eps, so the
    bound is at most an eighth of the squared tolerance, and only a singular value within 7 % of the tolerance is open.
    For float64 matrices the squared tolerance lies below rounding, and only well-conditioned ones are settled this way.

    TypeError if `matrix` is not a tensor of float64, float32, float16 or bfloat16; ValueError if it has another number
    of dimensions, is empty or not finite, or if `rtol` is not in [0, 1).
    """
    matrix, rtol = _check(matrix, rtol)
    rank = _rank_from_gram(matrix, rtol)
    return _rank(torch.linalg.svdvals(matrix.double()), rtol) if rank is None else rank


def nullity(matrix, rtol=None):
    """Return the dimension of the null space: columns (of all blocks) minus :func:`matrix_rank`."""
    rank = matrix_rank(matrix, rtol)
    return matrix.shape[:-2].numel() * matrix.shape[-1] - rank


def null_space(matrix, rtol=None):
    """Return an orthonormal basis of ``{v : matrix @ v = 0}`` as a float64 tensor ``(columns, nullity)``.

    Taken from the right singular vectors, block by block, in order of falling singular value. Arguments and errors as
    in :func:`matrix_rank`; a matrix of full column rank has a basis of shape ``(columns, 0)``.
    """
    return null_and_row_space(matrix, rtol)[0]


def null_and_row_space(matrix, rtol=None):
    """Return :func:`null_space` and a basis of its orthogonal complement, the row space, from one decomposition.

    The latter is an orthonormal float64 tensor ``(columns, rank)``.
    """
    matrix, rtol = _check(matrix, rtol)
    blocks = matrix.double().reshape(-1, *matrix.shape[-2:])
    _, singular, right = torch.linalg.svd(blocks, full_matrices=blocks.shape[1] < blocks.shape[2])
    ranks = (singular > rtol * singular.max()).sum(1)
    parts = [vectors.tensor_split([rank]) for vectors, rank in zip(right, ranks.tolist(), strict=True)]
    rows, null = (torch.block_diag(*(part.T for part in kind)) for kind in zip(*parts, strict=True))
    return null, rows


def shared_null_space(*matrices, rtol=None):
    """Return an orthonormal basis of the vectors that every one of `matrices` ``(rows_i, columns)`` maps to zero.

    That is the null space of the matrices on top of each other. But in the plain stack the largest matrix would decide
    what counts as zero in all of them, so each is first replaced by an orthonormal basis of its row space, of the rank
    that its own tolerance gives it, and multiplying a matrix by a number changes nothing. For a unit vector v the
    stack Q of these bases has ‖Qv‖² = Σ sin²(angle between v and the null space of matrix i).

    `rtol` is the tolerance of each rank, as in :func:`matrix_rank`, and that of Q; by default each matrix has its own,
    and Q the largest of them. Returns a float64 tensor ``(columns, dimension)``; in general position the dimension is
    ``max(0, columns - Σ rank_i)``. TypeError and ValueError as in :func:`matrix_rank`; ValueError also without any
    matrix, or for matrices that differ in their number of columns.
    """
    if not matrices:
        raise ValueError("at least one matrix is needed")
    checked = [_check(matrix, rtol, (2,)) for matrix in matrices]
    _check_equal("columns", [matrix.shape for matrix in matrices], -1)
    stack = torch.cat([_row_space(*one) for one in checked])
    if not len(stack):
        return torch.eye(stack.shape[1], dtype=stack.dtype, device=stack.device)
    return null_space(stack, max(tolerance for _, tolerance in checked))


def principal_angles(a, b):
    """Return the principal angles between the column spaces of `a` ``(n, p)`` and `b` ``(n, q)``, in radians, rising.

    The k-th is the smallest angle between a vector of one space and one of the other that are orthogonal to those of
    the angles before; there are as many as the smaller space has dimensions. The spaces share one dimension for each
    angle of zero. Returns a float64 tensor. TypeError and ValueError as in :func:`matrix_rank`; ValueError also for
    different n.

    Cosines and sines after Björck and Golub (1973): a cosine alone loses half of the digits of a small angle. So does
    ``scipy.linalg.subspace_angles`` (1.17) for spaces that have small and large angles between them.
    """
    checked = [_check(basis, None, (2,)) for basis in (a, b)]
    _check_equal("rows", [a.shape, b.shape], 0)
    small, large = sorted((_row_space(basis.T, rtol).T for basis, rtol in checked), key=lambda basis: basis.shape[1])
    inside = large.T @ small
    return torch.atan2(torch.linalg.svdvals(small - large @ inside).flip(0), torch.linalg.svdvals(inside))


def _row_space(matrix, rtol):
    _, singular, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return right[: _rank(singular, rtol)]


def _rank(singular, rtol):
    return int((singular > rtol * singular.max()).sum())


def _rank_from_gram(matrix, rtol):
    # Squares of very large or small entries would leave the range of float64; those of smaller formats cannot.
    scale = float(_largest(matrix)) or 1.0 if matrix.dtype == torch.float64 else 1.0
    wide = (matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT).reshape(-1, *sorted(matrix.shape[-2:]))
    gram = _gram(wide, scale)
    diagonal = np.diagonal(gram, axis1=1, axis2=2).copy()
    error = 8 * wide.shape[2] * np.finfo(float).eps * diagonal.sum(1)
    # Most weights have full rank, which a Cholesky factorisation proves at a tenth of the cost of the eigenvalues: no
    # eigenvalue is larger than the Frobenius norm. It overwrites the lower triangles; the upper ones keep the matrix.
    frobenius = max(np.linalg.norm(block) for block in gram)
    for block, entries, tolerance in zip(gram, diagonal, rtol**2 * frobenius + error, strict=True):
        np.fill_diagonal(block, entries - tolerance)
        if dpotrf(block.T, lower=0, clean=0, overwrite_a=1)[1]:
            break
    else:
        return len(gram) * gram.shape[1]
    for block, entries in zip(gram, diagonal, strict=True):
        np.fill_diagonal(block, entries)
    eigenvalues = np.array([eigvalsh(block.T, lower=True, overwrite_a=True, check_finite=False) for block in gram])
    threshold = rtol**2 * eigenvalues.max()
    if (np.abs(eigenvalues - threshold) <= error[:, None]).any():
        return None
    return int((eigenvalues > threshold).sum())


def _gram(blocks, scale):
    """Return the blocks' W Wᵀ, with W = block / `scale`, as one array on the CPU."""
    gram = np.zeros((len(blocks), blocks.shape[1], blocks.shape[1]))
    for block, product in zip(blocks, gram, strict=True):
        for part in block.split(_CHUNK, dim=1):
            part = part.to("cpu", torch.float64, copy=True, memory_format=torch.contiguous_format).div_(scale).numpy()
            # A rank-k update does half the work of a product. BLAS stores by columns: it sees both matrices
            # transposed, and our lower triangle as the upper one.
            dsyrk(1, part.T, trans=1, beta=1, c=product.T, overwrite_c=1, lower=0)
        for start in range(0, len(product), _CHUNK):  # mirrored in parts, without a second copy
            rows, below = slice(start, start + _CHUNK), slice(start + _CHUNK, None)
            product[rows, rows] += np.tril(product[rows, rows], -1).T
            product[rows, below] = product[below, rows].T
    return gram


def _check(matrix, rtol, dimensions=(2, 3)):
    if not isinstance(matrix, torch.Tensor) or matrix.dtype not in _FORMATS:
        raise TypeError(
            "the matrix must be a tensor of float64, float32, float16 or bfloat16, not " + _describe(matrix)
        )
    if matrix.ndim not in dimensions or matrix.numel() == 0:
        raise ValueError(
            f"the matrix must have {' or '.join(map(str, dimensions))} dimensions and at least one entry, "
            f"not shape {tuple(matrix.shape)}"
        )
    if not _largest(matrix).isfinite():
        raise ValueError("the matrix has entries that are NaN or infinite")
    if rtol is None:
        rtol = default_rtol(matrix.shape[:-2].numel() * max(matrix.shape[-2:]), matrix.dtype)
    elif not (math.isfinite(rtol) and 0 <= rtol < 1):
        raise ValueError(f"rtol must be a number in [0, 1), not {rtol!r}")
    return matrix.detach(), rtol


def _largest(matrix):
    return torch.linalg.vector_norm(matrix, torch.inf)  # without a copy, unlike abs() and isfinite()


def _check_equal(what, shapes, axis):
    if len({shape[axis] for shape in shapes}) > 1:
        raise ValueError(
            f"the matrices must have equally many {what}, not shapes "
            + ", ".join(str(tuple(shape)) for shape in shapes)
        )


def _describe(value):
    return f"a {value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
