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
# # Collide in any task
#
# A classifier says one word. Other networks say more: one labels every pixel of a street, one draws boxes around cars and
# people. In this notebook you bury a street in colour noise, and both go on seeing what they saw before, to the last pixel.
#
# **What you will do**
# - perturb one picture that collides in two networks of two tasks;
# - compare label maps pixel by pixel, and boxes corner by corner;
# - feed the networks what a screen shows, and see the collision end;
# - try the same on a network whose windows overlap.
#
# **What you will learn**
# - why nothing behind the colliding layer matters, the task included;
# - why a map of labels is a better witness of a collision than a word.
#
# **What you need**: notebooks 02 and 07. No GPU, no internet; about half a minute on two processor cores.
#
# It runs on `streetnet` and `streetboxes`, a segmenter and a detector that share a stem whose windows lie side by side.

# %%
import warnings

import torch
from torchvision.models.segmentation import fcn_resnet50

from collide_utils import NullSpaceSearch, claims, compare, images, models
from collide_utils.show import charts, drawings, exercises, pictures

names = "streetnet", "streetboxes"
labeller, detector = (models.load(name, dtype=torch.float64) for name in names)
detector.score_thresh = 0.4  # of the boxes, those that it is rather sure of
search = NullSpaceSearch(labeller)
dusk, target, street = images.streets(labeller.input_size).values()

# %% [markdown]
# ## One stem, many heads
#
# Every network for images begins with a stem. What comes behind it may differ: a few classes, a label for each pixel, a
# list of boxes.

# %%
drawings.one_stem(
    ["classifier: a word", "segmenter: a label for every pixel", "detector: boxes, and what is in them"],
    alt="A photograph x and a perturbation delta go into a stem W, below which stands W delta = 0. Only W x leaves the stem, "
        "to a body, and from there to three heads: a word, a label for every pixel, and boxes.")

# %% [markdown]
# If $W\delta = 0$, the body receives $Wx$ with or without $\delta$, and so does every head. No property of the heads enters
# this argument. That is all the theory of this notebook.

# %% [markdown]
# ## The claim
#
# The null-space search is said to make colliding inputs "for any task, including, but not limited to, classification,
# localization, and segmentation". The sentence stands in the abstract of the main paper; the supplement itself counts
# secure classifiers only. Neither asks how the windows of the stem lie.

# %% [markdown]
# ## Search once
#
# Our two networks were trained on frames from a car in Cambridge (CamVid: Brostow, Fauqueur and Cipolla, 2009). The
# detector took its stem from the segmenter and kept it, so one search serves both.

# %%
print("the same stem:", torch.equal(*(network.get_submodule(search.layer.name).weight for network in (labeller, detector))))
mosaic = search.random(torch.Generator().manual_seed(0))
noisy = search.collide(street, mosaic, 2048)


# %%
def read(image):
    """Return the labels of all pixels and the boxes that the networks give to an image."""
    with torch.no_grad():
        return labeller(image.double()[None])[0].argmax(0), detector(image.double()[None])[0]


def show(seen, titles, alt):
    colours = pictures.colours(labeller.categories)
    rows = []
    for image, (labels, found) in zip(seen, map(read, seen), strict=True):
        rows += [image, pictures.label_map(labels, colours), pictures.with_boxes(image, found, detector.categories, colours)]
    heads = [head for title in titles for head in (title, "its labels", "its boxes")]
    return pictures.images(rows, heads, alt, columns=3, legend=colours)


# %%
show([street, noisy], ["a street", "plus null-space noise, β = 2048"],
     alt="Above a street with its map of labels, in which road, buildings, sky and cars have a colour each, and with boxes "
         "around cars and people. Below the same street buried in colour noise, with the same map and the same boxes.")

# %% [markdown]
# Outlines shine through the noise, but no driver would find a kerb in it. Is the lower map the same as the upper one, or does
# it only look so?

# %%
for network in (labeller, detector):
    print(f"{type(network).__name__}: {compare(network, street, noisy).verdict}")

# %% [markdown]
# ## Turn up β
#
# Now for every β, and of all layers from the stem on: the largest relative change, in two number formats.

# %%
betas, series = [8 * 4**k for k in range(6)], {}
for name in names:
    for dtype in (torch.float32, torch.float64):
        network = models.load(name, dtype=dtype)
        pairs = [compare(network, street, search.collide(street, mosaic, beta)) for beta in betas]
        start = list(pairs[0].changes).index(search.layer.name)
        series[f"{name}, {str(dtype).removeprefix('torch.')}"] = [
            max(list(pair.changes.values())[start:]) for pair in pairs]
charts.lines(
    betas, series, "Every layer from the stem on, in both networks", "β (8-bit grey levels per window)",
    "largest relative change",
    alt="Largest relative change against beta on logarithmic axes, four lines. Both float64 lines stay below 1e-10 for all "
        "beta from 8 to 8192. The float32 lines look alike, eight to nine orders higher.")

# %% [markdown]
# What is left is rounding, and it follows the number format. Features that are equal up to rounding leave a head one choice:
# where two labels are all but tied, or a score lies at its threshold, the last digit decides. We count such cases, on three
# streets at β = 8192.

# %%
changed, shift, ties, rounded = 0, 0.0, 0, models.load(names[0])
for frame in (street, dusk, target):
    image = search.collide(frame, mosaic, betas[-1])
    (labels, found), (its_labels, its_found) = read(frame), read(image)
    changed += int((labels != its_labels).sum())
    shift = max(shift, float((found["boxes"] - its_found["boxes"]).abs().max()))
    with torch.no_grad():
        ties += int((rounded(frame[None]).argmax(1) != rounded(image.float()[None]).argmax(1)).sum())
print(f"float64: {changed} of {3 * labels.numel():,} pixels change their label; no box moves by 1e-6 pixels: {shift < 1e-6}")
print(f"float32: fewer than one pixel in 1,000 changes its label: {ties < 3 * labels.numel() / 1000}")

# %% [markdown]
# ## Feed what is shown
#
# The noisy picture above is not what the networks were fed. Many of its numbers lie outside [0, 1], and a screen clips them.
# Clipping is a change that the stem sees. This is what the networks say of the picture *as shown*:

# %%
shown = noisy.clamp(0, 1)
show([shown], ["the noisy street, clipped"],
     alt="The same street buried in colour noise, clipped to [0, 1], and what the networks make of it: a map that has lost "
         "most of the street, and other boxes.")

# %%
for network in (labeller, detector):
    print(f"{type(network).__name__}: {compare(network, street, shown).verdict}")

# %% [markdown]
# To show a collision honestly we need an image inside [0, 1]. `search.toward` finds the one nearest to any target, here
# another street.

# %%
valid = search.toward(street, target)
show([valid, target], ["valid, nearest to the street below", "the other street"],
     alt="Above the first street, grainier than it was, with the label map and the boxes that it had without the grain. Below "
         "the other street, with a map and boxes of its own.")

# %%
for network in (labeller, detector):
    print(f"{type(network).__name__}: {compare(network, street, valid).verdict}")
way, left = (255 * float((target - image).square().mean().sqrt()) for image in (street, valid))
print(f"distance to the other street: {way:.1f} grey levels RMS, and {left:.1f} from the valid image")

# %% [markdown]
# Its numbers lie in [0, 1], so this picture is fed as it is shown. As in notebook 07, it does not get far: the stem sees most
# of what sets two streets apart.

# %% [markdown]
# ## Call a better witness
#
# In practice the task does matter: it decides how much an equal answer proves. White noise of the same size is no collision.
# How soon does each kind of answer notice it? As *one word* we take the label that most pixels have.

# %%
generator = torch.Generator().manual_seed(1)
noise = torch.randn(street.shape, generator=generator, dtype=torch.float64) / search.basis.shape[0] ** 0.5
sizes, (labels, _) = [2**k for k in range(12)], read(street)
maps = [read(search.collide(street, noise, beta))[0] for beta in sizes]
share = [100 * float((seen != labels).double().mean()) for seen in maps]
words = [100 * int(seen.flatten().mode()[0] != labels.flatten().mode()[0]) for seen in maps]
charts.lines(
    sizes, {"a label for every pixel": share, "one word": words}, "What each witness notices of white noise",
    "β (8-bit grey levels per window)", "changed, per cent", yscale="linear",
    alt="Changed labels in per cent against the size of white noise. Of the map of labels a few pixels notice small noise, and "
        "more with every doubling. The single word stays the same while many pixels have changed.")

# %%
print("the word is the same up to β =", max(beta for beta, word in zip(sizes, words, strict=True) if not word))
print(f"at β = {sizes[8]}, {share[8]:.0f} % of the pixels have another label")
print(f"two streets have the same label on {float((read(target)[0] == labels).double().mean()):.0%} of their pixels")

# %% [markdown]
# A word that stays the same is weak evidence: it survives much that is no collision. A map of labels survives hardly anything
# else. But mind how you count. Two streets agree on a good part of their pixels anyway, for the road is below and the sky
# above. Only *all* pixels are evidence.

# %% [markdown]
# ## Let the windows overlap
#
# Torchvision's `fcn_resnet50` labels pixels too, with the stem of a ResNet: windows of 7×7 at a stride of 2. Random weights
# are enough here, because the argument is about geometry ([notebook 09](09_mind_the_overlap.ipynb)).

# %%
torch.manual_seed(0)
fcn = fcn_resnet50(weights=None, weights_backbone=None).double().eval()
small = images.streets((112, 112))
with warnings.catch_warnings(action="ignore", category=UserWarning):  # it says that the windows overlap
    overlapping = NullSpaceSearch(fcn, (3, 112, 112))
tiled = overlapping.random(torch.Generator().manual_seed(0))
pairs = [compare(fcn, frame, overlapping.collide(frame, tiled, 512)) for frame in small.values()]
least = min(pair.changes[overlapping.layer.name] for pair in pairs)
print(f"{pairs[-1].verdict}; relative change at the stem: at least {least:.1f}")

# %% [markdown]
# ## The verdict

# %%
worst = max(series[f"{name}, float64"][-1] for name in names)
print(claims.check("any-task", from_stem_on=worst, labels_changed=changed, boxes_moved=shift, overlapping=least))

# %% [markdown]
# ## Limits
#
# - On `fcn_resnet50` *this* search fails. Further down its layers, collisions exist in every task
#   ([notebook 10](10_walk_along_a_level_set.ipynb)).
# - Both networks are small, and people far away are often lost. `data/models/README.md` gives numbers for each class.
# - Torchvision's detectors resize their images first, and a resized null-space vector is none. Ours takes images as they are.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Mind the edge.** A whole frame of CamVid has 360×480 pixels. The stem's windows have 7×7. How many pixels does no
# window see?

# %%
answer = ...
check = exercises.checker(lambda pixels: pixels == 360 * 480 - (360 // 7) * (480 // 7) * 49)
check(answer)

# %% jupyter={"source_hidden": true}
# 51×68 windows cover 357×476 pixels. The other 2,868 may change at will: their labels are copied from their neighbours.
check(360 * 480 - 357 * 476)

# %% [markdown]
# **2. Count the room.** How many dimensions has the space of all perturbations that neither of our networks sees, at the
# size of `street`?

# %%
answer = ...
check = exercises.checker(lambda n: n == search.basis.shape[1] * search.geometry.grid[0] * search.geometry.grid[1])
check(answer)

# %% jupyter={"source_hidden": true}
# The nullity of the weight, once for each window. The heads take nothing away.
check(search.basis.shape[1] * search.geometry.grid[0] * search.geometry.grid[1])

# %% [markdown]
# **3. Give each its own stem.** Had the detector learnt a stem of its own, of the same shape, how many dimensions could a
# *single window* still change in both networks at once? Give the least number that is certain.

# %%
answer = ...
check = exercises.checker(lambda n: n == 2 * search.basis.shape[1] - search.basis.shape[0])
check(answer)

# %% jupyter={"source_hidden": true}
# Two null spaces of 83 dimensions in 147 meet in at least 83 + 83 − 147 = 19 (notebook 11).
check(2 * search.basis.shape[1] - search.basis.shape[0])
