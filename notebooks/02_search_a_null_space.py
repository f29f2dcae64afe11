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
# A photograph, and the same photograph under noise so strong that it drowns. One trained network computes the same
# features from both, down to the last bits of the arithmetic. Another one, with the first layer of a ResNet, does not.
#
# **What you will do**
# - turn the first layer of a network into a matrix and take its null space;
# - build perturbations from it, add them to photographs, and measure what the network notices;
# - find out which number formats can tell a collision from a near miss;
# - try the same recipe on a ResNet's first layer and see it fail.
#
# **What you will learn**
# - what "the same features" means in floating point, and how to test it;
# - why the recipe needs windows that do not overlap, and images that nobody clips.
#
# **What you need**: rank, orthonormal bases, convolutions in PyTorch. No GPU, no internet.
#
# `network` may be `patchnet`, `patchnet-b`, `patchnet-l2`, or `vit_b_32` if its weights are in torch's cache: networks
# whose first windows do not overlap.

# %%
import math
import warnings

import torch

from collide_utils import NullSpaceSearch, claims, compare, images, models
from collide_utils.comparison import Reference
from collide_utils.show import charts, drawings, exercises, pictures

network, overlapping = "patchnet", "stridenet"
model = models.load(network, dtype=torch.float64)
search = NullSpaceSearch(model)
assert not search.geometry.overlapping, f"the windows of {network} overlap: notebook 09 is about such networks"
photographs = {name: images.load(name, model.input_size) for name in images.names()}
cat = photographs["chelsea"]

# %% [markdown]
# ## The claim
#
# Section 2.3 of the supplement builds images with colliding features. Take a vector that the first weight maps to zero.
# Repeat it over the whole image, multiply it by a number β, and add it to a photograph. This can be done "as is"
# (Figure 1). A random choice of such vectors does as well (Figure 2). And all perturbed images lead to the same
# prediction, up to β = 2048 (the caption of Figure 4) or 8192 (the text).

# %% [markdown]
# ## Turn the layer into a matrix
#
# A convolution looks at one window at a time. Write the window as a column of numbers and each filter as a row: then the
# layer multiplies by a matrix $W$.

# %%
W, V = search.weight, search.basis
drawings.window_times_weight(cat, search.geometry, (20, 9), W)

# %%
print(f"W is {W.shape[0]}×{W.shape[1]}; its null space has {V.shape[1]} dimensions; windows overlap: {search.geometry.overlapping}")
print("W V = 0, to rounding:", bool((W @ V).norm() < 1e-13 * W.norm()))

# %% [markdown]
# More columns than rows: some windows must give no response at all. The columns of $V$ are an orthonormal basis of them.
#
# One detail: networks normalise their pixels, channel by channel, before the first layer. `NullSpaceSearch` measures how,
# and `search.weight` acts on the pixels themselves.

# %% [markdown]
# ## Make a perturbation
#
# Put one basis vector into every window, or draw another one for each. Here is a corner of both. Zero is grey.

# %%
generator = torch.Generator().manual_seed(0)
repeated, mosaic = search.repeat(0), search.random(generator)
height, width = search.geometry.window
pictures.images(
    [pictures.perturbation(v) for v in (repeated[:, :height, :width], repeated[:, :4 * height, :4 * width],
                                        mosaic[:, :4 * height, :4 * width])],
    ["one basis vector", "repeated: 4×4 windows", "a mosaic: 4×4 windows"], columns=3,
    alt="Three pictures: a window of coloured pixels; sixteen copies of it, side by side, which make a regular texture; "
        "sixteen different windows, which look like colour noise.")

# %% [markdown]
# ## Add it to a photograph
#
# $x' = x + \frac{\beta}{255} v$ changes every window by a vector of length β, in grey levels. For large β many numbers
# leave $[0, 1]$. A screen clips them. So there are two images: the one whose numbers we *feed* to the network, and the one
# that you are *shown*. Under each picture stands what the network says of both.

# %%
def said(x, y):
    return f"fed: {compare(model, x, y).said[1]}\nshown: {compare(model, x, y.clamp(0, 1)).said[1]}"


shown = {beta: search.collide(cat, mosaic, beta) for beta in (0, 8, 128, 512, 2048, 8192)}
pictures.images(
    list(shown.values()), columns=3,
    titles=[f"β = {b}: {b / math.sqrt(len(V)):.1f} grey levels RMS\n{said(cat, y)}" for b, y in shown.items()],
    alt="A photograph of a cat under growing noise: not to be seen at β = 8, a grain at 128, strong at 512, stronger than "
        "the cat at 2048 and 8192. What the network says of the numbers never changes; what it says of the clipped "
        "picture does.")

# %% [markdown]
# Fed the numbers, the network says the same to the last digit, whatever β is. Fed the picture that you see, it follows for
# a while, and then it does not. The prediction is kept, then, *if nothing is clipped*.
#
# `compare` shows why. For each layer it prints the relative change of the output,
# $\lVert f(y) - f(x) \rVert / \lVert f(x) \rVert$, or the word *rounding* if the change is too small to be told from zero.

# %%
compare(model, cat, shown[8192])

# %%
noise = torch.randn(mosaic.shape, generator=generator, dtype=torch.float64)
noise *= mosaic.norm() / noise.norm()
charts.change_by_layer(
    {"null space, β = 8": compare(model, cat, shown[8]), "null space, β = 8192": compare(model, cat, shown[8192]),
     "white noise, β = 8": compare(model, cat, search.collide(cat, noise, 8))},
    alt="Relative change of each layer's output, on a logarithmic axis: from the first convolution on the two lines for the "
        "null space lie near rounding, and the one for white noise stays far above.")

# %% [markdown]
# One cat proves little. We take every sample photograph, both recipes, and β from 8 to 8192.

# %%
recipes = ("repeat", "mosaic")


def measure(model, search, betas):
    """Return for each recipe, photograph and β the perturbed image and its comparison with the photograph."""
    found = {}
    for place, (name, photograph) in enumerate(photographs.items()):
        reference = Reference(model, photograph)
        for recipe, v in zip(recipes, (search.repeat(place), search.random(generator)), strict=True):
            for beta in betas:
                y = search.collide(photograph, v, beta)
                found[recipe, name, beta] = y, reference.compare(y)
    return found


def kept(pairs):
    return sum(pair.predictions[0] == pair.predictions[1] for pair in pairs) / len(pairs)


# %%
found = measure(model, search, (8, 32, 128, 512, 2048, 8192))
change = {recipe: max(pair.changes[search.layer.name] for (r, *_), (_, pair) in found.items() if r == recipe) for recipe in recipes}
fed = kept([pair for _, pair in found.values()])
clipped = kept([compare(model, photographs[name], y.clamp(0, 1)) for (r, name, _), (y, _) in found.items() if r == "mosaic"])
print(f"{len(found)} pairs; every change after {search.layer.name} below 1e-10: {max(change.values()) < 1e-10}")
print(f"prediction kept, fed: {fed:.0%}; shown: {clipped:.0%}")

# %% [markdown]
# ## Ask how exact it is
#
# In real numbers $Wv = 0$. A computer rounds every sum and product, by a relative error of up to eps. `compare` allows 64
# eps, times the growth of the image if it grew. Can such a bound fail? It is worth something only where white noise of the
# same size stands clearly above it. We ask for a factor of ten.

# %%
betas, panels = (8, 128, 2048, 8192), {}
for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
    reference = Reference(models.load(network, dtype=dtype), cat)
    null, white = ([reference.compare(search.collide(cat, v, beta)) for beta in betas] for v in (mosaic, noise))
    panels[str(dtype).removeprefix("torch.")] = {
        "null space": [pair.changes[search.layer.name] for pair in null], "bound": [pair.bound for pair in null],
        "white noise": [pair.changes[search.layer.name] for pair in white]}
charts.lines_apart(
    betas, panels, "β", "relative change after the first layer",
    alt="Four panels, for bfloat16, float16, float32 and float64. The line for white noise is the same in all. The null "
        "space's line and the bound above it fall from panel to panel. In bfloat16 the bound is near the noise or above it.")

# %%
for name, lines in panels.items():
    blind = [beta for beta, bound, white in zip(betas, lines["bound"], lines["white noise"], strict=True) if bound > white / 10]
    inside = all(null < bound for null, bound in zip(lines["null space"], lines["bound"], strict=True))
    print(f"{name:<9} {f'cannot tell at β = {blind}' if blind else f'all inside the bound: {inside}'}")
rounded = models.load(network, dtype=torch.bfloat16).double()
own = NullSpaceSearch(rounded)
print("bfloat16's weights:", compare(rounded, cat, own.collide(cat, own.random(generator), 8192)).verdict)

# %% [markdown]
# Where a short format *cannot tell*, what rounding may do is not clearly less than what noise does, and "inside the bound"
# would be true of everything. Is there a collision at all when the weights are rounded to bfloat16? There is: the last line
# takes the null space of the rounded weights and runs them in float64. Search in float64, then, and test in float64.

# %% [markdown]
# ## Run it on a ResNet's first layer
#
# `stridenet` begins as a ResNet does: the same 7×7 windows, but at *stride 2*. Its weight has as many null vectors. What
# do its windows see of a repeated one?

# %%
drawings.windows_over_tiles(pictures.perturbation(repeated)[:, :height, :5 * width], width, (width, 2))

# %% [markdown]
# $Wv = 0$ speaks of one window that holds exactly $v$. A window that starts two pixels on holds a shifted $v$, and nothing
# makes $W$ vanish there. Here is each photograph at the first β that changes what `stridenet` says.

# %%
other = models.load(overlapping)
with warnings.catch_warnings(record=True) as caught:
    other_search = NullSpaceSearch(other)
print(caught[0].message)
other_found = measure(other, other_search, (128, 512, 2048, 8192))
lost = {name: (beta, y, pair) for (recipe, name, beta), (y, pair) in reversed(other_found.items())
        if recipe == "mosaic" and pair.predictions[0] != pair.predictions[1]}
pictures.images(
    [y for _, y, _ in lost.values()],
    [f"{pair.said[0]}\nβ = {beta}, fed: {pair.said[1]}\nshown: {compare(other, y, y.clamp(0, 1)).said[1]}"
     for beta, y, pair in lost.values()],
    alt="Photographs under noise. Above each stands what stridenet says of the photograph, and below that the other class "
        "that it names for the perturbed numbers, and what it says of the picture as shown.")

# %% [markdown]
# Label after label falls. The reason is geometry, not training. So the recipe is exact on networks that cut the image into
# patches *and* whose weight has fewer rows than columns. Few do both: of torchvision's 18 architectures whose first
# windows do not overlap, only ViT-B/32 and ViT-L/32. What a layer with overlapping windows cannot see is the subject
# of [Mind the overlap](09_mind_the_overlap.ipynb).

# %% [markdown]
# ## The verdict

# %%
for claim, recipe in (("repeated-vector-collides", "repeat"), ("mosaic-collides", "mosaic")):
    noticed = min(other_found[recipe, name, 512][1].changes[other_search.layer.name] for name in photographs)
    print(claims.check(claim, separate_windows=change[recipe], overlapping_windows=noticed))
print(claims.check("prediction-kept", separate_windows=fed, shown=clipped,
                   overlapping_windows=kept([pair for _, pair in other_found.values()])))

# %% [markdown]
# ## Limits
#
# - Large β needs numbers outside $[0, 1]$, which no camera gives. Colliding images that are valid photographs come in
#   [Turn up β](07_turn_up_beta.ipynb).
# - `patchnet` is small. But we used its first layer only, and nothing above that layer can undo a collision.

# %% [markdown]
# ## Exercises
#
# **1. Count for an image.** How many dimensions of a whole image of `patchnet` does its first layer not see?

# %%
answer = ...
check = exercises.checker(lambda dimensions: dimensions == search.basis.shape[1] * math.prod(search.geometry.grid))
check(answer)

# %% jupyter={"source_hidden": true}
# Windows do not overlap, so each may hold its own null vector: 83 dimensions in each of 32 × 32 windows.
check(83 * 32 * 32)

# %% [markdown]
# **2. Shift it.** Move a mosaic of `patchnet` by one pixel (`v.roll(1, dims=-1)`) and add it to the cat. Do the images still
# collide? Answer `True` or `False`.

# %%
answer = ...
moved = compare(model, cat, search.collide(cat, search.random().roll(1, dims=-1), 512))
check = exercises.checker(lambda collide: collide is (moved.collides_from is not None))
check(answer)

# %% jupyter={"source_hidden": true}
# Each window now holds parts of two null vectors, as at stride 2: a collision does not survive a shift by one pixel.
check(False)
