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
# A ResNet's first weight has a null space of 83 dimensions, and yet no image but zero passes its first layer unheard. This
# notebook shows how both can be true, and what an honest search finds instead: perturbations that are quiet, not silent.
#
# **What you will do**
# - put a null vector of the weight in every tile of an image and map where the response vanishes;
# - split a convolution into one small matrix per frequency, its *symbol*, and count null spaces with it;
# - sort the first layers of torchvision's classifiers into those with and those without a null space;
# - search the quietest perturbations of the real layer, and find null spaces deeper in the network.
#
# **What you will learn**
# - why $C_{out} \ge C_{in} s^2$ decides, not the size of the window;
# - why training makes the quiet directions quieter;
# - what a shortcut does to the null space of the branch beside it.
#
# **What you need**: singular values, the Fourier transform, convolutions in PyTorch. No GPU, no internet; about half a
# minute on two processor cores.

# %%
import copy
import csv
import math
import warnings
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from collide_utils import claims, hooks, images, models, nullspace, weights
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, pictures
from collide_utils.symbol import image_nullity, quietest, symbol

network = "stridenet"
model = models.load(network, dtype=torch.float64)
size = model.input_size
std = model.normalize.std


def in_pixels(conv):
    """The convolution as it acts on pixels: a channel's weights divided by the std of the normalisation before it."""
    conv = copy.deepcopy(conv).requires_grad_(False)
    conv.weight /= std
    return conv


stem = in_pixels(model.get_submodule(weights.first_weight(model).name))
print(stem)

# %% [markdown]
# ## The claim
#
# Table 1 of the supplement counts the dimensions of the null spaces of weights, those of the first weight in a column of
# its own. Section 2.1 concludes that feature collisions exist for most of the trainable weights, ResNet's among them, and
# section 2.3 adds null vectors to images as they are. That takes a step: from a matrix that has a null space to a *layer*
# that has one. Notebook 02 saw repeated vectors and mosaics fail on overlapping windows. Was that the recipe's fault, or
# is there nothing to be found?

# %% [markdown]
# ## Map where the response vanishes
#
# Tile the image with one null vector $v$, each tile 7×7 pixels. A window that lies on a tile sees $v$ and answers zero. A
# stem of stride 2 and padding 3 puts window $i$ at pixel $2i - 3$, so it lies on a tile where $2i - 3$ is a multiple of 7:
# at every seventh $i$, in both directions one position in 49. Every other window sees $v$ shifted and wrapped around.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that windows overlap is our subject
    search = NullSpaceSearch(model)
with torch.no_grad():
    response = stem(search.repeat(0)[None])[0].norm(dim=0)
inside = response[2:-2, 2:-2]  # windows that do not reach into the padding
zeros = inside < 1e-12 * inside.max()
on_tile = torch.tensor([(2 * i - 3) % 7 == 0 for i in range(2, len(response) - 2)])
expected = on_tile[:, None] & on_tile
side = zeros.any(0)
print(f"zeros: {int(zeros.sum())} positions, in {int(side.sum())} of {len(side)} columns, every "
      f"{int(side.nonzero().diff(dim=0).max())}th")
print("exactly on the lattice:", torch.equal(zeros, expected))

# %%
pictures.heatmaps(
    [response[2:30, 2:30], zeros[:28, :28].double()],
    ["Norm of the response to a tiled null vector\n(top left corner, 28×28 positions)", "Where it is zero"],
    "position", "position", "norm over channels (right: 1 where zero)", shared=False,
    alt="Two maps of 28×28 positions. Left: a pattern of period 7, mostly bright. Right: single points on a "
        "square lattice, one in each 7×7 block, where the response is exactly zero.")

# %% [markdown]
# How loud is the rest? The *gain* of a layer $A$ for an image $v$ is $\lVert Av \rVert / \lVert v \rVert$. For white
# noise its mean square is $\lVert A \rVert_F^2 / N$, with $N$ the number of pixel values. A weight meets each of the
# $C_{in} s^2$ values in a cell of the stride once, so up to the border $\lVert A \rVert_F^2 / N$ is the sum of the squared
# weights over $C_{in} s^2$.

# %%
def gain(v):
    with torch.no_grad():
        return float(F.conv2d(v[None], stem.weight, None, stem.stride, stem.padding).norm() / v.norm())


cell = stem.in_channels * stem.stride[0] * stem.stride[1]
noise_gain = float(stem.weight.norm()) / math.sqrt(cell)
tiles = [gain(search.repeat(index)) / noise_gain for index in range(search.basis.shape[1])]
white = gain(torch.randn(search.geometry.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
print(f"white noise, measured over predicted: {white / noise_gain:.2f}")
print(f"tiled null vectors, over white noise: {min(tiles):.2f} to {max(tiles):.2f}, mean {sum(tiles) / len(tiles):.2f}")

# %% [markdown]
# A tiled null vector is heard two to three times less than noise here: far from silent, and being silent in one window of
# 49 can account for one per cent of it.

# %% [markdown]
# ## Split the layer into frequencies
#
# Let the image go on at the opposite edge (a torus). A convolution of stride $s$ then commutes with shifts by $s$ pixels.
# So cut the image into cells of $s \times s$ pixels: $C_{in} s^2$ numbers each. A wave that runs from cell to cell with
# frequency $f$ comes out as a wave of frequency $f$, and what happens to its $C_{in} s^2$ amplitudes is a matrix with
# $C_{out}$ rows: the block $S(f)$ of the symbol. There is one for each of the $(n/s)^2$ frequencies, and *nothing else*: the
# layer's singular values are those of all the blocks.
#
# That is the derivation we are after. A block with $C_{in} s^2$ columns and $C_{out}$ rows
# - has a null space of at least $C_{in} s^2 - C_{out}$ dimensions if $C_{out} < C_{in} s^2$, at every frequency;
# - has none, if $C_{out} \ge C_{in} s^2$, unless its columns happen to be dependent, which random weights never are.
#
# The window has dropped out. It makes the weight's matrix wide and gives *that* a null space; the layer as a whole asks
# only whether it puts out fewer numbers than it takes in.

# %%
blocks = symbol(stem, size)
singular = torch.linalg.svdvals(blocks)
print("blocks:", tuple(blocks.shape))
print("nullity of the weight:", nullspace.nullity(stem.weight.flatten(1)))
overlapping = image_nullity(stem, size)
print("nullity of the layer on images:", overlapping)
print(f"singular values of the symbol from {singular.min():.2f} to {singular.max():.1f}; white noise {noise_gain:.1f}")
print(f"the quietest wave is {noise_gain / float(singular.min()):.1f} times quieter than white noise")

# %%
half = blocks.shape[0] // 2
pictures.heatmaps(
    [torch.fft.fftshift(singular[..., k], dim=(0, 1)) / noise_gain for k in (0, -1)],
    ["Largest singular value", "Smallest singular value"], "waves per image, across", "waves per image, down",
    "gain, white noise = 1", shared=False, extent=(-half, half, half, -half),
    alt="Two maps over the plane of frequencies of the gain relative to white noise. Left: the largest "
        "singular value of each block. Right: the smallest, which is nowhere zero.")

# %% [markdown]
# No frequency is silent. The quietest wave is heard about seven times less than noise, and that is all that this
# layer has to offer on a torus.
#
# ## Sort the networks of torchvision
#
# The rule needs three numbers, so we ask every classifier of torchvision for its first convolution. `models.shapes_only`
# builds the networks without memory for their weights.

# %%
stems, classifiers = defaultdict(list), torchvision.models.list_models(module=torchvision.models)
for name in classifiers:
    conv = next(layer for layer in models.shapes_only(name).modules() if isinstance(layer, nn.Conv2d))
    stems[conv.kernel_size[0], conv.stride[0], conv.out_channels].append((name, conv))
print(f"{len(classifiers)} classifiers, {len(stems)} different stems")

# %% [markdown]
# The column *matrix* is the nullity that the shape of the weight forces; *image* the one that the symbol forces, for each
# cell of the stride. Then we count, with random weights and on a small torus, the nullity of every stem, once.

# %%
kinds = defaultdict(list)
print("window stride  out   matrix   image  networks")
for (window, stride, out), found in sorted(stems.items()):
    matrix, image = max(0, 3 * window**2 - out), max(0, 3 * stride**2 - out)
    conv, cells = found[0][1].to_empty(device="cpu").double(), 2 if stride < 8 else 1
    nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(0))
    assert image_nullity(conv, cells * stride) == cells**2 * image
    kinds[matrix > 0, image > 0] += [name for name, _ in found]
    names = ", ".join(name for name, _ in found[:2]) + (f" and {len(found) - 2} more" if len(found) > 2 else "")
    print(f"{window:>6} {stride:>6} {out:>4} {matrix:>8} {image:>7}  {names}")
for (matrix, image), found in sorted(kinds.items()):
    print(f"matrix {'has one' if matrix else 'has none'}, image {'has one' if image else 'has none'}: {len(found)} networks")

# %% [markdown]
# ## Search for what is quiet
#
# The real layer pads with zeros, and near the border a window sees less. `quietest` starts from the symbol and refines on
# the layer itself, on images of full size.

# %%
gains, quiet = quietest(stem, size, 4)
energy = quiet.square().sum(1)
near = torch.zeros(size, dtype=torch.bool)
near[:28] = near[-28:] = True
in_corners = energy[:, near][:, :, near].sum((1, 2))
print("gain, noise = 1:", [round(float(g / noise_gain), 3) for g in gains])
print("quietest wave on the torus:", round(float(singular.min() / noise_gain), 3))
print("share of energy in the corners of 28×28 pixels:", [round(float(share), 2) for share in in_corners])

# %% [markdown]
# The border is where the layer hears least: the quietest perturbations sit in a corner of the image, a little quieter
# than any wave. For a perturbation of the whole image we take the quietest wave and fade it out towards the border, where
# windows that see only a part of it would answer loudly.

# %%
u, v = divmod(int(singular[..., -1].argmin()), blocks.shape[1])
amplitudes = torch.linalg.svd(blocks[u, v])[2][-1].conj()
n = blocks.shape[0]
turns = torch.arange(n, dtype=torch.float64) / n
fade = torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size)


def wave(phase):
    waves = torch.exp(2j * math.pi * (u * turns[:, None] + v * turns + phase))
    cells = (amplitudes[:, None, None] * waves).real
    shifted = F.pixel_shuffle(cells, stem.stride[0]).roll([-p for p in stem.padding], (1, 2))  # windows start there
    return shifted * fade[:, None] * fade


down, across = (min(max(int(place) - 8, 0), size - 16) for place in divmod(int(energy[0].argmax()), size))
pictures.images(
    [pictures.perturbation(wave(0)), pictures.perturbation(wave(0)[:, 98:126, 98:126]),
     pictures.perturbation(quiet[0][:, down:, across:][:, :16, :16]),
     pictures.perturbation(search.repeat(0)[:, :28, :28])],
    [f"quietest wave, faded\ngain {gain(wave(0)) / noise_gain:.2f}", "its middle\n(28×28 pixels)",
     f"quietest of the padded layer\n(16×16 pixels) gain {gains[0] / noise_gain:.2f}",
     f"tiled null vector\n(28×28 pixels) gain {tiles[0]:.2f}"],
    alt="Four pictures of perturbations: a fine texture over the whole image that fades towards the border; its middle, "
        "coloured pixels in a slanted pattern; a few strong pixels in a corner; a texture of period 7.")

# %% [markdown]
# ## Raise it until the prediction changes
#
# How large can each perturbation be? All get the norm of a mosaic, one per window of 7×7 pixels on average, and are
# scaled by β grey levels. For every sample photograph we raise β from 1 by factors of 4 until the predicted class
# changes, then bisect.
# The network runs in float32 and sees unclipped numbers.

# %%
single = models.load(network)
photographs = torch.stack([images.load(name, size=size) for name in images.names()])
with torch.no_grad():
    own = single(photographs).argmax(1)


def keeps(v, beta):
    with torch.no_grad():
        return single(photographs + (beta / 255).view(-1, 1, 1, 1) * v).argmax(1) == own


def largest_beta(v):
    """Return for each photograph a β that keeps its class; 1.09 times that, on the way up by factors of 4, does not."""
    v = (v * size / 7 / v.norm()).float()
    low, growing = torch.ones(len(own)), torch.ones(len(own), dtype=torch.bool)
    for _ in range(8):
        growing &= keeps(v, 4 * low)
        low = torch.where(growing, 4 * low, low)
        if not growing.any():
            break
    for step in (2, 2**0.5, 2**0.25, 2**0.125):
        low = torch.where(keeps(v, low * step) & ~growing, low * step, low)
    return low


# %%
generator = torch.Generator().manual_seed(1)
kinds = {"tiled null vector": [search.repeat(5 * k) for k in range(2)],
         "white noise": [torch.randn(3, size, size, generator=generator, dtype=torch.float64) for _ in range(2)],
         "quietest wave": [wave(k / 4) for k in range(2)],
         "quietest of the layer": list(quiet[:2])}
kinds["white noise where that is"] = [noise * (v.square().sum(0) > 1e-4 * v.square().sum(0).max())
                                      for noise, v in zip(kinds["white noise"], quiet, strict=False)]
reached = {}
print(f"{'smaller of two largest β':<32}" + "".join(f"{name[:9]:>10}" for name in images.names()) + "    median")
for kind, perturbations in kinds.items():
    found = torch.stack([largest_beta(v) for v in perturbations])
    reached[kind] = found.amin(0)
    print(f"{kind:<32}" + "".join(f"{beta:>10.2g}" for beta in reached[kind].tolist()) + f"{found.median():>10.2g}")
times = {kind: found / reached["white noise"] for kind, found in reached.items()}
print(f"relative to white noise: the quietest wave at least {float(times['quietest wave'].min()):.0f} times as far, "
      f"a tiled null vector at most {float(times['tiled null vector'].max()):.1f} times")

# %% [markdown]
# On every photograph the quietest wave can be raised more than ten times as far as white noise, a tiled null vector not
# three times as far: the order is that of their gains. But each of them changes every photograph's class in the end, where a null vector of the layer would
# change none. The quietest of the padded layer seems to beat all (the search stops at β = 65,536), until one looks at the last
# row: white noise confined to the same pixels gets nearly as far. It hides in a corner, and the network averages over all
# places; that it is quiet as well hardly matters for the class.

# %% [markdown]
# ## Watch training make it quieter
#
# An untrained stem has a quietest wave, too. `data/models/training.csv` holds the smallest singular value of the first
# convolution's symbol after every epoch (on a torus of 32×32 windows, for the weights as they are). Training pushes it
# down, and here is a suspect: weight decay multiplies every weight, in every step, by $1 - \text{lr} \cdot \text{wd}$
# (with momentum $m$, in effect by $1 - \text{lr} \cdot \text{wd} / (1 - m)$). Only the gradient can hold against it, and
# a direction in which photographs have no energy gets no gradient.

# %%
path = Path(models.__file__).parent.parent / "data" / "models" / "training.csv"
record = [row for row in csv.DictReader(path.open(newline="")) if row["network"] == "stridenet"]
measured = [float(row["stem_s_min"]) for row in record]
decay = [float(row["lr"]) * float(row["weight_decay"]) * int(row["steps"]) / (1 - float(row["momentum"])) for row in record]
alone = [measured[0] * math.exp(-sum(decay[1:epoch])) for epoch in range(1, len(record) + 1)]
shown = [1, 2, 4, 8, 16, 32, len(record)]
charts.lines(
    shown, {"measured": [measured[e - 1] for e in shown], "weight decay alone, from epoch 1": [alone[e - 1] for e in shown]},
    "The quietest wave of stridenet's stem in training", "epoch", "smallest singular value of the symbol",
    alt="Smallest singular value of the stem's symbol against the epoch, on logarithmic axes: level at first, then "
        "falling, beside the somewhat lower line that weight decay alone would give.")

# %%
fresh = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
nn.init.kaiming_normal_(fresh.weight, mode="fan_out", generator=torch.Generator().manual_seed(0))
for name, conv in (("untrained ResNet stem", fresh), (f"{network}'s stem", model.get_submodule(search.layer.name))):
    smallest = torch.linalg.svdvals(symbol(conv, 64)).min()
    ratio = float(conv.weight.detach().norm()) / math.sqrt(12) / float(smallest)
    print(f"{name}: the quietest wave is {ratio:.1f} times quieter than white noise")
print(f"from the first epoch to the last: measured {measured[-1] / measured[0]:.2f}, decay alone {alone[-1] / alone[0]:.2f}")

# %% [markdown]
# Do photographs lack energy where the stem is quiet? Sort the $C_{in} s^2$ singular directions of every block from loud to
# quiet and measure the energy of the seven photographs, less their mean, along each.

# %%
right = torch.linalg.svd(blocks, full_matrices=False)[2]
centred = photographs.double() - photographs.double().mean((2, 3), keepdim=True)
waves = torch.fft.fft2(F.pixel_unshuffle(centred, stem.stride[0])).permute(2, 3, 1, 0)
shares = (right @ waves).abs().square().mean((0, 1, 3))
shares /= shares.sum()
print("share of the photographs' energy along the singular directions, from loud to quiet:")
print(" ".join(f"{share:.1%}" for share in shares.tolist()))

# %% [markdown]
# They do. Nearly all the energy lies along the loudest five directions, so little holds up the others, and weight decay
# shrinks them almost as fast as it would alone. Longer training should make quiet directions quieter: with pretrained weights of a
# ResNet at hand, set `network` at the top to its name and compare.
#
# ## Look deeper
#
# The rule $C_{out} \ge C_{in} s^2$ holds for every convolution, and inside a network many break it: a 1×1 convolution that
# narrows 256 channels to 64 has a null space at every pixel, a 3×3 convolution of stride 2 from 64 channels to 96 takes in
# 4·64 numbers for 96. Windows of the latter overlap, and its layer has a null space all the same.
#
# But a residual block adds a shortcut. The block is blind only to what *both* branches do not see. A shortcut that is the
# identity sees everything, and closes the null space. One of stride 2 looks at one pixel in four. Stack the two branches'
# weights, the 1×1 one in the middle of the 3×3 one, and take the nullity of the stack.

# %%
narrowing = nn.Conv2d(256, 64, 1, bias=False)
print("256 → 64, 1×1, nullity per pixel:", image_nullity(narrowing, 4) // 16)


def stacked(block):
    """Both branches' first convolutions, which read the block's input, as one; None if they move by unequal strides."""
    branch, shortcut = block.conv1, block.downsample[0]
    if branch.stride != shortcut.stride:
        return None
    seen = torch.linalg.qr(shortcut.weight.detach().flatten(1), mode="r")[1][:, :, None, None]  # each direction once
    both = nn.Conv2d(branch.in_channels, branch.out_channels + len(seen), branch.kernel_size, branch.stride,
                     branch.padding, bias=False).to(branch.weight)
    both.weight.data = torch.cat([branch.weight.detach(), F.pad(seen, (branch.padding[0],) * 4)])
    return both


# %%
blocks_of = {name: block for name, block in model.named_modules() if isinstance(block, (BasicBlock, Bottleneck))}
joint = {}
print(f"{'block':<18}{'branch alone':>14}{'with its shortcut':>20}")
for name, block in blocks_of.items():
    cells = (8 // block.conv1.stride[0]) ** 2
    alone_nullity = image_nullity(block.conv1, 8) // cells
    both = stacked(block) if block.downsample else None
    closed = image_nullity(both, 8) // cells if both else "other stride" if block.downsample else "0 (identity)"
    joint |= {name: both} if both and closed else {}
    print(f"{name:<18}{alone_nullity:>14}{closed!s:>20}")

# %% [markdown]
# The counts are dimensions per position of the output. A strided shortcut removes as many as it has channels to read, and
# leaves the rest: those features can be changed, by as much as one likes, and the block does not notice. To see it on the
# running network we feed a crop of 32×32 pixels, small enough to write the padded layer as one matrix: take noise, remove
# what the rows of the matrix see of it, add the rest to the features in front of the block, and compare those behind it.

# %%
crop = photographs[:1, :, 96:128, 96:128].double()
for name, both in list(joint.items())[:1]:
    block = blocks_of[name]
    with torch.no_grad(), hooks.record(model, [name]) as recording:
        model(crop)
        features, before = recording.inputs[name][0], recording.outputs[name][0]
        units = torch.eye(features.numel(), dtype=features.dtype).view(-1, *features.shape[1:])
        rows = F.conv2d(units, both.weight, None, both.stride, both.padding).flatten(1)  # Aᵀ of the padded layer
        seen = torch.linalg.qr(rows)[0]
        noise = torch.randn(len(rows), generator=generator, dtype=features.dtype)
        hidden = (noise - seen @ (seen.T @ noise)).view_as(features)
        after = block(features + 10 * features.norm() * hidden / hidden.norm())
    change = float((after - before).norm() / before.norm())
    print(f"{name}: its input is changed by 10 times its norm, its output by less than 1e-9: {change < 1e-9}")
    assert change < 1e-9

# %% [markdown]
# ## The verdict
#
# The step from weight to layer is what we test: does a null space of the weight make a null space of the layer? We take
# `patchnet`, whose windows do not overlap, and the stem above.

# %%
patch = models.load("patchnet", dtype=torch.float64).conv1
separate = image_nullity(patch, size) / (size // 7) ** 2
verdict = "holds" if separate and overlapping else "holds if C_out < C_in·s²" if separate else "fails"
print(claims.check("null-space-of-weight-is-of-layer", verdict, patchnet=separate, stridenet=overlapping,
                   quietest=float(gains[0] / noise_gain)))

# %% [markdown]
# ## Limits
#
# - The symbol is that of a torus. Zero padding changes the layer near the border, so `quietest` runs the layer itself. The
#   gains that it returns are measured, but somewhere a still quieter perturbation may exist: they are upper bounds.
# - Where $C_{out}$ is about $C_{in} s^2$, a zero-padded layer can have perturbations near its border that are
#   quiet beyond all measure although the torus has none. The search is slow to find those.
# - Features inside a network come from a ReLU or a pooling layer. That a block cannot see a direction does not mean that
#   some image moves its input along it.
# - Seven photographs and two perturbations of a kind decide a median, not a law.

# %% [markdown]
# ## Exercises
#
# **1. Change the stride.** Give the stem's weight the strides 1, 2, 4 and 7 and compute its nullity on a torus of 28×28 pixels. From which stride on is there a null space? Predict it first.

# %% jupyter={"source_hidden": true}
for stride in (1, 2, 4, 7):
    strided = copy.deepcopy(stem)
    strided.stride = (stride, stride)
    per_cell = image_nullity(strided, 28) // (28 // stride) ** 2
    print(f"stride {stride}: {per_cell} dimensions per cell")
    assert per_cell == max(0, 3 * stride**2 - 64)

# %% [markdown]
# **2. Drop filters.** Keep only the first 8 filters of the stem. How large is the layer's null space now? Find one of its
# vectors on the padded layer and check that it is silent.

# %% jupyter={"source_hidden": true}
thin = copy.deepcopy(stem)
thin.weight = nn.Parameter(stem.weight[:8], requires_grad=False)
thin.out_channels = 8
silent, _ = quietest(thin, 28, 1)
print("nullity per cell:", image_nullity(thin, 28) // 14**2, " gain below 1e-8:", bool(silent < 1e-8))
assert image_nullity(thin, 28) == 4 * 14**2 and silent < 1e-8

# %% [markdown]
# **3. Predict the lattice.** Where would a tiled null vector of period 7 vanish if the stride were 7 and the padding 3?
# And for stride 3? Check one of them.

# %% jupyter={"source_hidden": true}
moved = copy.deepcopy(stem)
moved.stride = (3, 3)
with torch.no_grad():
    answer = moved(search.repeat(0)[None])[0].norm(dim=0)[2:-2, 2:-2]
hit = torch.tensor([(3 * i - 3) % 7 == 0 for i in range(2, 2 + len(answer))])
print("zero where 3i − 3 is a multiple of 7:", torch.equal(answer < 1e-12 * answer.max(), hit[:, None] & hit))
assert torch.equal(answer < 1e-12 * answer.max(), hit[:, None] & hit)
