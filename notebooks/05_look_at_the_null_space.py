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
# What does the part of an image look like that a network cannot see? By the end of this notebook you will have drawn
# with it, over the photograph of a cat, a portrait and a flower in full colour. To the network the picture is still
# the cat.
#
# **What you will do**
# - look at basis vectors of the null space as images, from close up and from afar;
# - take the null space apart by spatial frequency and colour, before and after training;
# - hold mosaics of random basis vectors against white noise;
# - draw stripes, rings, a portrait and a flower that are exact collisions.
#
# **What you will learn**
# - which part of such a picture the network decides, and which part the routine that computed the basis;
# - why a network hardly misses the 83 of 147 directions that it does not see.
#
# **What you need**: notebook 02, orthonormal bases, the discrete cosine transform. About half a minute on two
# processor cores.

# %%
import itertools
import warnings

import ipywidgets
import numpy as np
import scipy.fft
import scipy.linalg
import torch
from torch.nn import functional as F
from torchvision.utils import make_grid

from collide_utils import claims, images, models, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, panels, pictures

network = "patchnet"
model = models.load(network, dtype=torch.float64)
search = NullSpaceSearch(model)
V = search.basis
print(search.layer, " basis of the null space:", tuple(V.shape))

# %% [markdown]
# Beside it we put two networks that begin as ResNets do, with 7×7 windows at stride 2: `stridenet`, which was trained
# on the same photographs, and torchvision's ResNet-50 with random weights. Their first weights are 64×147 matrices
# too. Their windows overlap, so tiles from their null spaces are no collisions (notebook 02); here we look at the
# vectors themselves.

# %%
torch.manual_seed(0)
stride_model = models.load("stridenet", dtype=torch.float64)
random_model = models.load("resnet50", weights=None, dtype=torch.float64)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # that windows overlap
    stride_search, random_search = NullSpaceSearch(stride_model), NullSpaceSearch(random_model)
searches = {network: search, "stridenet": stride_search, "untrained ResNet-50": random_search}

# %% [markdown]
# ## The claim
#
# Section 2.3 of the supplement makes four statements about the look of these vectors and of perturbations made of
# them:
#
# 1. basis vectors "come in distinct visual forms" (Figure 1);
# 2. they are put into the form of an image by repetition, "hence the single-color nature" of the pictures (Figure 1);
# 3. mosaics of random basis vectors "look no different than random noise" (Figure 2);
# 4. perturbations "with distinct visual properties", repetitions of certain basis vectors, collide as well (Figure
#    3).

# %% [markdown]
# ## Thirty-six vectors
#
# A vector of 147 numbers is a window of 7×7 pixels in three colours. We repeat each of the first 36 in 4×4 windows.
# Zero is grey; the largest entry of each vector is black or white in its channel.

# %%
def tiles(basis):
    """Return each of the first 36 vectors as a picture, repeated in 4×4 windows."""
    return [pictures.perturbation(v.view(3, *search.geometry.window)).tile(1, 4, 4) for v in basis.T[:36]]


def sheet(windows_):
    return make_grid(windows_, nrow=6, padding=4, pad_value=1)


pictures.images(
    [sheet(tiles(V)), sheet(tiles(random_search.basis))], [f"{network}", "ResNet-50, untrained"], columns=2, width=5,
    alt="Two sheets of 36 square pictures each, of a trained network and an untrained one. Nearly all are a grey "
        "texture with one bright green dot in each window, the dot one pixel further in each picture than in the "
        "last.")

# %% [markdown]
# Distinct they are, and yet all alike: one bright dot in every window, nearly always green, that moves on by one
# pixel from picture to picture. The untrained network has the same dots. Before we ask why, we step back.

# %% [markdown]
# ## Step back
#
# From far enough away the eye sees only the mean colour of each window. In a repetition every window has the same
# mean, so the picture is of one colour, for any vector whatever. But of which colour, and how strong? Split a vector
# into its mean colour (three flat channels) and the rest. The share of its energy (its squared norm) in the flat part
# is what remains from afar; of white noise, 3 parts in 147.

# %%
def flat_part(basis):
    """Return the coefficients (3, vectors) in the flat red, green and blue window of unit norm."""
    return basis.view(3, -1, basis.shape[1]).mean(1) * (len(basis) / 3) ** 0.5


print(f"{'share of flat colour:':<24}mean over the basis   most of any vector")
for name, s in searches.items():
    flat = flat_part(s.basis)
    strongest = torch.linalg.matrix_norm(flat, ord=2) ** 2
    print(f"{name:<24}{flat.square().sum(0).mean():>19.2%}{strongest:>21.1%}")
print(f"{'white noise':<24}{3 / len(V):>19.2%}")

# %%
def from_afar(sheets, contrast=10):
    """Return the mean colour of each picture, its distance from grey times `contrast`."""
    return [0.5 + contrast * (p.mean((1, 2), keepdim=True).expand_as(p) - 0.5) for p in sheets]


pictures.images(
    [pictures.perturbation(V[:, 0].view(3, *search.geometry.window)), tiles(V)[0], sheet(from_afar(tiles(V))),
     sheet(from_afar(tiles(random_search.basis)))],
    ["vector 0, one window", "vector 0 in 4×4 windows", f"the 36 from afar, {network}\n(contrast × 10)",
     "the 36 from afar, untrained\n(contrast × 10)"], columns=2, width=3.6,
    alt="Four pictures: one window of coloured pixels with a green dot; sixteen copies of it; the mean colours of "
        "the 36 pictures of patchnet, all grey to the eye even at ten times their contrast; those of the untrained "
        "network, clearly tinted in many colours.")

# %% [markdown]
# One colour, then, but for a trained network that colour is *grey*: the filters have learned to see the mean colour
# of a window, so hardly any of it is left for the null space. Only where the weights are random do the pictures have
# a tint. Up close none of them is of one colour; what catches the eye there is the dot.

# %% [markdown]
# ## Whose pictures are these?
#
# Why dots? Count the entries of a window from 0, red pixels first, then green, then blue. The dot of vector $k$ sits
# at entry $64 + k$, in every network. Beside them stands a basis that we make by hand, without any singular value
# decomposition: 64 Householder reflections that turn the rows of $W$ into the first 64 coordinate axes, undone on the
# other 83 axes, $e_{64}, e_{65}, \dots$

# %%
W = search.layer.matrix[0]
by_reflections = torch.from_numpy(scipy.linalg.qr(W.T.numpy())[0][:, len(W):])
for name, basis in {**{name: s.basis for name, s in searches.items()}, "64 reflections": by_reflections}.items():
    at = basis.abs().argmax(0)
    print(f"{name:<24}dot at entry 64 + k in {int((at == len(W) + torch.arange(len(at))).sum())} of {len(at)} vectors")

# %% [markdown]
# No network cares how we count pixels, but this routine does. An axis $e_j$ is a single pixel in one colour, and the
# dot is what the reflections leave of it. LAPACK's singular value decomposition completes its basis by reflections
# too. Entries 49 to 97 are green, so the first 34 dots are green and the other 49 blue.
#
# No basis of a null space is *the* basis. Turn these 83 vectors by any rotation: the result is another orthonormal
# basis of the same space. We try two, one turned at random, and that one turned once more such that the flat colour
# comes first.

# %%
generator = torch.Generator().manual_seed(0)
rotation, _ = torch.linalg.qr(torch.randn(V.shape[1], V.shape[1], generator=generator, dtype=torch.float64))
turned = V @ rotation
by_colour = turned @ torch.linalg.svd(flat_part(turned), full_matrices=True)[2].T
pictures.images(
    [sheet(tiles(basis)) for basis in (V, turned, by_colour)],
    ["as LAPACK returns it", "turned at random", "turned: flat colour first"], columns=3, width=4,
    alt="Three sheets of 36 pictures. The first has a dot in each window; the second and third have none, and look "
        "like repeated windows of noise in which no colour leads.")

# %%
bases = {"as LAPACK returns it": V, "turned at random": turned, "flat colour first": by_colour}
largest = {name: float(basis.abs().amax(0).square().mean()) for name, basis in bases.items()}
for name, basis in bases.items():
    same = torch.allclose(torch.linalg.svdvals(basis.T @ V), torch.ones(V.shape[1], dtype=V.dtype), atol=1e-12)
    coloured = int((flat_part(basis).norm(dim=0) > 1e-12).sum())
    print(f"{name:<22}same space: {same}   energy in the largest entry: {largest[name]:.1f}   "
          f"vectors with any flat colour: {coloured}")
likeness = float((turned.T @ V).abs().max())
print("some vector of the turned basis is like one of LAPACK's (cosine above 0.75):", likeness > 0.75)

# %% [markdown]
# Same space, same collisions, other pictures. In the third basis *three* vectors hold all the flat colour of the null
# space, and the other 80 are exactly grey from afar. The forms in such a figure are those of one basis. To learn
# something about a *network*, look at what does not depend on the basis.

# %% [markdown]
# ## Sort by frequency and colour
#
# Describe a window by 147 other coordinates: in each of three colour directions (light–dark, red–blue, green–magenta)
# the 49 coefficients of the two-dimensional discrete cosine transform, from flat to the finest checkerboard. If $c$
# is the unit vector of one coordinate, then $\lVert V^\top c \rVert^2$ is the share of it that lies in the null
# space, whatever the basis $V$; the rest lies in the row space, where the network sees it. First, though: what is
# there to be seen in photographs?

# %%
height, width = search.geometry.window
colours = {"light–dark": (1, 1, 1), "red–blue": (1, 0, -1), "green–magenta": (-1, 2, -1)}
opponents = F.normalize(torch.tensor(list(colours.values()), dtype=torch.float64), dim=1)
cosines = [torch.from_numpy(scipy.fft.dct(np.eye(n), norm="ortho", axis=0)) for n in (height, width)]
coordinates = torch.kron(opponents, torch.kron(*cosines))

photographs = {name: images.load(name, size=model.input_size) for name in images.names()}
cut = torch.cat([F.unfold(p[None].double(), (height, width), stride=(height, width))[0]
                 for p in photographs.values()], dim=1)
energy = (coordinates @ cut).square().sum(1).view(3, height, width)
frequencies = dict(xlabel="horizontal frequency (half-periods per window)", ylabel="vertical frequency")
pictures.heatmaps(
    (energy / energy.sum()).log10(), [f"photographs, {name}" for name in colours], **frequencies,
    label="share of the energy,\npower of ten",
    alt="Three 7×7 heat maps of the energy of photographs. Each is brightest at the top left, at frequency zero, "
        "and falls off by several powers of ten towards high frequencies; light–dark is far brighter than the two "
        "colours.")

# %%
print("share of the photographs' energy:", {name: f"{float(part.sum() / energy.sum()):.1%}"
                                            for name, part in zip(colours, energy, strict=True)})
unseen = {name: (coordinates @ s.basis).square().sum(1).view(3, height, width) for name, s in searches.items()}
pictures.heatmaps(
    [*unseen[network], *unseen["untrained ResNet-50"]],
    [f"{name}, {colour}" for name in (network, "untrained") for colour in colours], **frequencies, limits=(0, 1),
    label="share in the null space",
    alt="Six 7×7 heat maps of the share of each coordinate that lies in the null space. For patchnet, above, it is "
        "near zero at low frequencies, over a wide corner in light–dark and a narrow one in the two colours, and "
        "about 0.6 elsewhere. For the untrained network, below, it is about 0.56 everywhere.")

# %% [markdown]
# Light and dark at low frequencies hold nearly all the energy of photographs, and there the trained null space is
# almost empty. What it does contain is fine texture, and where only the colour changes also texture that is not so
# fine: both are rare in photographs. The null space of random weights has no preference: about 83 of 147, or 56%, of
# everything.

# %%
def share(basis, x):
    return float((basis.T @ x).square().sum() / x.square().sum())


detail = cut - cut.view(3, -1, cut.shape[1]).mean(1).repeat_interleave(height * width, 0)  # less its mean colour
others = {name: NullSpaceSearch(models.load(name)) for name in ("patchnet-b", "patchnet-l2")}
print(f"{'in the null space:':<22}photographs   without flat colour   white noise")
for name, s in {**searches, **others}.items():
    print(f"{name:<22}{share(s.basis, cut):>11.1%}{share(s.basis, detail):>22.0%}{s.basis.shape[1] / len(V):>14.0%}")
least = [float(torch.linalg.eigvalsh(x @ x.T)[:V.shape[1]].sum() / x.square().sum()) for x in (cut, detail)]
print(f"{'the best 64 filters':<22}{least[0]:>11.2%}{least[1]:>22.0%}")

# %% [markdown]
# So it is training that makes the null space what it is. An untrained stem misses about as much of a photograph as of
# noise, more than half; the trained ones miss a few per cent. They differ in how well they see flat colour, and
# `patchnet-l2`, trained on attacked images, sees it best; of the remaining detail each misses about the same. None is
# perfect: the last line is what 64 filters made from the principal components of these very photographs would miss.
# But the 83 dimensions that a trained network does not see lie where photographs have little, and so it hardly misses
# them. Whoever builds a collision loses nothing by that: the dimensions are there, whether photographs use them or
# not.

# %% [markdown]
# ## Hold a mosaic against noise
#
# Give every window a basis vector of its own, drawn at random, as in Figure 2. Does it look like noise? We compare it
# with the same from the untrained network and with white noise of the same energy, from close up and from afar.

# %%
def blur(x):
    return F.interpolate(F.avg_pool2d(x[None], (height, width)), scale_factor=(height, width))[0]


choice = torch.randint(V.shape[1], search.geometry.grid, generator=generator)
noise = torch.randn(3, 224, 224, generator=generator, dtype=torch.float64) / len(V) ** 0.5
fields = {network: search.mosaic(choice), f"{network}, turned basis": windows.tile(search.geometry, turned.T[choice]),
          "untrained": random_search.mosaic(choice), "white noise": noise}
pictures.images(
    [0.5 + 1.5 * v[:, :112, :112] for v in fields.values()] + [0.5 + 10.5 * blur(v) for v in fields.values()],
    [f"{name}\n(16×16 windows)" for name in fields] + ["window means, all 32×32\n(contrast × 7)"] * 4,
    alt="Two rows of four pictures: mosaics of patchnet, of patchnet with a turned basis, of the untrained network, "
        "and white noise. Above, all are noise, the last a little coarser. Below, averaged over windows, the two of "
        "patchnet are nearly even grey; the untrained one and white noise are blocks of strong colours.")

# %% [markdown]
# From close up the four look alike at first glance. From afar the mosaics of the trained network turn grey, and noise
# does not. The energy at each spatial frequency says the same: such a mosaic lacks the slow changes of brightness
# that the filters have learned to see. (Mean over 16 mosaics, light–dark only. The untrained network is one draw of
# weights, so it need not lie at 1 exactly.)

# %%
def power(fields, edges):
    """Return the mean energy of the light–dark channel in rings of spatial frequency (cycles per window)."""
    light = torch.stack(fields).sum(1) / 3**0.5
    spectrum = torch.fft.fft2(light, norm="ortho").abs().square().mean(0)
    axis = torch.fft.fftfreq(spectrum.shape[0], 1 / height)
    radius = torch.hypot(axis[:, None], axis[None, :])
    return [float(spectrum[(radius > low) & (radius <= high)].mean()) for low, high in itertools.pairwise(edges)]


edges = [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5]
drawn = {name: [s.random(generator) for _ in range(16)]
         for name, s in ((network, search), ("untrained", random_search))}
charts.lines(
    edges[1:], {name: [len(V) * p for p in power(some, edges)] for name, some in drawn.items()},
    "Energy of mosaics, light–dark, relative to white noise",
    "spatial frequency, upper end of the ring (cycles per window)", "energy / energy of white noise",
    guides={"white noise": [1] * 9},
    alt="Energy against spatial frequency. The untrained network's mosaics stay near 1, the level of white noise; "
        "those of patchnet lie more than ten times lower at low frequencies and rise to about 1 at high ones.")

# %%
far = {name: float(blur(v).norm() / blur(noise).norm()) for name, v in fields.items()}
for name, v in fields.items():
    kurtosis = float(v.pow(4).mean() / v.square().mean() ** 2)
    print(f"{name:<26}contrast from afar {far[name]:.1f} of noise   kurtosis above 10: {kurtosis > 10}")

# %% [markdown]
# Contrast from afar and the spectrum are properties of the null space: turning the basis does not move them. The
# kurtosis (3 for a normal distribution) is one of the basis: LAPACK's dots sparkle, and a turn removes them. So "no
# different than random noise" is true of random weights; with a trained network, one step back tells a mosaic from
# noise.

# %% [markdown]
# ## Draw with it
#
# For Figure 3 we need vectors that the eye can tell apart, best by brightness. The flat white window $w$ is not in
# the null space, but its projection $VV^\top w$ is; scaled to norm 1 it is $b$, the brightest vector of the null
# space, and $-b$ is the darkest. We draw with these two: stripes, a checkerboard, rings and, in 32×32 windows, a
# portrait.

# %%
white = torch.full((len(V),), len(V) ** -0.5, dtype=torch.float64)
cosine = float((V.T @ white).norm())
bright = V @ (V.T @ white) / cosine
print(f"cosine of b with the white window: {cosine:.2f}")
rows, columns = torch.meshgrid(*(torch.arange(n) for n in search.geometry.grid), indexing="ij")
centre = (torch.tensor(search.geometry.grid) - 1) / 2
portrait = images.load("astronaut", size=len(rows)).mean(0)
patterns = {"stripes": (rows + columns) // 4 % 2, "checkerboard": (rows // 4 + columns // 4) % 2,
            "rings": torch.hypot(rows - centre[0], columns - centre[1]) // 3 % 2,
            "portrait": portrait > portrait.median()}
drawings = {name: windows.tile(search.geometry, torch.stack([-bright, bright])[pattern.long()])
            for name, pattern in patterns.items()}

# %%
def stem_change(comparison):
    return dict(comparison.changes)[search.layer.name]


cat, shown, titles = photographs["chelsea"], [], []
for beta in (2048, 8192):
    for name, v in drawings.items():
        y = search.collide(cat, v, beta)
        result = compare(model, cat, y)
        shown.append(y)
        titles.append(f"{name}, β = {beta}\nfeature change {stem_change(result):.0e}\n"
                      f"{result.predictions[1]}, p = {result.probabilities[1]:.3f}")
pictures.images(
    shown, titles,
    alt="The photograph of a cat with stripes, a checkerboard, rings and a portrait drawn over it: both to be seen "
        "at beta 2048, and only the drawings at 8192. Over each the relative feature change, between 1e-16 and "
        "1e-14, and the same class with the same probability.")

# %% [markdown]
# All eight are, to the network, the same cat: a change of 1e-15 is the rounding of float64. At β = 2048 cat and
# drawing share the picture, at 8192 the cat is gone. As always the network is given the unclipped numbers, and the
# screen clips them. Now all photographs; and the same patterns from `stridenet`'s null space on `stridenet`.

# %%
betas = [8 * 2**k for k in range(11)]
drawn_changes = [stem_change(compare(model, photograph, search.collide(photograph, v, beta)))
                 for photograph in photographs.values() for v in drawings.values() for beta in betas[::5]]
print(f"{network}: {len(drawn_changes)} pairs, every change after the stem below 1e-10: {max(drawn_changes) < 1e-10}")

stride_bright = F.normalize(stride_search.basis @ (stride_search.basis.T @ white), dim=0)
stride_changes = []
for pattern in patterns.values():
    v = windows.tile(stride_search.geometry, torch.stack([-stride_bright, stride_bright])[pattern.long()])
    stride_changes.append(stem_change(compare(stride_model, cat, stride_search.collide(cat, v, 512))))
print(f"stridenet: every change after the stem above 5%: {min(stride_changes) > 0.05}")

# %% [markdown]
# ## Draw in colour
#
# The flat colours of the null space, weak as they are, have rank 3. So there is a vector in it with *any* mean
# colour, and the pseudoinverse gives the shortest. Ask in each window for the difference of two photographs, and the
# cat's windows get the mean colours of a flower.

# %%
goal = images.load("flower", size=len(rows)).double() - images.load("chelsea", size=len(rows)).double()
mean_colours = flat_part(V) / (height * width) ** 0.5
picture = (V @ torch.linalg.pinv(mean_colours) @ goal.flatten(1)).T.view(*search.geometry.grid, -1)
flower_cat = search.collide(cat, windows.tile(search.geometry, picture), beta=255)
difference = F.avg_pool2d(flower_cat, (height, width)) - F.avg_pool2d(cat.double(), (height, width))
print("mean colours as asked for:", torch.allclose(difference, goal))
print(f"length of a window's change, median: {255 * picture.norm(dim=2).median():.0f} grey levels")
print(compare(model, cat, flower_cat).verdict)

# %%
pictures.images(
    [flower_cat, blur(flower_cat), blur(cat.double())],
    ["what the network is given\n(clipped by the screen)", "its window means:\nwhat you see from afar",
     "the window means of the cat,\nthe same to the network"],
    alt="Three pictures: a field of glaring texture in which a flower can just be made out; its window means, a red "
        "and orange flower in 32×32 squares; and the window means of the cat.")

# %% [markdown]
# From afar a flower, to the network a cat, feature for feature. It is the unclipped numbers that hold the flower, not
# what the screen makes of them: at least 96% of any flat colour lies in the row space, in full view of the network,
# so to change the colour behind its back takes very long vectors.

# %% [markdown]
# ## Explore
#
# Pick vectors (several with Ctrl or Shift), a pattern and β. One vector takes turns with its negative, several with
# one another; if none is picked, all are used. The basis is the one with the flat colour first, so vectors 0 to 2
# make patterns that show from afar, and the others patterns of texture. The panel needs a running kernel; for readers
# without one, its picture for one choice stands below it.

# %%
arrangements = {"repeat": 0 * rows, "random": choice, "stripes": (rows + columns) // 4,
                "checkerboard": rows // 4 + columns // 4,
                "rings": (torch.hypot(rows - centre[0], columns - centre[1]) // 3).long()}


def draw(vectors, pattern, beta):
    chosen = by_colour.T[list(vectors)] if vectors else by_colour.T
    palette = torch.cat([chosen, -chosen]) if len(chosen) == 1 else chosen
    v = windows.tile(search.geometry, palette[arrangements[pattern] % len(palette)])
    y = search.collide(cat, v, beta)
    result = compare(model, cat, y)
    said = f"{result.predictions[1]}, p = {result.probabilities[1]:.3f}"
    return pictures.images(
        [pictures.perturbation(v), y],
        [f"vectors {', '.join(map(str, vectors)) or 'all'}: {pattern}", f"β = {beta}: {said}"],
        alt=f"Perturbation and photograph, {pattern}, β = {beta}. Prediction: {said}. Relative change after the stem: "
            f"{stem_change(result):.0e}; rounding is at most {result.bound:.0e}.", columns=2)


panels.panel(
    draw, vectors=ipywidgets.SelectMultiple(options=range(V.shape[1]), value=(0,), description="vectors"),
    pattern=ipywidgets.Dropdown(options=list(arrangements), value="rings", description="pattern"),
    beta=ipywidgets.SelectionSlider(options=[0, *betas], value=2048, description="β"))

# %%
draw((0,), "rings", 2048)

# %% [markdown]
# ## The verdict
#
# Each claim gets a verdict, measured above and compared with the ledger in `data/claims.toml`. If a measurement and
# the ledger ever disagree, these cells fail.

# %%
def verdict(always, there, condition):
    return "holds" if always else f"holds if {condition}" if there else "fails"


dot, dot_turned = largest["as LAPACK returns it"], largest["turned at random"]
measured = verdict(likeness > 0.75, dot > 0.2, "the SVD routine chooses the basis")
print(claims.check("basis-vectors-have-forms", measured, largest_entry=dot, largest_entry_turned=dot_turned,
                   likeness=likeness))
repeated = torch.stack([F.avg_pool2d(search.repeat(k), (height, width)).flatten(1) for k in range(V.shape[1])])
spread = float((repeated.amax(2) - repeated.amin(2)).max())
inside = float(1 - torch.linalg.matrix_norm(flat_part(V), ord=2) ** 2)
measured = verdict(inside < 0.1, spread < 1e-12, "seen from afar")
print(claims.check("repeated-vector-single-colour", measured, between_windows=spread, inside_a_window=inside))

# %%
measured = verdict(far[network] > 0.7, far["untrained"] > 0.7, "the weights are random")
print(claims.check("mosaic-looks-like-noise", measured, trained=far[network], random_weights=far["untrained"]))
measured = verdict(min(stride_changes) < 1e-10, max(drawn_changes) < 1e-10, "windows do not overlap")
print(claims.check("pattern-collides", measured, separate_windows=max(drawn_changes),
                   overlapping_windows=min(stride_changes)))

# %% [markdown]
# ## Limits
#
# - We cannot know with which routine Figure 1 was made; we looked at what LAPACK returns, through PyTorch. Another
#   library may return yet another basis, and other pictures. What this notebook says about the null space does not
#   depend on that.
# - Nor do we know how Figure 1 maps numbers to colours. Here zero is grey. A picture that cuts negative numbers off
#   to black shows little more than the dots, on black.
# - Seven photographs are a small sample of the world. That the energy of natural images falls with frequency is long
#   known (Field 1987); the digits in the tables belong to these seven.
# - "From afar" means averaged over one window. An eye that cannot resolve a window blurs in a similar way, but not in
#   the same.

# %% [markdown]
# ## Exercises
#
# **1. Hide from the printer.** Draw rings over the cat that are gone when the page is printed in grey. A printer
# computes grey as 0.299 R + 0.587 G + 0.114 B, so ask for a mean colour of which that is zero. Check the window means
# in grey and in colour, and the collision.

# %% jupyter={"source_hidden": true}
grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
red_blue = torch.tensor([grey[2], 0, -grey[0]], dtype=torch.float64)
hidden = F.normalize(V @ torch.linalg.pinv(mean_colours) @ red_blue, dim=0)
v = windows.tile(search.geometry, torch.stack([-hidden, hidden])[patterns["rings"].long()])
y = search.collide(cat, v, 2048)
in_grey, in_colour = (grey[:, None, None] * blur(v)).sum(0), blur(v)[0] - blur(v)[2]
print("from afar, rings in grey:", bool(in_grey.abs().max() > 1e-12), " in colour:", bool(in_colour.abs().max() > 1e-3))
print(compare(model, cat, y).verdict)
assert in_grey.abs().max() < 1e-12 and compare(model, cat, y).collides_from == search.layer.name

# %% [markdown]
# **2. Find the period.** Average all windows of a mosaic. For white noise the mean window has a norm near
# $1/\sqrt{1024}$. What is it for a mosaic, and why? Which change to the recipe removes the difference?

# %% jupyter={"source_hidden": true}
def mean_window(v):
    return float(F.unfold(v[None], (height, width), stride=(height, width))[0].mean(1).norm())


signs = torch.randint(2, search.geometry.grid, generator=generator).double() * 2 - 1
signed = windows.tile(search.geometry, signs[:, :, None] * V.T[choice])
print("expected for a mosaic, 1/√83 and a little:", round((1 / V.shape[1] + 1 / choice.numel()) ** 0.5, 2))
print("mosaic:", round(mean_window(fields[network]), 2), " with random signs:", round(mean_window(signed), 2),
      " white noise:", round(mean_window(noise), 2))
assert mean_window(fields[network]) > 2 * mean_window(signed)

# %% [markdown]
# The vectors of a basis have a sign, and the mean of 83 orthonormal vectors is not zero but of norm $1/\sqrt{83}$.
# This mean stands in every mosaic with the period of the window. Random signs take it away.

# %% [markdown]
# **3. Choose the filters yourself.** Take the 64 frequency and colour coordinates in which six of the photographs
# have most energy as a stem. What share of the seventh does it miss, and what share does `patchnet`?

# %% jupyter={"source_hidden": true}
*six, seventh = cut.chunk(len(photographs), dim=1)
best = (coordinates @ torch.cat(six, dim=1)).square().sum(1).argsort()
missed = share(coordinates[best[:V.shape[1]]].T, seventh)
print(f"chosen by energy: {missed:.2%}   {network}: {share(V, seventh):.2%}")
assert missed < share(V, seventh)
