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
# # Explain two images that the network cannot tell apart
#
# An interpretability map says where in an image the evidence for a class lies. Here are two images, a portrait and a field of
# colour noise, that a network cannot tell apart. Does the map of the noise show a face?
#
# **What you will do**
# - rebuild Figure 5 of the supplement: Grad-CAM of an image and of its colliding counterpart, layer by layer;
# - compare twelve methods on both sides of several layers with what the theory forces;
# - find a pair for which even the maps that could differ do not.
#
# **What you will learn**
# - why one question decides which maps must be equal: what does the method *read*?
# - why the plain gradient at the pixels is equal although the pixels are not;
# - why "the map at Conv1" can mean two things.
#
# **What you need**: [notebook 02](02_search_a_null_space.ipynb), the chain rule. No GPU, no internet.
#
# `network` may be any shipped network whose windows do not overlap.

# %%
import warnings

import torch

from collide_utils import claims, images, maps, models, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch, OverlapWarning
from collide_utils.show import charts, drawings, exercises, pictures

# %%
network, layers = "patchnet", ["conv1", "layer1", "layer2"]
model = models.load(network, dtype=torch.float64)
photograph = images.load("astronaut", size=model.input_size).double()
search = NullSpaceSearch(model)
assert not search.geometry.overlapping, f"the windows of {network} overlap, so no mosaic collides there"
mosaic = search.random(torch.Generator().manual_seed(0))
counterpart = search.collide(photograph, mosaic, beta=8192)
pair = compare(model, photograph, counterpart)
print(pair.verdict)
print("of the counterpart as shown, that is clipped:", compare(model, photograph, counterpart.clamp(0, 1)).said[1])

# %% [markdown]
# ## The claim
#
# The last paragraph of Section 2.3 and Figure 5 speak of two images that collide in some layer of a network, and of maps drawn
# at a *target layer*:
#
# 1. methods that only run the network forward give the same map if the target layer is the layer of collision or a later one;
# 2. methods that use the gradient too give *different* maps if it is the layer of collision or an earlier one;
# 3. and the same map at every later layer.
#
# Figure 5 shows Grad-CAM on ResNet-50, with a difference at Conv1, where the images are said to collide, and none later.

# %% [markdown]
# ## Where two images part and join
#
# Two different images enter. From the output of the first layer on, the network has one tensor for both, and nothing that it
# computes from there, forward or backward, can know which image it was.

# %%
drawings.part_and_join(
    ["image", "normalize", *layers, "logits"], layers[0],
    alt="Two lines, one for each image, run side by side through the normalisation into the first layer. There they join, and one "
        "line runs on through the later layers to the logits.")

# %% [markdown]
# ## Rebuild Figure 5
#
# Grad-CAM (Selvaraju et al., 2017) averages the gradient of the class's logit over the positions of each channel, and adds up
# the layer's activations with these averages as weights. `maps.compute` calls [Captum](https://captum.ai) for it. "At Conv1" can
# mean the *input* of that layer or its *output*. First the input. The two maps of a column share one scale.

# %%
def figure_5(side, alt):
    rows = [[image, *(maps.compute("grad_cam", model, image, layer, side=side) for layer in layers)]
            for image in (photograph, counterpart)]
    titles = ["image", *(f"Grad-CAM at the\n{side} of {layer}" for layer in layers)]
    return pictures.map_grid(rows, ["photograph", "counterpart"], titles, alt)


figure_5("input", alt="Two rows, a portrait and a field of colour noise, each with Grad-CAM maps at the inputs of three layers. At "
         "the first the map of the noise is full of bright specks and that of the portrait is dark; the others are alike.")

# %%
figure_5("output", alt="The same two images with Grad-CAM maps at the outputs of the layers. In every column the map of the colour "
         "noise looks exactly like that of the portrait.")

# %% [markdown]
# At the output, nothing differs anywhere. The supplement's figure looks like the first of the two. Does that show a collision? We
# do the same on a network whose windows overlap, as ResNet-50's do, at a small β.

# %%
other = models.load("stridenet", dtype=torch.float64)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", OverlapWarning)
    other_search = NullSpaceSearch(other)
near = other_search.collide(photograph, other_search.random(torch.Generator().manual_seed(0)), beta=64)
print(compare(other, photograph, near).verdict)
rows = [[image, *(maps.compute("grad_cam", other, image, layer, side="input") for layer in layers[:2])]
        for image in (photograph, near)]
pictures.map_grid(
    rows, ["photograph", "no collision"], ["image", *(f"Grad-CAM at the\ninput of {layer}" for layer in layers[:2])],
    alt="A portrait and the same with light grain, with Grad-CAM maps at the inputs of two layers of stridenet. The maps look alike "
        "although the images do not collide in this network.")

# %% [markdown]
# The maps look alike, and there is no collision at all: two similar images have similar maps. A figure cannot tell equal from
# similar; a number can.

# %% [markdown]
# ## Compare twelve methods
#
# `maps.compare_maps` draws every map twice, once for each image, and measures $\lVert a - b \rVert / \max(\lVert a \rVert, \lVert
# b \rVert)$. From what each method reads it also derives whether the two must be equal. The colour below is the measurement. The
# sign says "=" where theory forces equality, and "·" where it forces nothing.

# %%
sides = [(layer, side) for layer in ("normalize", *layers) for side in ("input", "output")]
rows = maps.compare_maps(model, photograph, counterpart, ["normalize", *layers])
columns = ["image", *(f"{layer}: {side}" for layer, side in sides)]
place = {row: "image" if row.layer is None else f"{row.layer}: {row.side}" for row in rows}
charts.shaded_table(
    {(row.method, place[row]): row.difference for row in rows},
    {(row.method, place[row]): "=" if row.theory == maps.EQUAL else "·" for row in rows}, list(maps.METHODS), columns,
    "Maps of the photograph and of its counterpart", "relative difference of the two maps",
    alt="A table of twelve methods against the sides of four layers. From the output of conv1 on all cells are dark with an equals "
        "sign. Before, activation, Grad-CAM and its relatives are bright with a dot. In the column of the image saliency, guided "
        "backpropagation, SmoothGrad and one occlusion are dark, the others bright.")

# %%
forced = [row.difference for row in rows if row.theory == maps.EQUAL]
free = [row.difference for row in rows if row.theory != maps.EQUAL]
print(f"{len(forced)} pairs of maps must be equal; all differ by less than 1e-9: {max(forced) < 1e-9}")
print(f"{len(free)} need not be; the smallest difference is {min(free):.2f}")

# %% [markdown]
# Write the network as $f = g \circ h$, with the affine $h(x) = Wx + b$ up to the first layer, and $y = x + \delta$ with $W\delta =
# 0$. Both images have $h(x) = h(y) = a$. Every activation and every gradient behind $a$ is computed from $a$ alone. *Before* it,
# the gradient is $\nabla f(x) = W^\top g'(a) = \nabla f(y)$: equal too, because $h$ has the same derivative everywhere. (The
# supplement warns of $f(x) = x^2$; there $h$ is not affine.) Only a map that multiplies by the pixels, or by what the layer's input
# makes of them, has a chance to differ.

# %% [markdown]
# ## Hide the pixels from a map
#
# A chance is not a must. Grad-CAM at the first layer's input multiplies each window by known weights, so it is *linear* in
# $\delta$: one more condition for each pixel. Many dimensions of each null space are left. We take a perturbation from there.

# %%
target = int(pair.logits[0].argmax())
at = model.normalize(photograph[None]).detach().requires_grad_()
rest = torch.nn.Sequential(*list(model.children())[1:])
(gradient,) = torch.autograd.grad(rest(at)[0, target], at)
alpha = gradient.mean((2, 3))[0] / model.normalize.std.flatten()
pixels = search.geometry.window[0] ** 2
condition = torch.kron(alpha[None], torch.eye(pixels).double())  # one row for each pixel of a window
free = torch.linalg.svd(condition @ search.basis)[2][torch.linalg.matrix_rank(condition @ search.basis):].T
vector = search.basis @ free[:, 0]
hidden = search.collide(photograph, windows.tile(search.geometry, vector.expand(*search.geometry.grid, -1)), 8192)
print(f"dimensions of the null space that this Grad-CAM does not see: {free.shape[1]}")
print(compare(model, photograph, hidden).verdict)

# %%
cams = [maps.compute("grad_cam", model, image, layers[0], target, "input") for image in (photograph, hidden)]
agree = float((cams[0] - cams[1]).norm() / cams[0].norm())
by_method = {(row.method, row.layer, row.side): row.difference for row in rows}
behind = {key: d for key, d in by_method.items() if key[1] in layers[1:] or key[1:] == (layers[0], "output")}
forward = [d for key, d in behind.items() if key[0] in ("activation", "ablation")]
print(claims.check("forward-maps-equal", difference=max(forward)))
print(claims.check("gradient-maps-equal-after", difference=max(d for key, d in behind.items() if key[1] in layers[1:])))
print(claims.check("gradient-maps-differ-before", saliency=by_method["saliency", None, None], hidden=agree))
print(claims.check("grad-cam-differs-at-conv1", output=by_method["grad_cam", layers[0], "output"], hidden=agree,
                   this_pair=by_method["grad_cam", layers[0], "input"]))

# %% [markdown]
# ## Is there a face in the map of the noise?
#
# The box marks the face. We count how much of Grad-CAM lies in it, for the portrait and for the noise.

# %%
top, bottom, left, right = (round(part * model.input_size) for part in (0.25, 0.9, 0.13, 0.76))
inside = torch.zeros(photograph.shape[1:]).double()
inside[top:bottom, left:right] = 1
shown = {}
for name, image in (("photograph", photograph), ("counterpart", counterpart)):
    heat = maps.compute("grad_cam", model, image, layers[-1], target)
    large = torch.nn.functional.interpolate(heat[None, None], image.shape[1:], mode="bilinear")[0, 0]
    shown[f"{name}\n{float((large * inside).sum() / large.sum()):.0%} in the box"] = pictures.overlay(image, heat)
pictures.images(
    [*shown.values(), photograph * (0.35 + 0.65 * inside)], [*shown, f"the box\n{inside.mean():.0%} of the image"], width=2.8,
    alt="Grad-CAM laid over the portrait and over the colour noise: the same bright region in both. Beside them the portrait with "
        "everything outside a box around the face darkened.")

# %% [markdown]
# The two shares are one number. The map of the noise is the map of the portrait, wherever that has its bright parts, and no reader
# of the map alone would guess what the image shows. There is a reason: the counterpart still *contains* the portrait.
# [Notebook 06](06_draw_with_a_null_space.ipynb) projects it on what the network sees, and there it is. So a map is a statement
# about the network at an image, not a certificate of what the image shows. Look at the image beside it.

# %% [markdown]
# ## Limits
#
# - All equalities are those of an exact collision, up to rounding. A ReLU whose input is within rounding of zero may open for one
#   image and not for the other; in float64 it did not happen here.
# - For a collision deeper in a network, $h$ is not affine and gradients before it are not forced to agree.
#   `maps.compare_maps` says what is forced there, too.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Tear a null vector.** Set a square of 28×28 pixels to zero in both images. By how many pixels at least must you shift it
# to the right, away from a border between windows, until the images collide again?

# %%
answer = ...
check = exercises.checker(lambda shift: shift == NullSpaceSearch(models.load("patchnet")).geometry.window[1])
check(answer)

# %% jupyter={"source_hidden": true}
# By the width of a window, 7: in between, an edge of the square tears null vectors apart.
check(7)

# %% [markdown]
# **2. Read integrated gradients.** They average the gradient along the straight path from black to the image, and multiply by
# the image. Along their paths both images have the same logits. Which factor makes the maps differ, "gradient" or "pixels"?

# %%
answer = ...
check = exercises.checker(lambda word: word == "pixels")
check(answer)

# %% jupyter={"source_hidden": true}
# W(tδ) = 0 for every t, so logits and gradients agree along the paths. One map multiplies by x, the other by x + δ.
check("pixels")
