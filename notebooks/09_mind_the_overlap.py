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
# # Mind the overlap
#
# A ResNet's first weight has a null space of 83 dimensions, and yet its first convolution maps no image but zero to zero.
# This notebook shows how both can be true, and what an honest search finds there: perturbations that are quiet, not silent.
#
# **What you will do**
# - put a null vector of the weight into every tile of an image, and map where the response vanishes;
# - split a convolution into one small matrix for each frequency, its *symbol*, and count null spaces with it;
# - sort the first layers of torchvision's classifiers;
# - put a photograph under the quietest wave of the layer.
#
# **What you will learn**
# - why the number of outputs and the stride decide, not the size of the window;
# - what training does to the quiet waves.
#
# **What you need**: [notebook 02](02_search_a_null_space.ipynb); the Fourier transform. No GPU, no internet.
#
# `network` may be `stridenet` or any of torchvision's networks whose first convolution overlaps: `resnet18` or `resnet50`, for
# example, where their weights are in torch's cache.

# %%
import copy
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from collide_utils import claims, counting, images, models, symbol
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch, OverlapWarning
from collide_utils.show import drawings, exercises, pictures

# %%
network = "stridenet"
model = models.load(network, dtype=torch.float64)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", OverlapWarning)  # that windows overlap is our subject
    search = NullSpaceSearch(model)
assert search.geometry.overlapping, f"the windows of {network} do not overlap: notebook 02 is about such networks"
stem = copy.deepcopy(model.get_submodule(search.layer.name)).requires_grad_(False)
stem.weight.copy_(search.weight.view_as(stem.weight))  # as it acts on pixels
stem.bias = None
size, stride = model.input_size, stem.stride[0]
print(stem)
print("nullity of its weight:", search.basis.shape[1])

# %% [markdown]
# ## The claim
#
# Table 1 of the supplement counts the null spaces of weights, and Section 2.1 concludes that feature collisions exist for
# most of the trainable weights, those of ResNets among them. That takes a step: from a *matrix* that has a null space to a
# *layer* that has one. Notebook 02 saw the recipe fail on overlapping windows. Was that the recipe's fault, or is there
# nothing to be found?

# %% [markdown]
# ## Map where the response vanishes
#
# Tile an image with one null vector. A window that lies on a tile sees the vector itself and answers zero. Every other window
# sees it shifted, partly wrapped around into the next tile.

# %%
k = search.geometry.window[0]
drawings.windows_over_tiles(pictures.perturbation(search.repeat(0)[:, :k, :5 * k]), k, (k, stride))

# %%
def gain(v):
    return float(stem(v[None]).norm() / v.norm())


generator = torch.Generator().manual_seed(0)
noise = torch.randn(3, size, size, generator=generator).double()
response = stem(search.repeat(0)[None])[0].norm(dim=0) / stem(noise[None])[0].norm(dim=0).mean() * noise.norm() / search.repeat(0).norm()
zero = response < 1e-12 * response.max()
pictures.heatmaps(
    [response[2:30, 2:30], zero[2:30, 2:30].double()], ["Response to a tiled null vector", "Where it is zero"],
    "position", "position", "white noise = 1 (right: 1 where zero)", shared=False,
    alt="Two maps of 28×28 positions. Left: a pattern of period 7, mostly bright. Right: single points on a square lattice, "
        "where the response is exactly zero.")

# %%
tiles = [gain(search.repeat(k)) / gain(noise) for k in range(search.basis.shape[1])]
print(f"zero at {zero[2:-2, 2:-2].double().mean():.1%} of the positions away from the border")
print(f"gain of tiled null vectors, white noise = 1: from {min(tiles):.2f} to {max(tiles):.2f}")

# %% [markdown]
# The *gain* of a layer $A$ for an image $v$ is $\lVert Av \rVert / \lVert v \rVert$. A tiled null vector is silent at a few
# positions and loud at all others.

# %% [markdown]
# ## Split the layer into frequencies
#
# Let the image go on at the opposite edge, so that it becomes a torus. A convolution of stride $s$ then commutes with shifts by
# $s$ pixels. Cut the image into cells of $s \times s$ pixels, with $C_{in} s^2$ numbers each. A wave that runs from cell to
# cell with some frequency comes out with the same frequency. What happens to its $C_{in} s^2$ amplitudes is a matrix with
# $C_{out}$ rows: the block of the *symbol* at that frequency. There is one for each frequency and nothing else, so the layer's
# singular values are those of all the blocks (Sedghi et al., 2019).
#
# If $C_{out} < C_{in} s^2$, each block has more columns than rows, and the layer has a null space. If not, a generic block has
# none, as long as the window touches every pixel of a cell; what it skips, it cannot see. The size of the window has dropped out.

# %%
blocks = symbol.symbol(stem, size)
singular = torch.linalg.svdvals(blocks)
print("blocks:", tuple(blocks.shape), " rank needed for no null space:", blocks.shape[-1])
print("nullity of the layer on images:", symbol.image_nullity(stem, size))
half = blocks.shape[0] // 2
pictures.heatmaps(
    [torch.fft.fftshift(singular[..., k], dim=(0, 1)) / gain(noise) for k in (0, -1)],
    ["Loudest direction", "Quietest direction"], "waves per image, across", "waves per image, down",
    "gain, white noise = 1", shared=False, extent=(-half, half, half, -half),
    alt="Two maps over the plane of frequencies of the gain relative to white noise. Left: the largest singular value of each "
        "block, highest in the middle. Right: the smallest, which is nowhere zero.")

# %% [markdown]
# No frequency is silent. The torus is not quite the layer, which pads with zeros, so we also check the padded layer itself. On
# a small image its matrix fits into memory, and one decomposition gives its smallest singular value.

# %%
small = 28
units = torch.eye(3 * small**2, dtype=torch.float64).view(-1, 3, small, small)
matrix = torch.cat([stem(part).flatten(1) for part in units.split(256)]).T
dense = float(torch.linalg.eigvalsh(matrix.T @ matrix)[0].clamp(min=0).sqrt()) / gain(noise)
print(f"quietest wave on the torus, white noise = 1: {singular.min() / gain(noise):.3f}")
print(f"smallest gain of the padded layer at {small}×{small} pixels: {dense:.3f}")

# %%
patch = models.load("patchnet", dtype=torch.float64)
print(claims.check("null-space-of-weight-is-of-layer", patchnet=symbol.cell_nullity(patch.conv1),
                   stridenet=symbol.image_nullity(stem, size), quietest=dense))

# %% [markdown]
# ## Sort the networks of torchvision
#
# The rule needs the shape of the first layer alone, so we ask every classifier of torchvision.

# %%
first = {name: counting.per_layer(name)[0] for name in models.names() if name in models.builders()}
sorted_ = {kind: [name for name, row in first.items() if (row.nullity > 0, bool(row.cell_nullity)) == kind]
           for kind in ((True, False), (True, True), (False, False))}
for (weight, layer), found in sorted_.items():
    print(f"{len(found):>2} networks: the weight has {'a' if weight else 'no'} null space, the layer has "
          f"{'one' if layer else 'none'}, {', '.join(found[:3])} …")

# %% [markdown]
# Only the vision transformers with patches of 32 pixels have first layers with a null space. For most of the others the count of
# the weight promises what the layer does not keep.

# %% [markdown]
# ## Put a photograph under the quietest wave
#
# The last singular direction of the quietest block is the wave that the layer hears least. We add it to a photograph, and to
# another copy white noise of the same norm.

# %%
u, v = divmod(int(singular[..., -1].argmin()), singular.shape[1])
amplitudes = torch.linalg.svd(blocks[u, v])[2][-1].conj()
turns = torch.arange(len(blocks), dtype=torch.float64) / len(blocks)
phase = torch.exp(2j * torch.pi * (u * turns[:, None] + v * turns))
wave = F.pixel_shuffle((amplitudes[:, None, None] * phase).real, stride).roll([-p for p in stem.padding], (1, 2))
cat = images.load("chelsea", size=size).double()
added = {"quietest wave": wave, "white noise": noise}
noisy = {name: cat + 0.1 * v * size * 3**0.5 / v.norm() for name, v in added.items()}
pictures.images(
    [cat, *noisy.values(), pictures.perturbation(wave[:, :28, :28])],
    ["photograph\n", *(f"with {name}\n{compare(model, cat, y).said[1]}" for name, y in noisy.items()), "the wave\n(28×28 pixels)"],
    alt="A photograph of a cat; the same under a fine regular grid; the same under grain of equal strength; and the wave from "
        "near, coloured pixels in a regular pattern. Above the second and third, what the network says.")

# %%
for name, y in noisy.items():
    fed = compare(model, cat, y)
    print(f"{name:<14} change after the first layer {fed.changes[search.layer.name]:.1%}; "
          f"as shown: {compare(model, cat, y.clamp(0, 1)).said[1]}")

# %% [markdown]
# Same strength, different loudness. But quiet is not silent: the wave changes every feature a little, and at some strength it
# changes the answer.

# %% [markdown]
# ## See what training does
#
# An untrained stem has a quietest wave, too. How much quieter than white noise it is depends on two numbers: the gain of noise,
# and the smallest singular value.

# %%
trained = model.get_submodule(search.layer.name)
fresh = copy.deepcopy(trained)
torch.manual_seed(0)
fresh.reset_parameters()
found = {}
for name, conv in (("untrained", fresh), (network, trained)):
    lowest = float(torch.linalg.svdvals(symbol.symbol(conv, 64)).min())
    loud = float(conv.weight.detach().norm()) / (conv.in_channels * stride**2) ** 0.5  # white noise, root mean square
    found[name] = lowest, loud, loud / lowest
    print(f"{name:<10} quietest {lowest:.3f}, white noise {loud:.2f}: ratio {loud / lowest:.1f}")
print(f"quietest ÷ {found['untrained'][0] / found[network][0]:.1f}, noise × {found[network][1] / found['untrained'][1]:.1f}")

# %% [markdown]
# Two forces widen the gap. Weight decay lowers what no photograph holds up, and the gradient raises what photographs are made
# of. The last line says which of the two did more here.

# %% [markdown]
# ## Look deeper
#
# A residual block adds a shortcut to its branch. As a linear map it is blind only to what *both* do not see, so an identity
# shortcut closes the null space of its branch. But that is the block without its last ReLU. Behind the ReLU, what is silent
# puts no equation on the image, and a pool keeps one number of each window. [Notebook 10](10_walk_along_a_level_set.ipynb) finds
# exact collisions of this very network, behind its stem; [notebook 11](11_fool_two_networks.ipynb) those behind a single ReLU.

# %% [markdown]
# ## Limits
#
# - "No null space" is said of the first convolution, a linear map, and of nothing behind it.
# - The rule counts generic weights. Dead filters, or filters that are copies of each other, may open a null space.
# - The dense check is on a small image. On larger ones `symbol.quietest` searches the padded layer and returns upper bounds.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Change the stride.** A layer with 64 filters looks at images of three channels through windows of 7×7 pixels. From which
# stride on has it a null space?

# %%
answer = ...
check = exercises.checker(lambda s: symbol.cell_nullity(nn.Conv2d(3, 64, 7, stride=s)) > 0
                          and symbol.cell_nullity(nn.Conv2d(3, 64, 7, stride=s - 1)) == 0)
check(answer)

# %% jupyter={"source_hidden": true}
# 3·s² must be above 64, the number of filters: s = 5 gives 75.
check(5)

# %% [markdown]
# **2. Skip pixels.** The same layer with stride 2 and *dilation* 2 looks at every second pixel of each row and column. How many
# dimensions has its null space in each cell of 2×2 pixels?

# %%
answer = ...
check = exercises.checker(lambda n: n == symbol.cell_nullity(nn.Conv2d(3, 64, 7, stride=2, dilation=2)))
check(answer)

# %% jupyter={"source_hidden": true}
# It touches one of the four pixels of a cell. The three others are unseen, in three channels: 9.
check(9)

# %% [markdown]
# **3. Predict the lattice.** Where would a tiled null vector of period 7 vanish if the stride were 3 and the padding 3? Give the
# distance between two such positions in a row.

# %%
answer = ...
check = exercises.checker(lambda n: [3 * i % 7 == 0 for i in range(1, n + 1)] == [False] * (n - 1) + [True])
check(answer)

# %% jupyter={"source_hidden": true}
# A window lies on a tile where 3i − 3 is a multiple of 7: at every seventh position, as for stride 2.
check(7)
