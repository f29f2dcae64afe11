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
# # Walk along a level set
#
# Here is a way from a cat to a cup of coffee on which a ResNet notices nothing. Every picture on the way is a valid image,
# and the network says the same of all of them, to the last digits of the arithmetic.
#
# **What you will do**
# - count how many directions a network cannot see, at any of its layers;
# - land on the set of all images with the same features, by Newton's method;
# - walk along it from one photograph towards another.
#
# **What you will learn**
# - why every network collides from some layer on, whatever its weights are;
# - why gradient descent only comes close, and what makes the features equal;
# - where a network stops insisting on what it sees.
#
# **What you need**: Jacobians, and [notebook 09](09_mind_the_overlap.ipynb), in which this network's first layer would not
# collide. No GPU, no internet; about a minute.
#
# `network` may be any of the shipped classifiers. The claims, and the pair that we ship, are about `stridenet`.

# %%
import itertools

import torch
from ipywidgets import IntSlider
from safetensors.torch import load_file

from collide_utils import claims, counting, images, models, weights
from collide_utils.comparison import compare
from collide_utils.levelsets import LevelSet
from collide_utils.show import charts, drawings, exercises, panels, pictures
from collide_utils.symbol import image_nullity

# %%
network = "stridenet"
model = models.load(network, dtype=torch.float64)
cat, coffee = (images.load(name, model.input_size).double() for name in ("chelsea", "coffee"))

# %% [markdown]
# ## The claim
#
# The supplement makes its pictures with a ResNet-50: two inputs with the same features. The caption of Figure 5 adds where
# that begins: "in the first layer of the network". Notebook 09 showed that the recipe fails there, and that no other would
# do better: this first layer hears everything. Is there no collision in a ResNet, then? We look further in.

# %% [markdown]
# ## Count what no layer can keep
#
# Let $F$ be the network up to some layer, with $m$ outputs of an image's $n$ numbers. The images with the features of $x$
# form its *level set*, all $y$ with $F(y) = F(x)$. A network of convolutions, ReLUs and max pools is affine in pieces.
# Inside the piece of $x$ a step $d$ changes the features by $Jd$, with $J$ the Jacobian. So the level set contains
# $x + \operatorname{null} J$, of dimension $n - \operatorname{rank} J \ge n - m$. If $m < n$ there is room, for any weights.

# %%
drawings.level_set(
    alt="A bent line, the level set, crosses three boundaries between pieces. From x an arrow runs straight on along the "
        "tangent, away from the line where it bends; a shorter arrow leads back to it.")

# %%
for name in ("resnet18", "resnet50", "vgg16", "vit_b_16"):
    layer, outputs = counting.first_guaranteed(name)
    print(f"{name:<14} from {layer:<13} {outputs:>7,} outputs for {3 * 224**2:,} numbers")

# %% [markdown]
# That is a count of shapes: the first layer with fewer outputs than the image has numbers and no shortcut around it. A
# photograph leaves more room. What a ReLU sets to zero asks for nothing, and windows of a max pool that share a winner ask
# together for one thing.

# %%
pool = "pool"
active = counting.active_outputs(model, pool, cat)
with torch.no_grad():
    print(f"{network} after its pool: {LevelSet(model, pool, cat).features.numel():,} outputs, {active:,} react")
print(f"so at least {max(0, cat.numel() - active):,} of {cat.numel():,} dimensions are free")
start = LevelSet(model, "logits", cat)
dimension = start.dimension()
print(f"logits: {len(start.features)} outputs, rank {dimension.rank}, {dimension.free:,} dimensions are free")

# %% [markdown]
# ## Land
#
# Start near the cat, on the way to the coffee. Newton's method takes the smallest step that repairs the features to first
# order, $y \leftarrow y + J^+ (F(x) - F(y))$. Gradient descent on $\lVert F(y) - F(x) \rVert^2$ is the usual way to make
# such images; Adam is its usual form.

# %%
def newton(y, steps):
    for _ in range(steps):
        residual = start.features - start.outputs(y)
        yield residual.detach().norm()
        J = torch.autograd.functional.jacobian(start.outputs, y).flatten(1)
        y = y + (torch.linalg.pinv(J) @ residual).view_as(y)


def adam(y, steps):
    y = y.clone().requires_grad_()
    optimizer = torch.optim.Adam([y], lr=1e-3)
    for _ in range(steps):
        residual = start.features - start.outputs(y)
        yield residual.detach().norm()
        y.grad, = torch.autograd.grad(residual.square().sum(), y)
        optimizer.step()


# %%
near = 0.9 * cat + 0.1 * coffee
errors = {"Newton": newton(near, 7), "Adam": adam(near, 50)}
errors = {name: [max(1e-16, float(e / start.features.norm())) for e in values] for name, values in errors.items()}
charts.lines(
    range(50), {name: values + [float("nan")] * (50 - len(values)) for name, values in errors.items()},
    "Landing on the level set of the logits", "step", "relative change of the logits", xscale="linear",
    alt="Two falling lines on a logarithmic axis. Newton's falls ever more steeply and reaches rounding in a few steps. "
        "Adam's falls a little and then wavers far above it.")

# %% [markdown]
# Newton doubles the number of right digits once it is in the right piece, and stops at rounding. A step of Newton costs a
# backward pass for each output, and it is worth them.

# %% [markdown]
# ## Walk
#
# `nearest` asks for the image of the level set that is nearest to the coffee. It starts at the cat, goes by cheap first-order
# steps with a Lagrange multiplier for each feature, and lands by Newton, never leaving $[0, 1]$. Starting at the coffee would
# be shorter; but a feature that is dead there, behind a ReLU, has no gradient to come back by.

# %%
found = start.nearest(coffee)
result = compare(model, cat, found.image)
apart = float((cat - coffee).square().mean().sqrt())
print("RMS distance to the coffee, less than a fifth of the cat's:", found.distance < apart / 5)
print(f"lowest and highest number: {float(found.image.min())}, {float(found.image.max())}")
print("logits equal to 13 digits:", found.landed)
print(result.verdict)

# %%
walk = [cat, *(stop.image for stop in start.walk(found.image, 5))]
said = [compare(model, cat, image) for image in walk]
assert all(of.changes["logits"] <= 1e-13 for of in said)

# %%
pictures.images(
    [*walk, coffee], [*(of.said[1] for of in said), f"the photograph\n{compare(model, cat, coffee).said[1]}"],
    alt="Seven pictures: a cat that fades step by step into a cup of coffee, and the photograph of that cup. Above the first "
        "six the network says the same, above the last it says something else.")

# %% [markdown]
# Every stop is an exact collision; what stands above each picture is what the network says of it. In the notebook a slider
# walks.

# %%
def stop(number):
    return pictures.images([walk[number]], [said[number].said[1]], width=3.5, alt=f"Stop {number} of {len(walk) - 1} on the "
                           f"walk. The network says: {said[number].said[1]}.")


panels.panel(stop, number=IntSlider(0, 0, len(walk) - 1, description="stop"))

# %% [markdown]
# ## Keep all the features
#
# The logits are few. Before them stand the pooled features, on which everything else depends: a new head, trained for
# another task, sees no more. `data/collision.safetensors` holds an image that `data/find_collision.py` found there
# in about a minute; checking it takes a second. This is the pair that notebook 00 opens with.

# %%
shipped = load_file("../data/collision.safetensors")["image"]
stridenet = models.load("stridenet", dtype=torch.float64)
kept = compare(stridenet, images.load("chelsea").double(), shipped)
print(kept)
print("valid:", float(shipped.min()) >= 0 and float(shipped.max()) <= 1)
distances = {name: float((shipped - images.load(name)).square().mean().sqrt()) for name in ("chelsea", "coffee")}
print({name: round(value, 2) for name, value in distances.items()})

# %% [markdown]
# Rounding such an image to the 256 grey levels of a file costs exactness, but little else:

# %%
rounded = compare(model, cat, (found.image * 255).round() / 255)
print("8 bits: the logits change by less than 1 %:", rounded.changes["logits"] < 0.01)
print("still a collision:", rounded.collides_from is not None)

# %% [markdown]
# ## Ask where a network insists
#
# How near to the cup does each layer let us go? A layer's level set lies within those of all later layers: who keeps the
# features there keeps them from there on. So the smallest distance can only fall with depth. At `stridenet`'s first
# convolution the cat is alone, as notebook 09 showed; further in we know how near we got.

# %%
charts.bars({"stridenet, first convolution": 1, "stridenet, pooled features": distances["coffee"] / apart,
             f"{network}, logits": found.distance / apart},
            "Where a network lets go of the cat", "share of the way left",
            alt="Three bars: the whole way is left at the first convolution, a small part of it at the pooled features, and less "
                "at the logits.")

# %% [markdown]
# Does a network insist on what people see? Engstrom et al. (2019) and Feather et al. (2023) found that networks trained on
# adversarial images do so more than others. `patchnet-l2` was trained so, `patchnet` was not. Here are three pairs of
# photographs, for both networks at their logits.

# %%
insisting = {}
for name, (one, other) in itertools.product(("patchnet", "patchnet-l2"), itertools.pairwise(images.names()[:4])):
    x, y = (images.load(photograph).double() for photograph in (one, other))
    stop = LevelSet(models.load(name), "logits", x).nearest(y, steps=80)
    insisting[f"{name}: {one}\n{float((stop.image - y).norm() / (x - y).norm()):.0%} of the way left"] = stop.image
pictures.images([*insisting.values()], [*insisting], columns=3, alt="Six images, a row for each network: each with the logits "
                "of one photograph, as near to another as the method gets, with the way that is left above it.")

# %% [markdown]
# Compare the numbers, and look for what is left of the first photograph: what a network insists on stands in its picture. Two
# small networks and three pairs can show the effect; they cannot decide how large it is, nor whether a person would still
# recognise the first. Feather et al. asked many people about many images.

# %% [markdown]
# ## Decide the claims

# %%
conv = stridenet.get_submodule(weights.first_weight(stridenet).name)
print(claims.check("resnets-collide", features=kept.changes["avgpool"], apart=distances["chelsea"]))
print(claims.check("collision-at-first-layer", directions=image_nullity(conv, stridenet.input_size),
                   stem=kept.changes["conv1"]))

# %% [markdown]
# ## Limits
#
# - Equal means equal to rounding in float64. In float32 or with another library the last digits differ.
# - We landed on networks of this course only. On a `resnet18` with random weights and images of 32×32 pixels Newton's method
#   does not land. The count promises room, but each piece of that network maps to fewer dimensions than there are features
#   to restore, so that from another piece there is hardly ever a way back. A test of this course measures it.
# - `nearest` is a local method: there may be nearer images. The count says that there is room, not how far it reaches.
# - An adversarial example also changes an image and keeps, or moves, a verdict. New here is that nothing at all changes, and
#   that whole spaces of such images are at hand.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Count.** A network ends in 1,000 logits. Up to which number of pixels on a side could a square RGB image escape the
# count, because it has no more numbers than the network has logits?

# %%
answer = ...
check = exercises.checker(lambda side: side == 18)
check(answer)

# %% jupyter={"source_hidden": true}
# 3 · 18² = 972 ≤ 1,000 < 3 · 19² = 1,083.
check(18)

# %% [markdown]
# **2. Leave the tangent.** Take a step of length 10 along the tangent, on `patchnet` and its logits. Does the image still
# collide, `True` or `False`?

# %%
answer = ...
photograph = images.load("chelsea").double()
logits = LevelSet(models.load("patchnet"), "logits", photograph)
step = logits.tangent(images.load("coffee").double() - photograph)
moved = (photograph + 10 * step / step.norm()).clamp(0, 1)
check = exercises.checker(lambda collides: collides == (logits.change(moved) < 1e-9))
check(answer)

# %% jupyter={"source_hidden": true}
# No: the step leaves the piece in which the Jacobian is right, and the logits change.
check(False)
