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
# A layer takes $n$ numbers in and gives $p$ numbers out. Is there a change of the input that it hardly notices? If its
# weights are random, the answer depends on $p$ and $n$ alone, and it flips at a place that you can draw.
#
# **What you will do**
# - check both steps of the proof of the supplement's Lemma 1, without sampling where a formula will do;
# - watch the smallest eigenvalue for layers of up to 10,000 inputs;
# - find the shapes for which the lemma holds, and the line where it stops;
# - see on which side of that line the layers of a ResNet-50 lie.
#
# **What you will learn**
# - the law of the smallest singular value of a square random matrix;
# - why $\sqrt n$ more outputs than inputs are enough to keep every direction alive.
#
# **What you need**: eigenvalues, singular values, convergence in probability. No GPU, no internet.
#
# `network` may be any builder's name in torchvision: only the shapes of its layers are used.

# %%
import ipywidgets
import numpy as np
from scipy.integrate import cumulative_trapezoid, quad

from collide_utils import claims, counting, randmat
from collide_utils.show import charts, drawings, exercises, panels

network = "resnet50"
sample = randmat.sample_smallest_eigenvalues

# %% [markdown]
# ## Squeeze a circle
#
# Take all inputs of length 1. With two inputs they form a circle, and a linear layer turns it into an ellipse. The shorter
# half-axis of the ellipse is the smallest singular value $\sigma_{\min}$ of the weight. If it is zero, the layer is blind
# to one direction: any two inputs that differ along it *collide*. If it is merely small, they nearly collide.

# %%
rng = np.random.default_rng(8)
drawings.squeeze([rng.standard_normal((outputs, 2)) for outputs in (1, 2, 8)])

# %% [markdown]
# One output cannot hold two inputs, so the circle falls flat. Two outputs hold it, but they may squeeze it. Eight outputs
# stretch it in every direction. This notebook is about the middle picture: how flat is the ellipse, and how many more
# outputs does it take to round it?

# %% [markdown]
# ## The claim
#
# Lemma 1 (Section 1 of the supplement): let $W$ be an $n \times p$ matrix of independent standard normal entries. Then the
# smallest eigenvalue $\lambda_{\min}$ of $WW^\top$ converges to 0 in probability as $n \to \infty$. Nothing is said of $p$.
#
# In our picture, the layer is $x \mapsto W^\top x$, with $n$ inputs and $p$ outputs, and $\lambda_{\min} =
# \sigma_{\min}^2$. The proof takes two steps. For $p = n$ it quotes Edelman (1988),
#
# $$P(n \lambda_{\min} \le \varepsilon) = \int_0^\varepsilon \frac{1 + \sqrt{x}}{2 \sqrt{x}}\, e^{-(x/2 + \sqrt{x})}\,dx
# + o(1),$$
#
# and gives the integral the value $C_\varepsilon = 1 - e^{-\varepsilon/2 - \sqrt{\varepsilon}}$, from Tao and Vu (2010).
# Then it says that the $o(1)$ "can be absorbed", and that the argument extends to matrices that are not square.

# %% [markdown]
# ## Check the integral
#
# The integrand is the derivative of $C_\varepsilon$. To test the formula as it is printed, we integrate it numerically. The
# pole $x^{-1/2}$ at zero goes into `quad` as a weight.

# %%
def without_pole(x):
    return (1 + np.sqrt(x)) / 2 * np.exp(-(x / 2 + np.sqrt(x)))


def integral(eps):
    return quad(without_pole, 0, eps, weight="alg", wvar=(-0.5, 0), epsabs=0, epsrel=1e-13)[0]


error = max(abs(integral(eps) - randmat.limit_cdf(eps)) for eps in (1e-6, 1e-3, 0.1, 1, 5, 20))
print(claims.check("limit-law-closed-form", difference=error))

# %% [markdown]
# ## Measure the o(1)
#
# How far is the law at a finite $n$ from its limit? Edelman also gives it exactly for each $n$, so we need no sampling. We
# draw the density of $t = \sqrt{n}\,\sigma_{\min}$, which stays finite at zero. Two thousand draws at $n = 100$ show that
# formula and matrices agree.
#
# A draw does not need the matrix. Dumitriu and Edelman (2002) found a bidiagonal one, of $2n - 1$ independent entries, with
# the same singular values. The smallest of them costs $O(n)$ operations instead of $O(n^3)$.

# %%
t = np.linspace(0, 5, 5001)[1:]
limit = 2 * t * randmat.limit_pdf(t**2)
exact = {n: 2 * t * randmat.square_pdf(t**2, n) for n in (1, 2, 4, 8, 16, 32, 64)}
drawn = np.sqrt(100 * sample(100, 100, 2000, rng))
charts.histogram(
    {"2,000 draws, n = 100": drawn}, "How far a square layer squeezes its input", "√n · σ_min", upper=4,
    curves={"limit": (t, limit), "n = 1, exactly": (t, exact[1]), "n = 2, exactly": (t, exact[2])},
    alt="A histogram of root n times the smallest singular value for n = 100 follows the limit curve, which starts at 1 "
        "and falls. The exact curve for n = 1 starts at 0.8 and lies higher around 1; that for n = 2 is in between.")

# %% [markdown]
# The density starts at 1, and not at 0: a square layer squeezes some direction to *almost nothing* with a probability
# that does not depend on its size. In units of $1/\sqrt n$, that is. Now the largest gap between the two distribution
# functions (Kolmogorov's distance):

# %%
gap = {n: np.abs(cumulative_trapezoid(density - limit, t, initial=0)).max() for n, density in exact.items()}
charts.lines(
    list(gap), {"exact law against its limit": list(gap.values())}, "The o(1) of the proof", "n", "largest gap",
    guides={f"{64 * gap[64]:.3f} / n": [64 * gap[64] / n for n in gap]},
    alt="The largest gap between the exact law and its limit, against n on logarithmic axes: from 0.1 at n = 1 it falls "
        "along a straight line, proportional to 1/n.")

# %%
print("n × gap:", ", ".join(f"{n * gap[n]:.3f}" for n in gap))
print(claims.check("limit-is-not-equality", distance_1=gap[1], scaled_64=64 * gap[64]))

# %% [markdown]
# So at any fixed $n$ the equality is false, by about $0.12/n$. For the lemma this does no harm, because there $n$ goes to
# infinity.

# %% [markdown]
# ## Leave the square
#
# Does the argument extend to other shapes? With fewer outputs than inputs, $p < n$, the eigenvalue is exactly 0. For
# $p > n$ we try four surpluses that grow at different speeds. Random matrix theory expects
# $\lambda_{\min} \approx (\sqrt p - \sqrt n)^2 \approx (p - n)^2 / 4n$. If so, a surplus of $\sqrt n$ is special: it gives
# $\frac14$, for all $n$.

# %%
surplus = {"p = n": lambda n: 0, "p = n + n^¼": lambda n: round(n**0.25), "p = n + √n": lambda n: round(n**0.5),
           "p = n + n^¾": lambda n: round(n**0.75), "p = 2n": lambda n: n}
draws = {100: 400, 1000: 200, 10_000: 30}
found = {name: [sample(n, n + more(n), draws[n], rng) for n in draws] for name, more in surplus.items()}
medians = {name: [np.median(values) for values in all_n] for name, all_n in found.items()}
charts.lines(
    list(draws), medians, "The smallest eigenvalue, by the number of outputs", "inputs, n", "median of λ_min",
    guides={"1/4": [0.25] * len(draws), "limit law": [randmat.limit_quantile(0.5) / n for n in draws]},
    alt="The median of the smallest eigenvalue against n, on logarithmic axes, fans out. It falls like 1/n for p = n and "
        "more slowly for a surplus of the fourth root of n. It stays level near a quarter for a surplus of root n. It "
        "rises for larger surpluses, fastest for p = 2n.")

# %%
slope = {name: np.log(values[-1] / values[0]) / np.log(100) for name, values in medians.items()}
for name in surplus:
    print(f"{name:<12} λ_min grows like n to the power {slope[name]:+.1f}")
print(f"at n = 10,000: median {medians['p = n + √n'][-1]:.1f} for p = n + √n")

# %% [markdown]
# The level line is the watershed. Below it, where $p \le n + o(\sqrt n)$, the eigenvalue goes to 0; a surplus that stays
# bounded is far more than the lemma needs. On the line it stays near $\frac14$. Above, it *grows*: such a layer stretches
# every direction, and more so the larger it is. The lemma as stated, for any $p$, fails.

# %%
print(claims.check("lemma-square", below=np.mean(found["p = n"][-1] < 0.001)))
print(claims.check("lemma-not-square", doubled=slope["p = 2n"], below=slope["p = n + n^¼"],
                   watershed=medians["p = n + √n"][-1]))

# %% [markdown]
# Walk over the watershed yourself. The panel draws $\lambda_{\min}$ for $p = n + c\sqrt n$.

# %%
def draw(n, c):
    p = n + round(c * n**0.5)
    values = sample(n, p, 200, np.random.default_rng(0))
    return charts.histogram(
        {"200 draws": values}, f"λ_min for {n} inputs and {p} outputs", "λ_min", marks={"c² / 4": c**2 / 4}, upper=1.5,
        alt=f"200 draws of the smallest eigenvalue for n = {n} and p = {p}: the median is {np.median(values):.2g}.")


panels.panel(draw, n=ipywidgets.IntSlider(100, 10, 1000, 10, description="n"),
             c=ipywidgets.FloatSlider(value=1, min=0, max=2, step=0.1, description="c"))

# %% [markdown]
# Where no kernel runs, here is the panel on the watershed, at $c = 1$. As $n$ grows, the draws gather at the mark.

# %%
draw(1000, 1)

# %% [markdown]
# ## Place the layers of a network
#
# Each dot below is a shape of a layer: as inputs count the entries of one window, as outputs the channels.

# %%
shapes = [(row.columns, row.rows) for row in counting.per_layer(network)]
charts.layer_shapes(
    shapes, f"The layers of {network}",
    alt=f"The layers of {network} as dots, by inputs and outputs on logarithmic axes. The half with fewer outputs than inputs "
        "is shaded; a thin strip above it ends at n plus root n outputs.")

# %%
below, above = sum(p < n for n, p in shapes), sum(p > n + n**0.5 for n, p in shapes)
print(f"fewer outputs than inputs: {below} layers, with an exact null space, random or not")
print(f"as many outputs, or up to √n more: {len(shapes) - below - above}, the case of the lemma")
print(f"more outputs than that: {above}, which lose no direction if their weights are random")

# %% [markdown]
# Most layers do not need the lemma: their shape alone makes them blind to something. The next notebook takes one of them
# and looks for what it does not see.

# %% [markdown]
# ## Limits
#
# - Trained weights are not Gaussian. Tao and Vu prove the limit law for other independent entries, but training makes
#   entries depend on each other. [Notebook 04](04_see_what_training_adds.ipynb) measures what that does.
# - A small eigenvalue is a *near*-collision. Exact ones come from shape.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. How likely is a near-collision?** A square layer has 4096 inputs. With what probability, in per cent, does it squeeze
# some unit vector to a length below 0.001? One digit after the point is enough.

# %%
answer = ...
check = exercises.checker(lambda percent: abs(percent / 100 - randmat.limit_cdf(4096 * 0.001**2)) < 0.001)
check(answer)

# %% jupyter={"source_hidden": true}
# A length below 0.001 means λ_min < 0.001², so n·λ_min < 4096 · 0.001². The limit law gives about 6.4 %.
check(100 * (1 - np.exp(-4096e-6 / 2 - np.sqrt(4096e-6))))

# %% [markdown]
# **2. Keep every direction.** A random layer with 900 inputs should shorten no input: $\lambda_{\min} \ge 1$. How many
# outputs does it need at least, by the formula $(\sqrt p - \sqrt n)^2$?

# %%
answer = ...
check = exercises.checker(lambda p: (p**0.5 - 30) ** 2 >= 1 > ((p - 1) ** 0.5 - 30) ** 2)
check(answer)

# %% jupyter={"source_hidden": true}
# √p must be at least √900 + 1 = 31, so p = 961: about 2√n more outputs than inputs.
check(961)

# %% [markdown]
# **3. Flip coins.** Fill an $n \times n$ matrix with ±1 at random. For large $n$ it follows the law of this notebook (Tao and
# Vu, 2010). Not so for $n = 2$: with what probability is it singular there?

# %%
answer = ...
check = exercises.checker(lambda probability: probability == 1 / 2)
check(answer)

# %% jupyter={"source_hidden": true}
# It is singular if the second row is the first or its negative: two of four rows, so with probability 1/2.
check(1 / 2)
