import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import cumulative_trapezoid, quad

from collide_utils import randmat

LEVEL = 1e-3


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("n", "size"), [(200, 4000), (2000, 500)])
def test_square_draws_follow_the_limit_law(n, size):
    draws = n * randmat.sample_smallest_eigenvalues(n, n, size, rng(n))
    assert stats.kstest(draws, randmat.limit_cdf).pvalue > LEVEL


@pytest.mark.parametrize(("n", "p"), [(1, 1), (2, 2), (40, 40), (1, 7), (30, 33), (60, 65), (20, 50), (40, 80)])
def test_fast_and_dense_draws_have_one_law(n, p):
    fast = randmat.sample_smallest_eigenvalues(n, p, 3000, rng(1))
    dense = randmat.sample_smallest_eigenvalues_dense(n, p, 3000, rng(2))
    assert stats.ks_2samp(fast, dense).pvalue > LEVEL


def test_one_row_gives_a_chi_square():
    draws = randmat.sample_smallest_eigenvalues(1, 5, 3000, rng(3))
    assert stats.kstest(draws, stats.chi2(5).cdf).pvalue > LEVEL


def test_fewer_columns_than_rows_give_zeros_and_say_so():
    with pytest.warns(UserWarning, match="p = 3 is less than n = 5"):
        assert not randmat.sample_smallest_eigenvalues(5, 3, 10, rng()).any()
    assert not randmat.sample_smallest_eigenvalues_dense(5, 3, 10, rng()).any()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_the_smallest_singular_value_is_accurate_near_zero_too(n, seed, digits):
    diagonal, off_diagonal = randmat._bidiagonal(n, n, rng(seed))
    diagonal[-1] *= 10.0**-digits
    with mpmath.workdps(80):
        exact = mpmath.matrix(n, n)
        for k in range(n):
            exact[k, k] = mpmath.mpf(float(diagonal[k]))
            if k:
                exact[k, k - 1] = mpmath.mpf(float(off_diagonal[k - 1]))
        expected = mpmath.sqrt(min(mpmath.eigsy(exact * exact.T, eigvals_only=True)))
        error = abs(mpmath.mpf(float(randmat._smallest_singular_value(diagonal, off_diagonal))) / expected - 1)
    assert error < 1e-14


def test_the_product_of_the_diagonal_is_the_determinant_of_a_square_matrix():
    # log det² is another statistic of the same model, so a wrong order of degrees of freedom would show here.
    logs = [np.log(randmat._bidiagonal(8, 8, rng(seed))[0]).sum() for seed in range(2000)]
    direct = [np.linalg.slogdet(rng(seed + 10**6).standard_normal((8, 8)))[1] for seed in range(2000)]
    assert stats.ks_2samp(logs, direct).pvalue > LEVEL


def test_executors_do_not_change_the_draws():
    serial = randmat.sample_smallest_eigenvalues(50, 60, 300, rng(4))
    with ThreadPoolExecutor(3) as threads:
        np.testing.assert_array_equal(randmat.sample_smallest_eigenvalues(50, 60, 300, rng(4), threads), serial)
    for workers in (1, 2):
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            np.testing.assert_array_equal(randmat.sample_smallest_eigenvalues(50, 60, 300, rng(4), pool), serial)


def test_dask_does_not_change_the_draws():
    distributed = pytest.importorskip("distributed")
    serial = randmat.sample_smallest_eigenvalues(50, 60, 300, rng(4))
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False) as client:
        drawn = randmat.sample_smallest_eigenvalues(50, 60, 300, rng(4), client.get_executor())
    np.testing.assert_array_equal(drawn, serial)


def test_a_second_call_with_the_same_generator_draws_anew():
    generator = rng()
    first, second = (randmat.sample_smallest_eigenvalues(5, 5, 100, generator) for _ in range(2))
    assert not np.isin(first, second).any()


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-3, 0.1, 1, 3, 10, 40])
def test_the_law_is_the_published_integral(eps):
    def published(x):  # without its 1/√x, which quad takes as a weight
        return (1 + np.sqrt(x)) / 2 * np.exp(-(x / 2 + np.sqrt(x)))

    integral, _ = quad(published, 0, eps, weight="alg", wvar=(-0.5, 0), epsabs=0, epsrel=1e-13)
    assert randmat.limit_cdf(eps) == pytest.approx(integral, rel=1e-10)
    # In u = √x the density has no pole: dx = 2u du.
    own, _ = quad(lambda u: 2 * u * randmat.limit_pdf(u * u), 0, np.sqrt(eps), epsabs=0, epsrel=1e-12)
    assert randmat.limit_cdf(eps) == pytest.approx(own, rel=1e-10)


@given(st.floats(1e-300, 1e3))
def test_the_law_is_accurate_near_zero(eps):
    with mpmath.workdps(60):
        x = mpmath.mpf(eps)
        assert float(randmat.limit_cdf(eps)) == pytest.approx(float(-mpmath.expm1(-x / 2 - mpmath.sqrt(x))), rel=1e-13)


@given(st.floats(1e-15, 1 - 1e-12))
def test_the_quantile_inverts_the_law(q):
    assert randmat.limit_cdf(randmat.limit_quantile(q)) == pytest.approx(q, rel=1e-12)


def test_the_law_at_its_ends_and_on_arrays():
    assert randmat.limit_cdf(0) == 0 and randmat.limit_cdf(np.inf) == 1
    assert randmat.limit_pdf(0) == np.inf and randmat.limit_pdf(-1) == 0 and randmat.limit_cdf(-1) == 0
    assert randmat.limit_quantile(0) == 0 and randmat.limit_quantile(1) == np.inf
    grid = np.linspace(0.1, 5, 12).reshape(3, 4)
    for law in (randmat.limit_cdf, randmat.limit_pdf):
        assert law(grid).shape == (3, 4) and law(grid)[1, 2] == law(grid[1, 2])
    with pytest.raises(ValueError, match=r"1\.5"):
        randmat.limit_quantile(1.5)


@pytest.mark.parametrize("sampler", [randmat.sample_smallest_eigenvalues, randmat.sample_smallest_eigenvalues_dense])
def test_bad_arguments_are_named(sampler):
    for arguments, text in [
        ((0, 1, 1), "n must be at least 1, not 0"),
        ((1, -2, 1), "p must be .* not -2"),
        ((1, 1, 0), "size must be .* not 0"),
    ]:
        with pytest.raises(ValueError, match=text):
            sampler(*arguments, rng())
    for arguments, text in [((2.5, 3, 1), "n must be a whole number, not 2.5"), ((1, "3", 1), "p .* '3'")]:
        with pytest.raises(TypeError, match=text):
            sampler(*arguments, rng())
    for wrong in (0, None, np.random.RandomState(0)):
        with pytest.raises(TypeError, match="Generator, not " + type(wrong).__name__):
            sampler(2, 2, 1, wrong)


@pytest.mark.parametrize("n", [1, 2, 7, 50, 100])
def test_the_exact_density_is_edelmans(n):
    for eps in (1e-8, 1e-3, 0.5, 5.0, 60.0):
        value = mpmath.mpf(eps) / n
        with mpmath.workdps(40):
            exact = (
                mpmath.gamma(mpmath.mpf(n + 1) / 2)
                / mpmath.sqrt(2 * mpmath.pi * value)
                * mpmath.exp(-n * value / 2)
                * mpmath.hyperu(mpmath.mpf(n - 1) / 2, mpmath.mpf(-1) / 2, value / 2)
            )
        assert randmat.square_pdf(eps, n) == pytest.approx(float(exact), rel=1e-9)
    assert randmat.square_pdf(-1.0, n) == 0


@pytest.mark.parametrize("n", [1, 3, 12])
def test_dense_draws_follow_the_exact_density(n):
    t = np.linspace(0, 10, 20_001)[1:]
    distribution = cumulative_trapezoid(2 * t * randmat.square_pdf(t**2, n), t, initial=0)
    draws = np.sqrt(n * randmat.sample_smallest_eigenvalues_dense(n, n, 4000, rng(n)))
    assert stats.kstest(draws, lambda x: np.interp(x, t, distribution)).pvalue > LEVEL


def test_the_exact_density_is_had_where_tricomis_function_is():
    with pytest.raises(ValueError, match="from 1 to 100, not 101"):
        randmat.square_pdf(1.0, 101)
