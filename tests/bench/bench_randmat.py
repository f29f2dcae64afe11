"""The bidiagonal sampler of λ_min against numpy's SVD of the matrix, its growth with n, its memory."""

import resource
import sys
import time

import numpy as np

from collide_utils.randmat import sample_smallest_eigenvalues, sample_smallest_eigenvalues_dense


def seconds(sampler, n, size):
    start = time.perf_counter()
    sampler(n, n, size, np.random.default_rng(0))
    return (time.perf_counter() - start) / size


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


before = megabytes()
sample_smallest_eigenvalues(10**6, 10**6, 1, np.random.default_rng(0))
print(f"n = 1,000,000: peak memory {megabytes() - before:.0f} MB above the interpreter")

for n, size in ((200, 20), (1000, 3), (2000, 2)):
    ratio = seconds(sample_smallest_eigenvalues_dense, n, size) / seconds(sample_smallest_eigenvalues, n, 200)
    print(f"n = {n}: numpy.linalg.svd takes {ratio:.0f} times as long a draw")

sizes = [10**3, 10**4, 10**5, 10**6]
times = [seconds(sample_smallest_eigenvalues, n, max(2, 10**5 // n)) for n in sizes]
print(f"time a draw grows like n to the power {np.polyfit(np.log(sizes), np.log(times), 1)[0]:.2f}, n from 1e3 to 1e6")
