# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Watch the smallest eigenvalue vanish
#
# Fill a large square matrix with random numbers, and some direction is almost sure to be squeezed to nearly nothing. How
# nearly is known exactly, and this notebook draws it, from 1×1 up to a hundred thousand rows.
#
# **What you will do**
# - check both steps of the proof of the supplement's Lemma 1, the second with a number where the proof has none;
# - sample the smallest eigenvalue of $WW^\top$ for matrices far too large to write down;
# - find out for which shapes the lemma is true, and watch it fail for the others;
# - sort the layers of a ResNet-50 into those shapes.
#
# **What you will learn**
# - the law of the smallest singular value of a square Gaussian matrix, and how fast it sets in;
# - why a random $n \times p$ matrix with $p = 2n$ is well-conditioned.
#
# **What you need**: eigenvalues and singular values, convergence in probability. About half a minute on two processor
# cores.

# %%
import ipywidgets
import numpy as np
from scipy.integrate import quad

from collide_utils import claims, models, randmat, weights
from collide_utils.show import charts, panels

rng = np.random.default_rng(1)
sample = randmat.sample_smallest_eigenvalues

# %% [markdown]
# ## The claim
#
# Lemma 1 (Section 1 of the supplement): let $W$ be $n \times p$ with independent standard normal entries. Then the
# smallest eigenvalue $\lambda_{\min}$ of $WW^\top$, the square of the smallest singular value of $W$, converges to 0 in
# probability as $n \to \infty$. The proof quotes Edelman (1988) for square matrices,
#
# $$P(n \lambda_{\min} \le \varepsilon) = \int_0^\varepsilon \frac{1 + \sqrt{x}}{2 \sqrt{x}}\, e^{-(x/2 + \sqrt{x})}\,dx
# + o(1),$$
#
# takes the value of the integral, $C_\varepsilon = 1 - e^{-\varepsilon/2 - \sqrt{\varepsilon}}$, from Tao and Vu (2010),
# says that the $o(1)$ "can be absorbed" into it, and that the argument extends to matrices that are not square.

# %% [markdown]
# ## Step 1: the integral
#
# The derivative of the exponent $\varepsilon/2 + \sqrt{\varepsilon}$ is
# $\frac12 + \frac{1}{2\sqrt\varepsilon} = \frac{1 + \sqrt\varepsilon}{2\sqrt\varepsilon}$, the factor in front: the
# integrand is the derivative of $C_\varepsilon$, and $C_0 = 0$. To be sure of the formula as it is printed, and of our
# code, we integrate it numerically. It has a pole of order $x^{-1/2}$ at 0, which `quad` takes as a weight.

# %%
def integrand_without_pole(x):
    return (1 + np.sqrt(x)) / 2 * np.exp(-(x / 2 + np.sqrt(x)))


def integral(eps):
    return quad(integrand_without_pole, 0, eps, weight="alg", wvar=(-0.5, 0), epsabs=0, epsrel=1e-13)[0]


points = [1e-6, 1e-3, 0.1, 1, 5, 20]
step_1 = max(abs(integral(eps) - randmat.limit_cdf(eps)) for eps in points)
print("integral and closed form agree to 12 digits:", step_1 < 1e-12)

# %% [markdown]
# ## The law, drawn
#
# A draw of $\lambda_{\min}$ seems to need a matrix, and its singular values $O(n^3)$ operations. It does not: Dumitriu and
# Edelman (2002) showed that $W$ has the singular values of a bidiagonal matrix of independent chi variables, $2n - 1$
# numbers. Bisection finds the smallest of them in $O(n)$, without loss of precision however small it is.

# %%
draws = {10: 4000, 100: 2000, 1000: 500, 100_000: 20}
scaled = {n: n * sample(n, n, size, rng) for n, size in draws.items()}
labelled = {f"n = {n:,} ({len(values)} draws)": values for n, values in scaled.items()}
charts.against_law(
    labelled, randmat.limit_pdf, randmat.limit_cdf, "n · λ_min",
    alt="Two panels. Histograms of n times the smallest eigenvalue for n from 10 to 100,000 follow one "
        "steep curve that is infinite at zero; the empirical distributions lie on one rising curve, the "
        "one for 100,000 as a coarse staircase since it has 20 draws.")

# %% [markdown]
# For n = 10 the law is already there. Multiplied by $n$, the smallest eigenvalue has the same distribution for all $n$; so
# $\lambda_{\min}$ itself goes to 0 like $1/n$.

# %% [markdown]
# ## Step 2: the o(1)
#
# The proof ends with "=", where Edelman has "= … + o(1)". For a *fixed* n the equality is false: at n = 1,
# $\lambda_{\min}$ is a squared normal variable, which has another law. How false is it? We measure the largest distance
# between the two distribution functions (Kolmogorov's), for small matrices with many draws. What the number of draws
# itself contributes stays below the dotted line 99 % of the time.

# %%
def distance(values):
    values = np.sort(values)
    law, steps = randmat.limit_cdf(values), np.arange(len(values) + 1) / len(values)
    return max(np.max(steps[1:] - law), np.max(law - steps[:-1]))


small = [1, 2, 4, 8]
count = 40_000
distances = [distance(n * randmat.sample_smallest_eigenvalues_dense(n, n, count, rng)) for n in small]
noise = 1.63 / np.sqrt(count)
charts.lines(
    small, {"measured": distances}, "How far the law is from its limit", "n", "Kolmogorov distance",
    guides={"1/(9n)": [1 / (9 * n) for n in small], "sampling noise, 99 %": [noise] * len(small)},
    alt="The Kolmogorov distance between the law of n times lambda-min and its limit, against n on "
        "logarithmic axes: it falls from about 0.1 at n = 1 along the line 1/(9n), and is still above the "
        "sampling noise at n = 8.")

# %%
decay = np.polyfit(np.log(small), np.log(distances), 1)[0]
print(f"at n = 1 the distance is {distances[0]:.2f}; it falls like n to the power {decay:.1f}")
alike = distance(scaled[100]) < 1.63 / np.sqrt(draws[100])
print("at n = 100, 2000 draws cannot tell the law from its limit:", alike)

# %% [markdown]
# So the o(1) is about $1/(9n)$: it cannot be dropped at any fixed n, but carried on to n = 100 that is a tenth of a per
# cent. For the
# lemma it does not matter, since there n goes to infinity: $P(\lambda_{\min} \le \delta) = P(n\lambda_{\min} \le n\delta)$,
# and $n\delta$ exceeds any ε sooner or later.

# %% [markdown]
# ## Leave the square
#
# "The argument can be extended to the non-square case", the proof says. Let us see which. Four shapes: fewer columns than
# rows; square; a fixed number of columns more; twice as many columns as rows.

# %%
shapes = {"p = n": lambda n: n, "p = n + 10": lambda n: n + 10, "p = 2n": lambda n: 2 * n}
sizes = [30, 100, 300, 1000, 3000, 10_000]
medians = {name: [np.median(sample(n, shape(n), 400 if n < 3000 else 80, rng)) for n in sizes]
           for name, shape in shapes.items()}
edge = [(np.sqrt(2 * n) - np.sqrt(n)) ** 2 for n in sizes]
limit = [randmat.limit_quantile(0.5) / n for n in sizes]
charts.lines(
    sizes, medians, "The smallest eigenvalue of W Wᵀ, W n×p", "n", "median of λ_min",
    guides={"(√p − √n)² at p = 2n": edge, "median of the limit law": limit},
    alt="Median of the smallest eigenvalue against n on logarithmic axes. For p = n and p = n + 10 it "
        "falls along lines of slope minus one, the second one higher; for p = 2n it rises with slope one, "
        "along the curve of the square of root p minus root n.")

# %%
slopes = {name: np.polyfit(np.log(sizes), np.log(values), 1)[0] for name, values in medians.items()}
for name, slope in slopes.items():
    print(f"{name:<11} λ_min grows like n to the power {slope:+.1f}")
ratio = medians["p = 2n"][-1] / edge[-1]
print(f"p = 2n: median over (√p − √n)² at n = {sizes[-1]:,}: {ratio:.2f}")
print("p < n, by definition of the rank:", np.linalg.matrix_rank(rng.standard_normal((20, 12))) < 20)

# %% [markdown]
# With fewer columns than rows $WW^\top$ is singular: exactly 0, always. With a bounded surplus the eigenvalue still
# vanishes like $1/n$. But with p = 2n it *grows*, like $(\sqrt p - \sqrt n)^2$: such a matrix stretches every direction,
# and the larger it is the more. The lemma as it is stated, for any p, is false; it needs $p - n$ to stay bounded (or p < n).

# %% [markdown]
# Try it: choose n and the ratio p/n. Even p = 1.1 n is enough to lift the eigenvalue off the ground.

# %%
def draw(n, ratio):
    p = round(ratio * n)
    values = n * sample(n, p, 200, np.random.default_rng(0)) if p >= n else np.zeros(200)
    return charts.against_law(
        {f"{n}×{p}": values}, randmat.limit_pdf, randmat.limit_cdf, "n · λ_min", upper=max(6, 1.1 * values.max()),
        alt=f"200 draws of a {n}×{p} matrix: the median of n · λ_min is {np.median(values):.3g}; "
            f"in the law for p = n it is {randmat.limit_quantile(0.5):.3g}.")


# %%
panels.panel(draw, n=ipywidgets.IntSlider(100, 10, 1000, 10, description="n"),
             ratio=ipywidgets.FloatSlider(value=1.0, min=0.5, max=1.5, step=0.01, description="p / n"))

# %% [markdown]
# Without a kernel, here is what the panel shows for p = 1.1 n.

# %%
draw(100, 1.1)

# %% [markdown]
# ## What it means for a layer
#
# A weight with n rows (outputs) and p columns (inputs) sends an input $x$ to $Wx$. The lemma's $WW^\top$ is the n×n matrix
# of the *outputs*. Two inputs collide when $W$ nearly annihilates their difference, and that is governed by the p×p matrix
# $W^\top W$: the lemma with n and p exchanged. For collisions, then: more columns than rows, and there is an exact null
# space; equally many, and there is a direction squeezed by about $1/\sqrt{n}$; clearly fewer, and there is none.
#
# Here are the shapes of a ResNet-50, with p/n as the lemma has it.

# %%
layers = weights.layer_weights(models.load("resnet50", weights=None))
shapes_found, counts = np.unique([layer.matrix.shape[1:] for layer in layers], axis=0, return_counts=True)


def regime(n, p):
    if p > n:
        return "exact null space of the inputs"
    return "square: the lemma's 1/n" if p == n else "no input is squeezed; W Wᵀ is singular"


print(f"{'n':>5}{'p':>6}{'p/n':>7}{'layers':>8}  regime")
for (n, p), number in zip(shapes_found, counts, strict=True):
    print(f"{n:>5}{p:>6}{p / n:>7.2f}{number:>8}  {regime(n, p)}")

# %% [markdown]
# Most layers do not need the lemma: they have an exact null space because of their shape, random or not. Only a layer with
# as many inputs as outputs is a case for it, and a ResNet-50 has few. Trained weights are not Gaussian, either; what
# training does to the small singular values is measured in a later notebook.

# %% [markdown]
# ## The verdict

# %%
print(claims.check("limit-law-closed-form", "holds" if step_1 < 1e-12 else "fails", difference=step_1))
exact = max(distances) < noise
vanishing = distances[-1] < 0.3 * distances[0]
absorbed = "holds" if exact else "holds if n goes to infinity" if vanishing else "fails"
print(claims.check("limit-is-not-equality", absorbed, distance_1=distances[0], distance_8=distances[-1]))
print(claims.check("lemma-square", "holds" if slopes["p = n"] < -0.9 else "fails", slope=slopes["p = n"]))
bounded, proportional = slopes["p = n + 10"] < -0.7, slopes["p = 2n"] < 0
lemma = "holds" if bounded and proportional else "holds if p − n stays bounded" if bounded else "fails"
print(claims.check("lemma-not-square", lemma, slope_bounded=slopes["p = n + 10"],
                   slope_double=slopes["p = 2n"]))

# %% [markdown]
# ## Limits
#
# - The lemma speaks of Gaussian matrices. Tao and Vu (2010) prove the same limit for other independent entries; nobody
#   proves it for trained weights.
# - A small eigenvalue is an *approximate* collision. The exact ones of the next notebook have another cause: shape.

# %% [markdown]
# ## Exercises
#
# **1. Coin flips.** Replace the Gaussian entries by ±1 with equal probability, for n = 50. Does the law hold? What is the
# chance that a matrix of coin flips is exactly singular, and where does it show?

# %% jupyter={"source_hidden": true}
coins = rng.choice([-1.0, 1.0], size=(3000, 50, 50))
coin_distance = distance(50 * np.linalg.svd(coins, compute_uv=False)[:, -1] ** 2)
print("coin flips follow the Gaussian's law:", coin_distance < 1.95 / np.sqrt(3000))
assert coin_distance < 1.95 / np.sqrt(3000)

# %% [markdown]
# **2. How likely is a near-collision?** A square layer of width n = 4096 with Gaussian entries: with what probability does
# it squeeze some unit vector to a length below 0.001? Answer with `limit_cdf`, then check with 300 draws.

# %% jupyter={"source_hidden": true}
predicted = randmat.limit_cdf(4096 * 0.001**2)
observed = np.mean(sample(4096, 4096, 300, rng) < 0.001**2)
print(f"predicted {predicted:.3f}; observed within three standard errors:",
      bool(abs(observed - predicted) < 3 * np.sqrt(predicted * (1 - predicted) / 300)))
assert abs(observed - predicted) < 3 * np.sqrt(predicted * (1 - predicted) / 300)
