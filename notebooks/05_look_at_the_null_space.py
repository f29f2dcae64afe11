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
# # Look at the null space
#
# What does a network not see? Figure 1 of the supplement answers with pictures: 36 basis vectors of a null space,
# each as a small image. In this notebook you draw the same figure, find a bright dot in every picture, and then ask
# whose dot it is: the network's, or that of the routine that computed the basis.
#
# **What you will do**
# - turn basis vectors into pictures, in two ways;
# - compute the same null space with the routines that people call, and compare;
# - sort the null space by frequency and colour, before and after training;
# - hold a mosaic of basis vectors against white noise.
#
# **What you will learn**
# - what in such a picture belongs to the network, and what does not;
# - why a network hardly misses what it cannot see.
#
# **What you need**: notebook 02, orthonormal bases, the discrete cosine transform.
#
# The notebook looks at weights, not at collisions, so it runs on any network whose first weight has a null space:
# `patchnet`, `patchnet-b` and `patchnet-l2`, whose windows lie side by side, and `stridenet`, whose windows overlap.

# %%
import warnings

import numpy as np
import torch
from scipy import fft, linalg, stats
from torch.nn import functional as F

from collide_utils import claims, images, models, windows
from collide_utils.search import NullSpaceSearch, OverlapWarning
from collide_utils.show import charts, drawings, exercises, pictures

network = "patchnet"

# %%
warnings.simplefilter("ignore", OverlapWarning)  # no tile is added to an image here
torch.manual_seed(0)
search, untrained = map(NullSpaceSearch, (models.load(network), models.load("resnet50", weights=None)))
W, V, window = search.weight, search.basis, search.geometry.window
(columns, nullity), rank = V.shape, V.shape[0] - V.shape[1]
print(f"W is {len(W)}×{columns}, its rank is {rank}, its null space has {nullity} dimensions.")

# %% [markdown]
# `W` acts on windows of pixels in [0, 1]. Beside the trained network we put a ResNet-50 with random weights: its
# first weight has the same shape as that of a trained one.
#
# ## The claim
#
# Section 2.3 of the supplement says that basis vectors "come in distinct visual forms" (Figure 1), that repetition
# makes each a picture of a single colour (the same figure), and that mosaics of random basis vectors "look no
# different than random noise" (Figure 2).

# %% [markdown]
# ## Turn a vector into a picture
#
# A basis vector is a list of numbers: first the red values of a window, row by row, then the green, then the blue.
# Folded up, it is a small image; repeated, a large one. Its numbers have both signs, and a picture cannot show a
# negative light. So we draw zero as grey.

# %%
tiles = [v.view(3, *window) for v in V.T]
drawings.vector(tiles[0], alt="The first basis vector: its red, green and blue values as three grey windows, the three "
                              "together in colour, and sixteen copies. One green value stands out: a bright dot.")

# %% [markdown]
# ## Draw Figure 1
#
# Here are the first 36 vectors, each repeated in 2×2 windows: with zero as grey, and again as a program draws them
# that was not told about negative numbers. It cuts them off to black. The third sheet shows the second from so far
# away that the eye mixes the light of each window.

# %%
def negative_black(tile):
    return (tile / tile.max()).clamp(0, 1)


grey, black = ([draw(tile) for tile in tiles[:36]] for draw in (pictures.perturbation, negative_black))
afar = [images.from_afar(tile, window) for tile in black]
pictures.sheets(
    {"zero is grey": grey, "negative numbers are black": black,
     "negative numbers are black, from afar (twice as bright)": [2 * mix.expand(3, *window) for mix in afar]},
    alt="Three sheets of 36 small pictures. In the first they are grey textures with a bright dot, green in nearly all. "
        "In the second the same dots stand on near black. In the third each is of one colour: 34 green, two blue.")

# %% [markdown]
# In the supplement's Figure 1, too, each of 36 vectors is repeated, and the text calls the pictures single-coloured.
# Those vectors come from a trained ResNet-50, which we do not ship, and we do not know how numbers were turned into
# colours. Drawn with zero as grey, ours are textures of many colours. With black in place of negative numbers they are
# dark but for a dot, and from afar of its colour: a likely source of the phrase. If a vector *were* of one colour, its
# 3×49 matrix of colours and pixels would have rank 1.

# %%
def one_colour(tiles):
    """Return the mean share of the energy of a 3×(h·w) matrix that one colour, times a number for each pixel, holds."""
    energy = torch.linalg.svdvals(torch.stack(tiles).flatten(2)).square()
    return float((energy[:, 0] / energy.sum(1)).mean())


signed, clipped = one_colour(tiles[:36]), one_colour(black)
dot = V.abs().argmax(0)[:36] // (columns // 3)  # its colour
dot_leads = float((torch.stack(afar).flatten(1).argmax(1) == dot).double().mean())
print(f"share of a vector's energy that one colour holds: {signed:.0%}; without its negative numbers: {clipped:.0%}")
print(f"from afar the colour of the dot is the strongest in {dot_leads:.0%} of the pictures")

# %% [markdown]
# Does one of them differ from another? Only in the place of its dot. We slide each picture over each other one and
# note the best correlation, beside that of clipped white noise.

# %%
def alike(tiles):
    """Return the largest correlation with another picture, over all shifts: the mean over repeated `tiles`."""
    spectra = torch.fft.fft2(F.normalize(torch.stack(tiles).flatten(1)).view(-1, 3, *window))
    shifts = torch.fft.ifft2(torch.einsum("icxy,jcxy->ijxy", spectra, spectra.conj())).real.amax((2, 3))
    return float(shifts.fill_diagonal_(0).amax(1).mean())


noise = [negative_black(tile) for tile in torch.randn(36, 3, *window)]
print(f"best correlation with another picture: {alike(black):.1f}; white noise: {alike(noise):.1f}")

# %% [markdown]
# So the 36 pictures are *less* distinct than 36 pieces of noise.
#
# ## Ask whose dots they are
#
# The dot of vector $k$, counted from 0, sits at entry rank + $k$. We compute the same null space with other routines,
# and the null space of other weights with the same routine.

# %%
eigenvectors = np.linalg.eigh(W.T @ W)[1][:, :nullity]
routines = {
    "torch.linalg.svd": torch.linalg.svd(W)[2][rank:].T, "numpy.linalg.svd": np.linalg.svd(W)[2][rank:].T,
    "scipy.linalg.null_space": linalg.null_space(W), "scipy.linalg.qr of Wᵀ": linalg.qr(W.T)[0][:, rank:],
    "numpy.linalg.eigh of WᵀW": eigenvectors, "svd, untrained ResNet-50": untrained.basis,
    "svd, random numbers": torch.linalg.svd(torch.randn(rank, columns))[2][rank:].T}
for name, basis in routines.items():
    moved = torch.as_tensor(basis).abs().argmax(0) == rank + torch.arange(nullity)
    print(f"{name:<26}largest entry at rank + k: {round(100 * float(moved.double().mean()), -1):>3.0f} %")

# %% [markdown]
# Every singular value decomposition here puts its dots on the same pixels, whatever the weights are. The reason lies
# in LAPACK, which all of them call: it completes the basis by reflections that carry the coordinate axes numbered
# rank, rank + 1, … into the null space. An axis is one pixel in one colour, and the dot is what remains of it. The
# eigenvectors of $W^\top W$ span the same space and have hardly a dot.
#
# No basis of a null space is *the* basis. Turn it by any rotation, and you get another.

# %%
turned = V @ torch.linalg.qr(torch.randn(nullity, nullity).double())[0]
bases = {"torch.linalg.svd": V, "numpy.linalg.eigh of WᵀW": eigenvectors, "turned at random": turned}
for name, basis in bases.items():
    print(f"{name:<26}largest entry of W V below 1e-12: {bool((W @ basis).abs().max() < 1e-12)}   "
          f"energy in a vector's largest entry: {basis.abs().amax(0).square().mean():.1f}")
pictures.sheets(
    {name: [negative_black(v.view(3, *window)) for v in basis.T[:12]] for name, basis in bases.items()},
    alt="Three rows of twelve pictures. The first has its dots; the two others are noise in many colours, without dots.")

# %% [markdown]
# Same null space, same collisions, other pictures. So look at what does *not* depend on the basis.
#
# ## Sort by frequency and colour
#
# Describe a window in other coordinates. Split its colour into light–dark, red–blue and green–magenta, and each of
# these into waves, by the discrete cosine transform: from flat, frequency 0, to the finest checkerboard. If $c$ is
# the unit vector of one such wave, $\lVert V^\top c \rVert^2$ is the share of it that lies in the null space. Turning
# $V$ does not change this number.

# %%
opponents = F.normalize(torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], dtype=torch.float64))


def in_waves(vectors):
    """Return the energy of `vectors` (columns) in each wave: colour, vertical and horizontal frequency."""
    split = torch.einsum("cd,dxyn->cxyn", opponents, vectors.view(3, *window, -1))
    return torch.from_numpy(fft.dctn(split.numpy(), axes=(1, 2), norm="ortho")).square().sum(3)


shares = dict(zip(["light–dark", "red–blue", "green–magenta", "untrained, light–dark"],
                  [*in_waves(V), in_waves(untrained.basis)[0]], strict=True))
charts.waves(
    shares, f"What {network} does not see", "share in the null space",
    alt="Share of each wave in the null space. For the trained network it starts near zero: light–dark stays there up to "
        "frequency 2 and rises to 0.6 by frequency 6, the colours by 2 or 3. For the untrained one it stays near a half.")

# %% [markdown]
# Training has emptied one corner of the null space: slow changes of brightness, and flat colour. What do photographs
# have there?

# %%
photographs = torch.cat([windows.unfold(search.geometry, images.load(name)).flatten(0, 1) for name in images.names()])
photographs = photographs.double().T
total = photographs.square().sum()
print(f"flat windows alone hold {in_waves(photographs)[:, 0, 0].sum() / total:.0%} of the energy of seven photographs")
stridenet = NullSpaceSearch(models.load("stridenet"))
for name, found in {network: search, "stridenet": stridenet, "untrained ResNet-50": untrained}.items():
    print(f"in the null space of {name:<20}{(found.basis.T @ photographs).square().sum() / total:>6.1%}")

# %% [markdown]
# An untrained stem misses about as much of a photograph as of anything else, roughly half. A trained one has learned
# to look where photographs have their energy, and misses at most a few per cent. The null space is as large as before; it lies
# where photographs have little. Whoever builds a collision loses nothing by that.
#
# ## Hold a mosaic against noise
#
# Figure 2 of the supplement shows mosaics: in every window a basis vector drawn at random. Ours are made the same
# way, from other weights. Below them stands what is left from afar: the mixed light of each window, of the picture as
# it is printed here, with the contrast raised.

# %%
def show(v):
    return (0.5 + 2 * v).clamp(0, 1)


choice = torch.randint(nullity, search.geometry.grid)
fields = {f"{network}, svd": search.mosaic(choice), f"{network}, turned": windows.tile(search.geometry, turned.T[choice]),
          "untrained, svd": untrained.random(), "white noise": torch.randn(search.geometry.shape) / columns**0.5}
far = [images.from_afar(show(v), window) for v in fields.values()]
far = [mix - mix.mean((1, 2), keepdim=True) for mix in far]
pictures.images(
    [show(v)[:, :8 * window[0], :8 * window[1]] for v in fields.values()] + [0.5 + 8 * mix for mix in far],
    [f"{name}\n8×8 windows" for name in fields] + ["from afar, all windows\ncontrast × 8"] * len(far), width=2.1,
    alt="Mosaics of the trained network in two bases and of an untrained network, and white noise. Close up all are "
        "coloured noise. From afar the trained network's are faint, the other two blocks of strong colours.")

# %%
kurtosis = {name: float(stats.kurtosis(v.flatten(), fisher=False)) for name, v in fields.items()}
contrast = {name: float(mix.norm() / far[-1].norm()) for name, mix in zip(fields, far, strict=True)}
for name in fields:
    print(f"{name:<20}kurtosis {kurtosis[name]:>4.0f}   contrast from afar {contrast[name]:.1f}")

# %% [markdown]
# Two things give a mosaic away. Its kurtosis is far above the 3 of normal noise: the dots sparkle. That belongs to
# the basis, and a turn removes it. And from afar a trained network's mosaic is too even. That belongs to the null
# space, and no turn removes it. Only random weights, in a turned basis, make mosaics that are hard to tell from noise.

# %% [markdown]
# ## The verdict

# %%
svd = f"{network}, svd"
print(claims.check("basis-vectors-have-forms", alike=alike(black), alike_noise=alike(noise),
                   dot=float(V.abs().amax(0).square().mean()), dot_turned=float(turned.abs().amax(0).square().mean())))
print(claims.check("repeated-vector-single-colour", one_colour=signed, negative_black=clipped, dot_leads=dot_leads))
print(claims.check("mosaic-looks-like-noise", kurtosis=kurtosis[svd], contrast=contrast[svd],
                   contrast_random=contrast["untrained, svd"]))

# %% [markdown]
# ## Limits
#
# - We do not know which routine made Figure 1, nor how it maps numbers to colours.
# - Seven photographs are few. That the energy of natural images falls with frequency is known from many (Field 1987).
# - "From afar" means averaged over one window. An eye blurs in its own way.
#
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Find a dot.** A weight has rank 64 and windows of 7×7 pixels in three colours. In which row and column of its
# window, counted from 0, is the dot of vector 10? Answer with a pair.

# %%
answer = ...
check = exercises.checker(lambda place: tuple(place) == ((64 + 10) % 49 // 7, (64 + 10) % 7))
check(answer)

# %% jupyter={"source_hidden": true}
# Entry 64 + 10 = 74 is green (49 to 97), the 25th of its 49: row 25 // 7 = 3, column 25 % 7 = 4.
check((3, 4))

# %% [markdown]
# **2. Gather the colour.** Turn the basis such that as few vectors as possible have any flat colour, that is a mean
# that is not zero in red, green or blue. How many are left?

# %%
answer = ...
check = exercises.checker(lambda count: count == 3)
check(answer)

# %% jupyter={"source_hidden": true}
# The mean colour is a linear map to three numbers: all but 3 dimensions of the null space can be free of it.
check(3)
