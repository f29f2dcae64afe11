"""Lemma 1: the smallest eigenvalue of W Wᵀ for a Gaussian W, its sampling and its limit law.

The limit law is that of Edelman (1988, Corollary 3.1) in the closed form of Tao and Vu (2010, Theorem 1.3); the sampler
is the bidiagonal model of Dumitriu and Edelman (2002, Theorem 3.1).
"""

import operator
import warnings
from functools import partial

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import expm1, gammaln, hyperu, log1p
from tqdm import tqdm

# Draws of a task, and rows: part of what a seed means, so not parameters.
_TASK_DRAWS, _TASK_ROWS = 64, 64_000


def sample_smallest_eigenvalues(n, p, size, rng, executor=None):
    """Draw the smallest eigenvalue of W Wᵀ for W ``n×p`` with standard normal entries, `size` times.

    Parameters
    ----------
    n, p, size : whole numbers of at least 1.
    rng : ``numpy.random.Generator``; the draws depend on it alone, not on the executor.
    executor : ``concurrent.futures.Executor`` or alike that shares the work; by default it is done here.

    Returns a float64 array ``(size,)``. Where p < n, W Wᵀ is singular: exact zeros, and a UserWarning that says so.

    W has the singular values of a lower bidiagonal matrix with diagonal χ(p), χ(p−1), …, χ(p−n+1) and subdiagonal
    χ(n−1), …, χ(1), all independent. The smallest is found by bisection on the tridiagonal matrix with zero diagonal
    and the two sequences interleaved, whose eigenvalues are ±σ. This takes O(n) time and memory, and has a relative
    error of a few units in the last place however small σ is (Demmel and Kahan 1990), which B Bᵀ would lose.

    ValueError for numbers below 1, TypeError for any that are not whole and for another kind of rng.
    """
    n, p, size = _check(n, p, size, rng)
    if p < n:
        warnings.warn(f"p = {p} is less than n = {n}: W Wᵀ is singular and every draw is exactly 0", stacklevel=2)
        return np.zeros(size)
    chunk = max(1, min(_TASK_DRAWS, _TASK_ROWS // n))
    sizes = [min(chunk, size - start) for start in range(0, size, chunk)]
    tasks = (executor.map if executor else map)(partial(_draw, n, p), sizes, rng.spawn(len(sizes)))
    bar = tqdm(tasks, total=len(sizes), desc=f"λ_min, n = {n}, p = {p}", delay=10)
    return np.concatenate(list(bar))


def sample_smallest_eigenvalues_dense(n, p, size, rng):
    """Do as :func:`sample_smallest_eigenvalues` by brute force, from each W's singular values: O(n²p) a draw."""
    n, p, size = _check(n, p, size, rng)
    if p < n:
        return np.zeros(size)
    return np.array([np.linalg.svd(rng.standard_normal((n, p)), compute_uv=False)[-1] ** 2 for _ in range(size)])


def limit_cdf(eps):
    """Return lim P(n · λ_min ≤ `eps`) at p = n for n → ∞: 1 − exp(−ε/2 − √ε); 0 for negative `eps`. Vectorised."""
    eps = np.maximum(np.asarray(eps, dtype=float), 0)
    return -expm1(-(eps / 2 + np.sqrt(eps)))


def limit_pdf(eps):
    """Return the density of :func:`limit_cdf`, (1 + √ε)/(2√ε) · exp(−ε/2 − √ε): infinite at 0, 0 below. Vectorised."""
    eps = np.asarray(eps, dtype=float)
    root = np.sqrt(np.maximum(eps, 0))
    with np.errstate(divide="ignore"):
        density = (0.5 + 0.5 / root) * np.exp(-(root**2 / 2 + root))
    return np.where(eps < 0, 0.0, density)


def square_pdf(eps, n):
    """Return the density of n·λ_min for W ``n×n``, at finite n, which tends to :func:`limit_pdf`. Vectorised in `eps`.

    This is Edelman's (1988) exact law, with Tricomi's function U. `n` is a whole number from 1 to 100 (ValueError
    outside: U leaves the range of float64 soon after). The relative error is below 1e-9.
    """
    if not 1 <= n <= 100:
        raise ValueError(f"n must be a whole number from 1 to 100, not {n!r}")
    eps = np.asarray(eps, dtype=float)
    value = np.maximum(eps, 0) / n
    with np.errstate(divide="ignore"):
        density = np.exp(gammaln((n + 1) / 2) - n * value / 2) / np.sqrt(2 * np.pi * value)
    return np.where(eps < 0, 0.0, density * hyperu((n - 1) / 2, -0.5, value / 2))


def limit_quantile(q):
    """Return the ε with ``limit_cdf(ε) = q``, for `q` in [0, 1] (ValueError outside). Vectorised."""
    q = np.asarray(q, dtype=float)
    if not np.all((q >= 0) & (q <= 1)):
        raise ValueError(f"probabilities must lie in [0, 1], not {q!r}")
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = -log1p(-q)  # = ε/2 + √ε, a quadratic in √ε
        root = 2 * exponent / (1 + np.sqrt(1 + 2 * exponent))
    return np.where(q == 1, np.inf, root**2)


def _draw(n, p, size, rng):
    return np.array([_smallest_singular_value(*_bidiagonal(n, p, rng)) ** 2 for _ in range(size)])


def _bidiagonal(n, p, rng):
    """Diagonal ``(n,)`` and subdiagonal ``(n − 1,)`` of the model, chi-distributed."""
    return (np.sqrt(rng.chisquare(np.arange(p, p - n, -1.0))), np.sqrt(rng.chisquare(np.arange(n - 1.0, 0, -1))))


def _smallest_singular_value(diagonal, off_diagonal):
    n = len(diagonal)
    if n == 1:
        return diagonal[0]
    interleaved = np.empty(2 * n - 1)
    interleaved[::2], interleaved[1::2] = diagonal, off_diagonal
    (smallest,) = eigh_tridiagonal(
        np.zeros(2 * n),
        interleaved,
        eigvals_only=True,
        select="i",
        select_range=(n, n),
        lapack_driver="stebz",
        tol=np.finfo(float).tiny,
    )
    return smallest


def _check(n, p, size, rng):
    numbers = []
    for name, value in (("n", n), ("p", p), ("size", size)):
        try:
            numbers.append(operator.index(value))
        except TypeError:
            raise TypeError(f"{name} must be a whole number, not {value!r}") from None
        if numbers[-1] < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")
    return numbers
