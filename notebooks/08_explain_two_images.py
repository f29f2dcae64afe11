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
# An interpretability map says where in an image the evidence for a class lies. Here are two images, a cat and a field of
# colour noise, that a network cannot tell apart. Does the map of the noise show a cat?
#
# **What you will do**
# - rebuild Figure 5 of the supplement: Grad-CAM of an image and of its colliding counterpart, layer by layer;
# - compare twelve methods at every side of six layers, in one table, with what the theory says about each cell;
# - choose a layer, a side and a method yourself.
#
# **What you will learn**
# - which maps of two colliding images must be equal, which differ, and why one question decides it: what does the method
#   *read*?
# - why the plain gradient with respect to the pixels is equal although the pixels are not;
# - why "the map at Conv1" can mean two things, and that the answer depends on which.
#
# **What you need**: notebook 02, the chain rule. No GPU, no internet; half a minute on two processor cores.

# %%
import ipywidgets
import torch

from collide_utils import claims, images, maps, models
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, panels, pictures

network = "patchnet"
model = models.load(network, dtype=torch.float64)
cat = images.load("chelsea", size=model.input_size).double()

# %% [markdown]
# ## The claim
#
# The last paragraph of Section 2.3 of the supplement, and Figure 5, speak of two images that collide in some layer of a
# network, and of maps drawn at a *target layer* of the reader's choice:
#
# 1. methods that only run the network forward give the same map if the target layer is the layer of collision or a later
#    one;
# 2. methods that use the gradient too give *different* maps if it is the layer of collision or an earlier one;
# 3. and the same map at every later layer.
#
# Figure 5 shows Grad-CAM on ResNet-50, with a difference at Conv1, where the images collide, and none later. We test all
# of this on `patchnet`, on which the collision is exact (notebook 02 says why on a ResNet it is not).

# %% [markdown]
# ## Two images, one set of features
#
# The counterpart is the cat plus a mosaic from the null space of the first layer, at β = 8192. It leaves the range of a
# screen, which clips it. The network sees the numbers as they are.

# %%
search = NullSpaceSearch(model)
mosaic = search.random(torch.Generator().manual_seed(0))
counterpart = search.collide(cat, mosaic, beta=8192)
print(compare(model, cat, counterpart).verdict)

# %% [markdown]
# ## Write Grad-CAM in five lines
#
# Grad-CAM (Selvaraju et al. 2017) takes the activations $A$ of a layer and the gradient of the class's logit with respect
# to them, averages the gradient of each channel over all positions, and adds up the channels of $A$ with these averages
# as weights. What is negative is dropped. Cut the network behind its first layer, `conv1`, and it is a few lines. Or cut
# it in *front* of that layer:

# %%
def grad_cam(tensor, rest):
    tensor = tensor.detach().requires_grad_()
    logits = rest(tensor)[0]
    gradient, = torch.autograd.grad(logits.max(), tensor)
    return (gradient.mean((2, 3), keepdim=True) * tensor).sum(1)[0].relu().detach()


def behind_conv1(a):
    a = model.layer1(model.pool(model.relu(model.bn1(a))))
    return model.fc(model.flatten(model.avgpool(model.layer3(model.layer2(a)))))


def difference(a, b):
    return float((a - b).norm() / max(a.norm(), b.norm()))


pair = [model.normalize(image[None]) for image in (cat, counterpart)]
at_input = difference(*(grad_cam(w, lambda w: behind_conv1(model.conv1(w))) for w in pair))
at_output = difference(*(grad_cam(model.conv1(w), behind_conv1) for w in pair))
print(f"Grad-CAM at conv1's input:  relative difference {at_input:.2f}")
print(f"Grad-CAM at conv1's output: relative difference below 1e-12: {at_output < 1e-12}")

# %% [markdown]
# The layer of collision gives both answers. Its *input* differs, and a map that multiplies by the input differs. Its
# *output* is the same, and so is the gradient there, and so is the map. "At Conv1" is not yet a question.
#
# ## Rebuild Figure 5
#
# `maps.compute` calls [Captum](https://captum.ai) for this and eleven more methods. First at the input of the stem and of
# each stage, then at the output. A map has the size of its layer, one square an entry: it is not enlarged or smoothed to
# the image's size. The two maps of a column share one scale, drawn below, because two maps that are each stretched to
# their own range can look alike and not be.

# %%
layers = ["conv1", "layer1", "layer2", "layer3"]


def figure_5(side, alt):
    rows = [[image, *(maps.compute("grad_cam", model, image, layer, side=side) for layer in layers)]
            for image in (cat, counterpart)]
    titles = ["image", *(f"Grad-CAM at the\n{side} of {layer}" for layer in layers)]
    return pictures.map_grid(rows, ["photograph", "counterpart"], titles, alt)


figure_5("input", alt="Two rows, a cat and a field of colour noise, each with its Grad-CAM maps at the inputs of four "
         "layers. At the input of conv1 the map of the cat is dark and that of the noise is full of bright specks; in "
         "the three columns to the right the two maps cannot be told apart, and their bright squares follow the face.")

# %%
figure_5("output", alt="The same two images with their Grad-CAM maps at the outputs of four layers. In every column, "
         "conv1 included, the map of the colour noise looks exactly like that of the cat, and its bright squares "
         "follow the eyes, the nose and the mouth of the cat.")

# %% [markdown]
# The supplement's figure is the first of the two. (The map of the cat at the input of `conv1` looks empty only because it
# shares a scale with one that is far larger.) Read at the output, nothing differs anywhere: the maps of the noise
# trace the face of a cat that nobody can see.

# %% [markdown]
# ## Compare twelve methods
#
# Each method comes with a note of what it reads: the activation at the layer, the gradient there, the pixels as a factor,
# or the change of the logit when a block is set to zero.

# %%
for name, method in maps.METHODS.items():
    print(f"{name:<23}{method.at:<7}{' and '.join(sorted(method.reads)):<25}{method.paper}")

# %% [markdown]
# `maps.compare_maps` draws every map twice, once for each image, and measures ‖a − b‖ / max(‖a‖, ‖b‖). Independently, it
# derives from what each method reads what should come out. The colour below is the measurement; the sign is the theory.
# Columns are in the order in which the network computes; `image` is for methods that have no target layer. We take six of
# the network's layers here; the panel further down has them all.

# %%
layers = ["normalize", "conv1", "bn1", "layer1", "layer2", "layer3"]
rows = maps.compare_maps(model, cat, counterpart, layers)
same = [row.difference for row in rows if row.theory == maps.SAME]
different = [row.difference for row in rows if row.theory == maps.DIFFERENT]
print(f"{len(rows)} pairs of maps; measured as the theory says: {sum(row.verdict == row.theory for row in rows)}")
print(f"{len(same)} must be equal, and differ by less than 1e-9: {max(same) < 1e-9}")
print(f"{len(different)} must differ, and differ by more than 1e-2: {min(different) > 1e-2}")

# %%
def column(row):
    return "image" if row.layer is None else f"{row.layer}: {row.side}"


charts.shaded_table(
    {(row.method, column(row)): row.difference for row in rows},
    {(row.method, column(row)): "=" if row.theory == maps.SAME else "≠" for row in rows},
    list(maps.METHODS), ["image", *(f"{layer}: {side}" for layer in layers for side in ("input", "output"))],
    "Maps of the photograph and of its counterpart", "relative difference of the two maps",
    alt="A table of twelve methods against the sides of six layers. From the output of conv1 on all cells are dark, "
        "differences near 1e-15, with an equals sign. In the three columns before, activation, Grad-CAM, gradient times "
        "activation and guided Grad-CAM are bright with a not-equal sign; ablation is dark. In the column of the image, "
        "saliency, guided backpropagation, SmoothGrad and occlusion by 28 pixels are dark, the other three bright.")

# %% [markdown]
# ## Prove each region
#
# Write the network as $f = g \circ h$, with $h(x) = Wx + b$ for normalisation and stem together, and
# $y = x + \delta$ with $W\delta = 0$. Both images have $h(x) = h(y) = a$.
#
# **From the output of `conv1` on (all methods).** Every activation is a function of $a$, and every gradient is a
# derivative of a part of $g$ at a point computed from $a$. Neither has another way to know the image. This is the
# supplement's argument; it covers the output of the colliding layer itself too.
#
# **Gradients before it (saliency, guided backpropagation, SmoothGrad).** The supplement warns that equal values do not
# make equal derivatives: $f(x) = x^2$ at 2 and −2. By the chain rule $\nabla f(x) = h'(x)^T\, g'(a)$, so all hangs on
# $h'$. There $h$ is the square and $h'(2) \neq h'(-2)$. Here $h$ is affine and $h' = W$ is the same everywhere:
# $\nabla f(x) = W^T g'(a) = \nabla f(y)$. Guided backpropagation changes what comes back through the ReLUs behind $a$,
# not this. SmoothGrad adds noise $n$, and $x + n$ and $y + n$ collide as well; the same noise is drawn for both.
#
# **Products with what differs (activation, Grad-CAM and its relatives before `conv1`'s output, input × gradient).** Here
# an equal gradient is multiplied by $x$ in one map and by $x + \delta$ in the other.
#
# **Blocks set to zero (ablation, occlusion).** Let $M$ set a block to zero. The maps need $h(Mx) = h(My)$, that is
# $WM\delta = 0$. A block of whole windows takes away the whole of some windows' null vectors and leaves the rest alone:
# still in the null space. A block whose edge runs through a window leaves a torn null vector, which the stem sees.
# `patchnet`'s windows are 7 pixels wide. 28 is a multiple of 7 and 32 is not, and ablation's quarters of the image, 56
# pixels, are again whole windows. So ablation is equal *before* the collision too, the second row of the table.
#
# **Integrated gradients** differ, as the table says, although $f$ is the same along … That is exercise 1.

# %% [markdown]
# ## See an equal gradient of unequal pixels
#
# A part of both images around the left eye, with three maps of it. The saliency map is the largest of the three channels'
# absolute gradients at each pixel.

# %%
eye = (slice(63, 119), slice(14, 70))
names = ["saliency", "smoothgrad", "input_x_gradient"]
pictures.map_grid(
    [[image[:, *eye], *(maps.compute(name, model, image)[eye] for name in names)] for image in (cat, counterpart)],
    ["photograph", "counterpart"], ["56×56 pixels", *names],
    alt="A cat's eye, and the same part of the colour noise, each with three maps. Saliency and SmoothGrad are the same "
        "for both, down to each pixel. Input times gradient is nearly flat for the eye and full of bright and dark "
        "specks for the noise.")

# %% [markdown]
# ## Make sure that the maps can differ
#
# Two maps are also equal if a method does not look at the image at all. So we add white noise of the same norm, which is
# not in the null space. Now nothing has to agree, and nothing does.

# %%
noise = torch.randn(cat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
noisy = search.collide(cat, noise * mosaic.norm() / noise.norm(), beta=8192)
noisy_rows = maps.compare_maps(model, cat, noisy, ["layer3"])
print(compare(model, cat, noisy).verdict)
print(f"{len(noisy_rows)} pairs of maps, every difference above 0.05: {min(row.difference for row in noisy_rows) > 0.05}")

# %%
shown = [("grad_cam", "conv1"), ("grad_cam", "layer3"), ("saliency", None), ("occlusion_28", None)]
target = int(compare(model, cat, counterpart).logits[0].argmax())
pictures.map_grid(
    [[image, *(maps.compute(name, model, image, layer, target) for name, layer in shown)]
     for image in (cat, counterpart, noisy)],
    ["photograph", "counterpart", "white noise,\nsame norm"],
    ["image", "Grad-CAM at the\noutput of conv1", "Grad-CAM at the\noutput of layer3", "saliency", "occlusion_28"],
    alt="Three rows: a cat, its colliding counterpart and the cat with white noise of the same norm; the last two look "
        "alike. Four maps each. Those of the first two rows are the same in every column; those of the third are "
        "different in every column.")

# %% [markdown]
# The last two images look alike, and the network says *cat* of one of them only. The first two look nothing alike, and
# their maps are the same.

# %% [markdown]
# ## Choose a layer yourself
#
# All layers of the network that have rows and columns and are called once, all methods at a layer. Without a kernel, the
# picture below shows one choice.

# %%
def draw(method, layer, side):
    pair = [maps.compute(method, model, image, layer, target, side) for image in (cat, counterpart)]
    return pictures.map_grid(
        [[cat, pair[0]], [counterpart, pair[1]]], ["photograph", "counterpart"],
        ["image", f"{method}\n{layer}, {side}"], alt=f"The photograph and its counterpart, each with its map by {method} "
        f"at the {side} of {layer}. Relative difference of the two maps: "
        + ("rounding." if difference(*pair) < 1e-9 else f"{difference(*pair):.2f}."))


draw("gradient_x_activation", "layer1.conv1", "output")

# %%
every_layer = maps.compare_maps(model, cat, counterpart, methods=["activation"])
panels.panel(
    draw,
    method=ipywidgets.Dropdown(options=[name for name, m in maps.METHODS.items() if m.at == "layer"],
                               value="grad_cam", description="method"),
    layer=ipywidgets.Dropdown(options=list(dict.fromkeys(row.layer for row in every_layer)), value="conv1",
                              description="layer"),
    side=ipywidgets.Dropdown(options=["input", "output"], description="side"))

# %% [markdown]
# ## The verdict
#
# One cat proves little, so we take two more photographs with mosaics of their own, and add shorter tables for them.

# %%
all_rows = list(rows)
for seed, name in enumerate(("coffee", "flower"), start=1):
    photograph = images.load(name, size=model.input_size)
    other = search.collide(photograph, search.random(torch.Generator().manual_seed(seed)), beta=2048)
    all_rows += maps.compare_maps(model, photograph, other, ["conv1", "layer1"], [
        "activation", "grad_cam", "gradient_x_activation", "guided_grad_cam", "saliency", "smoothgrad", "input_x_gradient"])
print(f"{len(all_rows)} pairs of maps; measured as the theory says: {sum(r.verdict == r.theory for r in all_rows)}")

# %% [markdown]
# Which of them does each claim speak of? We sort them by method and place, and let the measurements decide. *Before* is
# what lies before the output of `conv1`.

# %%
def differences(methods, places):
    return [row.difference for row in all_rows if row.method in methods and (row.layer, row.side) in places]


at_layer, products = ["grad_cam", "gradient_x_activation", "guided_grad_cam"], ["input_x_gradient", "integrated_gradients"]
before = {("normalize", "input"), ("normalize", "output"), ("conv1", "input")}
stem, pixels = {("conv1", "output")}, {(None, None)}
after = {(row.layer, row.side) for row in all_rows} - before - stem - pixels

forward_after = max(differences(["activation", "ablation"], stem | after))
gradient_after = max(differences(at_layer, after))
factor = min(differences(at_layer, before) + differences(products, pixels))
no_factor = max(differences(at_layer, stem) + differences(["saliency", "guided_backprop", "smoothgrad"], pixels))
cam_input, cam_output = (differences(["grad_cam"], {("conv1", side)}) for side in ("input", "output"))

# %%
def verdict(differ, equal, condition):
    """The verdict on "the maps differ": of those under the condition (`differ`), and of the others (`equal`)."""
    if not differ > 1e-2:
        return "fails"
    return f"holds if {condition}" if equal < 1e-9 else "holds"


for claim, found in (("forward-maps-equal", forward_after), ("gradient-maps-equal-after", gradient_after)):
    print(claims.check(claim, "holds" if found < 1e-9 else "fails", difference=found))
print(claims.check("gradient-maps-differ-before", verdict(
    factor, no_factor, "the map multiplies by what the layer sees"), factor=factor, no_factor=no_factor))
print(claims.check("grad-cam-differs-at-conv1", verdict(
    min(cam_input), max(cam_output), "the layer's input is read"), input=min(cam_input), output=max(cam_output)))

# %% [markdown]
# ## What it means in practice
#
# A map is a statement about the network at an image. It is not a certificate of what the image shows. Someone who is
# shown only the maps of the noise, from Grad-CAM at any stage to SmoothGrad at the pixels, sees the evidence for a cat,
# in the places where a cat would have it. Whoever audits a model by its maps should look at the image beside them, and know what the method
# reads. The maps that told our two images apart did so by multiplying with the pixels, not by any insight of the network.

# %% [markdown]
# ## Limits
#
# - The equalities hold for an exact collision. Where windows overlap, as in every ResNet, a tiled null vector is not one,
#   and all maps differ (notebook 02).
# - The gradients before the stem are equal because the stem is the *first* layer and nothing but an affine
#   normalisation comes before it. For a collision deeper in a network, behind a ReLU, $h$ is not affine and the
#   supplement's warning applies: `maps.compare_maps` refuses such a pair.
# - Grad-CAM on the tokens of a vision transformer needs them put back into rows and columns first. `maps.compute` says
#   so and does not do it.
# - Equal means up to rounding. A ReLU whose input is within rounding of zero may open for one image and not for the other;
#   in float64 it happened in none of the maps above.

# %% [markdown]
# ## Exercises
#
# **1. Integrated gradients.** They add up gradients along the straight path from black to the image and multiply by the
# image (Sundararajan et al. 2017). Show that along their paths, at $tx$ and at $ty$, the network gives the *same* logits
# for every $t$. Why are the maps different all the same? And then: add up each map over each 7×7 window. What do you
# find, and why? (Hint for the last: multiply $\delta$ by $W^T g'(a)$ and sum.)

# %% jupyter={"source_hidden": true}
with torch.no_grad():
    along = [difference(model(t * cat[None]), model(t * counterpart[None])) for t in torch.linspace(0, 1, 11).double()]
pair = [maps.compute("integrated_gradients", model, image, target=target) for image in (cat, counterpart)]
by_window = [torch.nn.functional.avg_pool2d(map[None], 7)[0] for map in pair]
print("same logits along the paths:", max(along) < 1e-9)
print("same map:", difference(*pair) < 1e-9)
print("same sums over windows:", difference(*by_window) < 1e-9)
# W(tδ) = 0, so logits and gradients agree at every t. Their average is W^T ḡ for both; one map multiplies it by x, the
# other by x + δ. What differs is δ · W^T ḡ, entry by entry, and over a window that adds up to (Wδ) · ḡ = 0.
assert max(along) < 1e-9 and difference(*pair) > 1e-2 and difference(*by_window) < 1e-9

# %% [markdown]
# **2. Tear a null vector.** Set the block of rows and columns 28 to 55 of both images to zero and compare the logits. Move
# the block one pixel to the right. And two, up to seven. For which shifts are the logits the same?

# %% jupyter={"source_hidden": true}
def without_block(image, shift):
    image = image.clone()
    image[:, 28:56, 28 + shift:56 + shift] = 0
    return image


pairs = [compare(model, without_block(cat, shift), without_block(counterpart, shift)) for shift in range(8)]
print("collide at shift:", [shift for shift, pair in enumerate(pairs) if pair.collides_from == "conv1"])
assert [pair.collides_from == "conv1" for pair in pairs] == [True, *[False] * 6, True]

# %% [markdown]
# **3. Hide the pixels from a map.** Input × gradient tells the two images apart. Find a third image, neither the cat nor
# the counterpart, that collides with the cat and has *its* input × gradient map. (Hint: one more condition on each window,
# linear in $\delta$. How many dimensions of the null space are left?)

# %% jupyter={"source_hidden": true}
# At each pixel the sum over the channels of δ · gradient must vanish: 49 conditions more on the 147 numbers of a window,
# at most. 64 + 49 = 113 conditions leave at least 34 dimensions.
gradient, = torch.autograd.grad(model((image := cat.clone().requires_grad_())[None])[0, target], image)
cut = torch.nn.functional.unfold(gradient[None], 7, stride=7)[0].T.reshape(-1, 3, 49)
conditions = torch.diag_embed(cut).transpose(1, 2).flatten(2)  # windows × 49 × 147
inside = conditions @ search.basis
right = torch.linalg.svd(inside, full_matrices=True)[2]
vectors = right[:, -1] @ search.basis.T
delta = torch.nn.functional.fold(vectors.T[None], cat.shape[1:], 7, stride=7)[0]
third = search.collide(cat, delta, beta=8192)
found = difference(*(maps.compute("input_x_gradient", model, image, target=target) for image in (cat, third)))
print(compare(model, cat, third).verdict)
print("same input × gradient map:", found < 1e-9)
assert compare(model, cat, third).collides_from == "conv1" and found < 1e-9
