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
# # Search a null space for colliding images
#
# A photograph of a cat, and a field of colour noise in which no cat is to be seen. By the end of this notebook one
# trained network gives both the same features, down to the last bits of the arithmetic, and says the same of both.
#
# **What you will do**
# - turn the first weight of a trained network into a matrix and take its null space;
# - build perturbations from the null space and add them to photographs;
# - measure, layer by layer, how much the network notices;
# - run the same recipe on a network with the usual ResNet stem and watch it fail.
#
# **What you will learn**
# - why 64 filters of 147 weights cannot see 83 directions of every window;
# - what "the same features" can mean in floating point, and how to test it;
# - on which networks the recipe of the paper is exact.
#
# **What you need**: linear algebra (rank, orthonormal basis), convolutions in PyTorch. No GPU, no internet; about half a
# minute on two processor cores.

# %%
import warnings

import numpy as np
import torch

from collide_utils import claims, images, models, nullspace, weights
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, pictures

network = "patchnet"
model = models.load(network, dtype=torch.float64)
cat = images.load("chelsea", size=model.input_size)

# %% [markdown]
# ## The claim
#
# Section 2.3 of the supplement builds images with colliding features: take a vector that the first trainable weight maps
# to zero, repeat it over the whole image, scale it by a multiplier β and add it to a photograph. It says that such a
# perturbation can be used as it is (Figure 1), that a random choice of basis vectors does as well (Figure 2), and that
# the prediction stays the same however large β becomes (Figure 4: 8192 in the text, 2048 in the caption).
#
# We test all three. The network at hand, `patchnet`, was trained for this course on photographs. Its first layer is a
# convolution with the matrix of a ResNet's: 64 filters over windows of 7×7 pixels and 3 channels. But its stride is
# 7, so windows lie side by side. Keep that in mind; it will turn out to decide everything.

# %% [markdown]
# ## From the weight to its null space
#
# Flatten each filter into a row: the weight becomes a 64×147 matrix $W$, and what the layer does to one window,
# $w \in \mathbb{R}^{147}$, is $Ww$. A matrix with 147 columns and 64 rows has rank at most 64, so at least 83 dimensions
# of every window vanish.

# %%
first = weights.first_weight(model)
W = first.matrix[0]
print(first)
print("rank", nullspace.matrix_rank(W), " nullity", nullspace.nullity(W))

# %% [markdown]
# The network normalises pixels before its first layer, $w = (x - \text{mean}) / \text{std}$, channel by channel. For a
# perturbation $v$ of the pixels, the mean cancels and the std divides:
# $W\frac{x + v - \text{mean}}{\text{std}} = W\frac{x - \text{mean}}{\text{std}} + W\frac{v}{\text{std}}$.
# So it is not $W$ whose null space we want but $W$ with its columns divided by the std of their channel.

# %%
std = model.normalize.std.flatten().repeat_interleave(7 * 7)
pixel_W = W / std
V = nullspace.null_space(pixel_W)
residual = torch.linalg.matrix_norm(pixel_W @ V, ord=2) / torch.linalg.matrix_norm(pixel_W, ord=2)
print("basis of the null space:", tuple(V.shape))
print("orthonormal:", torch.allclose(V.T @ V, torch.eye(V.shape[1], dtype=V.dtype), atol=1e-13))
print("relative residual below 1e-14:", bool(residual < 1e-14))

# %%
singular_values = torch.linalg.svdvals(pixel_W)
charts.spectrum(
    singular_values.tolist(), columns=W.shape[1],
    alt="The 64 singular values of patchnet's first weight on a logarithmic axis, falling from left to "
        "right; a grey band at their right marks the remaining 83 of the 147 dimensions, the null space.")

# %% [markdown]
# `NullSpaceSearch` does the same for any network. It does not look for a layer called `normalize`: it runs the network on
# three images and measures what happens to a pixel before the first layer sees it. Two orthonormal bases span the same
# space when all the cosines between them, the singular values of their product, are 1.

# %%
search = NullSpaceSearch(model)
cosines = torch.linalg.svdvals(search.basis.T @ V)
print("same space:", torch.allclose(cosines, torch.ones_like(cosines), atol=1e-12))
print("windows overlap:", search.geometry.overlapping)

# %% [markdown]
# ## From a basis vector to a perturbation
#
# A basis vector is a window of 7×7 colours. Repeat it, or give every window a basis vector of its own, drawn at random.
# Each window of a perturbation has norm 1. In the pictures zero is grey and the largest entry black or white.

# %%
generator = torch.Generator().manual_seed(0)
repeated, mosaic = search.repeat(0), search.random(generator)
pictures.images(
    [pictures.perturbation(v) for v in (repeated[:, :7, :7], repeated, mosaic[:, :28, :28], mosaic)],
    ["basis vector 0\n(one window)", "basis vector 0\nin all 32×32 windows",
     "a mosaic\n(4×4 of its windows)", "the mosaic\n(32×32 random choices)"],
    alt="Four pictures: a 7×7 block of coloured pixels; the same block repeated until it looks like an "
        "even texture; sixteen different blocks side by side; and a thousand of them, which look like "
        "colour noise.")

# %% [markdown]
# ## From a perturbation to a colliding photograph
#
# The multiplier β counts 8-bit grey levels: $x' = x + \frac{\beta}{255}\,v$ changes every window by a vector of length β.
# Over 147 numbers that is $\beta/\sqrt{147}$, so β = 8 is hardly visible and β = 2048 is far outside the range of a
# screen. A picture clips what leaves [0, 1]; **the network is given the unclipped numbers**.

# %%
betas = [8 * 2**k for k in range(11)]
shown = [0, 8, 128, 512, 2048, 8192]
colliding = {beta: search.collide(cat, mosaic, beta) for beta in [*betas, 0]}
results = {beta: compare(model, cat, colliding[beta]) for beta in [*betas, 0]}
pictures.images(
    [colliding[beta] for beta in shown],
    [f"β = {beta}: {beta / 147**0.5:.1f} grey levels RMS\n{results[beta].predictions[1]}, "
     f"p = {results[beta].probabilities[1]:.3f}" for beta in shown], columns=3,
    alt="The photograph of a cat with a growing null-space perturbation: unchanged twice, grainy, noisier, "
        "buried in noise but still there at beta 2048, and at beta 8192 nothing but colour noise. Under each the same class and "
        "the same probability.")

# %% [markdown]
# How far apart are the features? `compare` runs the network on both images and gives, for the output of every layer,
# the relative change $\lVert f(y) - f(x) \rVert / \lVert f(x) \rVert$. A change is printed as *rounding* when it stays
# within a bound that grows with the precision of the arithmetic and the size of the input: nothing smaller can be told
# from zero.

# %%
results[8192]

# %% [markdown]
# The difference of the inputs is many times as large as the input; everything from the first convolution on is the same. Here are the numbers behind
# the word *rounding*, for a small and a large β, beside a perturbation of the same norm that is not in the null space.

# %%
noise = torch.randn(mosaic.shape, generator=generator, dtype=torch.float64)
noise *= mosaic.norm() / noise.norm()
lines = {"null space, β = 8": results[8], "null space, β = 8192": results[8192],
         "white noise, β = 8": compare(model, cat, search.collide(cat, noise, 8))}
charts.change_by_layer(
    lines, alt="Relative feature change at every layer on a logarithmic axis. All lines start high at the "
    "input. The two null-space lines drop to about 1e-15 at the first convolution and stay there; the line "
    "for white noise stays ten orders of magnitude above them.")

# %% [markdown]
# ## Turn one photograph into seven, and β into a range
#
# One cat proves little. We take all sample photographs, a repeated vector and a fresh mosaic for each, and every β from 8
# to 8192.

# %%
def stem_change(comparison):
    return dict(comparison.changes)["conv1"]


photographs = {name: images.load(name, size=model.input_size) for name in images.names()}
changes = {"repeat": [], "mosaic": []}
for index, photograph in enumerate(photographs.values()):
    for recipe, v in (("repeat", search.repeat(index)), ("mosaic", search.random(generator))):
        pairs = [compare(model, photograph, search.collide(photograph, v, beta)) for beta in betas]
        changes[recipe] += [stem_change(pair) for pair in pairs]

for recipe, values in changes.items():
    print(f"{recipe}: {len(values)} pairs, every change after the stem below 1e-10: {max(values) < 1e-10}")

# %% [markdown]
# And the predictions, in the float32 that networks run in. The table counts the β, of eleven, at which the perturbed
# photograph keeps its class. It need not be the right class for that: the network knows no rockets, and calls `rocket`
# the same wrong thing throughout. A collision keeps errors too.

# %%
def predictions(model, search):
    """Return for each photograph its class, probability, and whether each β keeps the class."""
    generator, rows = torch.Generator().manual_seed(1), {}
    for name, photograph in photographs.items():
        v = search.random(generator)
        pairs = [compare(model, photograph, search.collide(photograph, v, beta)) for beta in betas]
        rows[name] = (pairs[0].predictions[0], pairs[0].probabilities[0],
                      [pair.predictions[0] == pair.predictions[1] for pair in pairs])
    return rows


def report(rows):
    print(f"{'photograph':<18}{'class':<14}{'p':>5}{'kept':>9}")
    for name, (label, probability, kept) in rows.items():
        print(f"{name:<18}{label:<14}{probability:>5.2f}{sum(kept):>6}/{len(kept)}")


rows = predictions(models.load(network), search)
kept = np.mean([kept for _, _, kept in rows.values()])
report(rows)

# %% [markdown]
# ## How exact is exact?
#
# In real numbers $Wv = 0$. A computer rounds $v$, rounds $x + \frac{\beta}{255} v$ and rounds every product and sum, each
# by a relative error of at most the machine epsilon of its number format. What is left after the stem should therefore be
# proportional to eps, and grow with β once the perturbation dominates the image.

# %%
formats = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
series = {}
for dtype in formats:
    rounded = models.load(network, dtype=dtype)
    pairs = [compare(rounded, cat, colliding[beta]) for beta in betas]
    series[str(dtype).removeprefix("torch.")] = [stem_change(pair) for pair in pairs]
charts.lines(
    betas, series, "Relative feature change after the stem",
    "β (8-bit grey levels per window)", "‖f(y) − f(x)‖ / ‖f(x)‖",
    alt="Relative feature change after the stem against beta on logarithmic axes, one line for each of "
        "bfloat16, float16, float32 and float64: four nearly parallel lines, flat at first and rising once "
        "beta exceeds about a thousand, from about 1e-2 for bfloat16 down to 1e-15 for float64.")

# %% [markdown]
# Is that all rounding? `compare` says *rounding* up to 64 · eps · growth, where growth is the norm of the perturbed image
# over that of the photograph, when that is above 1. The same factor of 64 has to do for four formats that lie thirteen
# orders of magnitude apart.

# %%
growth = float(colliding[8192].norm() / cat.double().norm())
for dtype, values in zip(formats, series.values(), strict=True):
    eps = torch.finfo(dtype).eps
    within = values[-1] < 64 * eps * growth
    print(f"{dtype!s:<15} eps = {eps:.0e}   change at β = 8192 within 64 · eps · growth: {within}")
    assert within

# %% [markdown]
# In bfloat16, the format in which many networks are served, rounding alone changes the features by some per cent at large
# β. A collision is there, but nobody can *see* it there: search in float64, and test in float64.

# %% [markdown]
# ## Run the recipe on an ordinary stem
#
# `stridenet` has the same body and was trained on the same photographs, but begins as a ResNet does: 7×7 windows at
# *stride 2*. Its weight is a 64×147 matrix too, with a null space of the same size. `NullSpaceSearch` finds it, and
# warns.

# %%
stride_model = models.load("stridenet", dtype=torch.float64)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    stride_search = NullSpaceSearch(stride_model)
print(stride_search.layer, " nullity", stride_search.basis.shape[1])
print("warning:", caught[0].message)

# %%
result = compare(stride_model, cat, stride_search.collide(cat, stride_search.repeat(0), 512))
print(result)

# %%
stride_changes = {"repeat": [], "mosaic": []}
for index, photograph in enumerate(photographs.values()):
    for recipe, v in (("repeat", stride_search.repeat(index)), ("mosaic", stride_search.random(generator))):
        pair = compare(stride_model, photograph, stride_search.collide(photograph, v, 512))
        stride_changes[recipe].append(stem_change(pair))
for recipe, values in stride_changes.items():
    print(f"{recipe}: the smallest change after the stem is {min(values):.0%}")
stride_rows = predictions(models.load("stridenet"), stride_search)
stride_kept = np.mean([kept for _, _, kept in stride_rows.values()])
report(stride_rows)

# %% [markdown]
# Every layer notices, and on every photograph the prediction goes at some β. The reason is geometry, not training. A vector $v$ with $Wv = 0$ says that *one* window holding
# exactly $v$ gives no response. At stride 2 the neighbouring windows see $v$ shifted by two pixels, partly wrapped
# around into the next tile, and nothing makes $W$ vanish on shifted copies. Where windows do not overlap no window ever
# sees anything but its own $v$.
#
# So the supplement's recipe is exact on networks that cut the image into patches (our `patchnet`, or `vit_b_32` among the
# networks of torchvision), and on a ResNet it is not. What null space a layer with overlapping windows has as a whole is
# the subject of notebook 07, *Mind the overlap*.

# %% [markdown]
# ## The verdict
#
# Each claim gets a verdict, measured above and compared with the ledger in `data/claims.toml`. If a measurement and the
# ledger ever disagree, this cell fails.

# %%
def verdict(separate, overlapping):
    if separate and overlapping:
        return "holds"
    return "holds if windows do not overlap" if separate else "fails"


for claim, recipe in (("repeated-vector-collides", "repeat"), ("mosaic-collides", "mosaic")):
    measured = verdict(max(changes[recipe]) < 1e-10, min(stride_changes[recipe]) < 1e-10)
    print(claims.check(claim, measured, separate_windows=max(changes[recipe]),
                       overlapping_windows=min(stride_changes[recipe])))
print(claims.check("prediction-kept", verdict(kept == 1, stride_kept == 1), separate_windows=kept,
                   overlapping_windows=stride_kept))

# %% [markdown]
# ## Limits
#
# - The collision is exact for the *unclipped* image. Most of the large-β images leave [0, 1], so a camera or a PNG file
#   could not hold them. Colliding images that are valid photographs are another notebook's subject.
# - `patchnet` is small and knows 22 classes. What we used of it is its first layer; nothing above that layer can undo a
#   collision, in a network of any size.
# - A kept class at a probability near one half is a weaker statement than one near one. The features are the measurement;
#   the class is its consequence.

# %% [markdown]
# ## Exercises
#
# **1. Take away instead of adding.** Remove from the cat everything that the stem cannot see: project each of its windows
# onto the orthogonal complement of the null space. How much of the image's energy goes, and what does the network say?
# (Hint: `torch.nn.functional.unfold(image[None], 7, stride=7)` cuts an image into windows, one a column.)

# %% jupyter={"source_hidden": true}
windows = torch.nn.functional.unfold(cat[None].double(), 7, stride=7)[0]
seen = windows - search.basis @ (search.basis.T @ windows)
without = torch.nn.functional.fold(seen[None], cat.shape[1:], 7, stride=7)[0]
removed = 1 - float(without.square().sum() / cat.double().square().sum())
pair = compare(model, cat, without)
print(f"share of the energy that the stem does not see: {removed:.1%}")
print(pair.verdict)
assert pair.collides_from == "conv1"

# %% [markdown]
# **2. Shift by one.** Move the mosaic one pixel to the right (`torch.roll`) and add it at β = 512. By how much do the
# features change now, compared with white noise of the same norm? What does this say about a network that sees a slightly
# moved copy of a colliding image?

# %% jupyter={"source_hidden": true}
shifted = compare(model, cat, search.collide(cat, mosaic.roll(1, dims=-1), 512))
unrelated = compare(model, cat, search.collide(cat, noise, 512))
ratio = stem_change(shifted) / stem_change(unrelated)
print(shifted.verdict)
print(f"the change is {ratio:.1f} times that of white noise of the same norm")
assert shifted.collides_from is None

# %% [markdown]
# **3. Add two.** Is the sum of two perturbations from the null space another one? Choose two, add both at different β, and
# check. Why does the same not hold for two *adversarial* perturbations?

# %% jupyter={"source_hidden": true}
once = search.collide(cat, search.repeat(5), 700)
twice = search.collide(once, search.random(generator), 300)
print(compare(model, cat, twice).verdict)
assert compare(model, cat, twice).collides_from == "conv1"
