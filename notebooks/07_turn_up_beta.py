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
# # Turn up β
#
# One number decides how far a colliding image is from its photograph. In this notebook you turn it, from a change that
# nobody sees to colour noise, and watch what the network makes of it. Then you ask for something harder: colliding
# images that a file can hold.
#
# **What you will do**
# - rebuild Figure 4 of the supplement;
# - move a slider, and see every layer follow;
# - set what people see against what the network sees;
# - find valid colliding images, and save them in 8 bits.
#
# **What you will learn**
# - what β counts, and when an image stops being one;
# - how far a valid image may go;
# - what is left of a collision in a file.
#
# **What you need**: notebooks 02 and 06.
#
# What follows holds where windows do not overlap: on `patchnet`, `patchnet-b` and `patchnet-l2`.

# %%
import io

import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from collide_utils import claims, images, models
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, drawings, exercises, panels, pictures

network = "patchnet"

# %%
model = models.load(network, dtype=torch.float64)
search = NullSpaceSearch(model)
stem, size = search.layer.name, model.input_size
assert not search.geometry.overlapping, f"the windows of {network} overlap, so tiled windows do not collide there"
cat = images.load("chelsea", size=size).double()
mosaic = search.random(torch.Generator().manual_seed(0))
betas = [8 * 2**k for k in range(11)]
colliding = {beta: search.collide(cat, mosaic, beta) for beta in betas}

# %% [markdown]
# ## The claim
#
# Figure 4 of the supplement shows random mosaics with a growing multiplier β, and a photograph under each. The visual
# distortion grows with β, and every picture leads to the same prediction. (The text ends the series at β = 8192, the
# caption at 2048. We take the longer one.) What becomes of the prediction was decided in
# [notebook 02](02_search_a_null_space.ipynb). Here we look at the distortion.
#
# ## Say what β counts
#
# Images are numbers in [0, 1], which are 255 grey levels apart. A perturbation $v$ has norm 1 in every window, and
# $x' = x + \frac{\beta}{255}\,v$. So **β is the length of the change of one window, in grey levels**. A window of
# $n$ numbers spreads it to $\beta / \sqrt n$ for each, as a root mean square (RMS).

# %%
def rms(difference):
    return 255 * float(difference.square().mean().sqrt())


numbers = len(search.basis)
for beta, y in colliding.items():
    outside = float(((y < 0) | (y > 1)).double().mean())
    print(f"β = {beta:>4}: {rms(y - cat):>6.1f} grey levels RMS (β/√{numbers} = {beta / numbers**0.5:.1f}), "
          f"{outside:>4.0%} of the numbers outside [0, 1]")

# %% [markdown]
# ## Draw Figure 4
#
# Above, a part of each perturbation, with zero as grey. Below it the sum, then a part of what the network sees of the
# sum: without its share in the null space, as in [notebook 06](06_draw_with_a_null_space.ipynb). Pictures are clipped
# to [0, 1]; the network is given the unclipped numbers. So two predictions stand over each sum: of the numbers, and of
# the picture as shown.

# %%
def told(y):
    pair = compare(model, cat, y)
    return (f"change after {stem}: {pair.changes[stem]:.0e}\nnumbers: {pair.said[1]}\n"
            f"as shown: {compare(model, cat, y.clamp(0, 1)).said[1]}")


some = {beta: colliding[beta] for beta in (8, 128, 1024, 8192)}
pictures.images(
    [*((0.5 + y - cat)[:, :56, :56] for y in some.values()), *some.values(),
     *(search.seen(y)[:, 64:120, 14:70] for y in some.values())],
    [*(f"β = {beta}" for beta in some), *map(told, some.values()), *["what the network sees of it"] * 4], width=2.1,
    alt="For beta 8, 128, 1024 and 8192: the perturbation, even grey at first, colour noise in the end; the cat with it, "
        "unchanged, grainy, buried, gone; and what the network sees, the same eye of the cat four times.")

# %% [markdown]
# As in the supplement, the photograph disappears behind its noise, and the prediction of the numbers stays. The
# photograph, the network and the mosaic are ours, and the figure shows four of eleven steps. The third row and the last
# lines are new. The picture as shown is another image, of which the network says other things. And what the network sees
# does not change.
#
# ## Turn it yourself
#
# The slider stops at powers of two and between; press play to let it run. The search is in float64. The network runs in
# float32, so the bars show float32's rounding. *Stay in [0, 1]* shrinks each window of the perturbation until it fits.
# A shorter null-space vector is still one, so the collision stays exact; clipping would break it.
#
# `panels.beta_panel(model, image)` takes your own network and picture. Figure 4 above is its still picture; `make app`
# serves the panel as a page without code.

# %%
panels.beta_panel([network, *(name for name in ("patchnet-b", "stridenet") if name != network)])

# %% [markdown]
# ## Set what people see against what the network sees
#
# The structural similarity (SSIM) is 1 for equal pictures and near 0 for unrelated ones. We take it of the pictures *as
# shown*, and beside it the change of the features in four number formats.

# %%
def ssim(x, y):
    x, y = (picture.double().clamp(0, 1).numpy() for picture in (x, y))
    return structural_similarity(x, y, channel_axis=0, data_range=1)


series = {"what people see: 1 − SSIM": [1 - ssim(cat, y) for y in colliding.values()]}
for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
    rounded = models.load(network, dtype=dtype)
    series["features, " + str(dtype).removeprefix("torch.")] = [
        compare(rounded, cat, y).changes[stem] for y in colliding.values()]
charts.lines(
    betas, series, "The picture is lost, the features are not", "β (8-bit grey levels per window)",
    "1 − SSIM, or relative change of the features",
    alt="Against beta, on logarithmic axes: one minus SSIM rises to 1 and stays there. The relative change of the features "
        "after the stem is four lines, from bfloat16 above to float64 far below, flat up to a large beta, then rising.")

# %% [markdown]
# The change of the features is rounding. It follows the number format, not the distortion, and grows only where the
# perturbation outgrows the photograph.

# %%
falls, first, last = [], [], []
for index, name in enumerate(images.names()):
    photograph, v = images.load(name, size=size), search.random(torch.Generator().manual_seed(index))
    ssims = [ssim(photograph, search.collide(photograph, v, beta)) for beta in betas]
    falls += (-torch.tensor(ssims).diff()).tolist()
    first, last = [*first, ssims[0]], [*last, ssims[-1]]
print(claims.check("distortion-grows", smallest_step=min(falls), at_8=min(first), at_8192=max(last)))

# %% [markdown]
# ## Ask for a valid image
#
# Which colliding images are images? Those whose numbers lie in [0, 1] and whose windows $z_i$ satisfy $W z_i = W x_i$.
# They form a convex set: a flat piece of the box that all images live in.

# %%
drawings.nearest_valid(
    alt="A square, all valid images, crossed by a slanted line, all images with the features of x. On the piece of the line "
        "inside the square lie x and, where the line leaves the square, the valid image nearest to a target outside.")

# %% [markdown]
# `search.toward(x, target)` gives the point of this set nearest to a target. What can be reached? We ask for noise, for a
# cup of coffee, and for a pagoda of which only the fine lines are kept, drawn strongly on the cat.

# %%
generator = torch.Generator().manual_seed(1)
china, coffee = (images.load(name, size=size).double() for name in ("china", "coffee"))
lines = china - torch.from_numpy(gaussian_filter(china.numpy(), (0, 2, 2)))
targets = {"white noise": torch.rand(cat.shape, generator=generator).double(), "coffee": coffee,
           "cat and 6 × fine lines": cat + 6 * lines}
valid = {name: search.toward(cat, target) for name, target in targets.items()}
some = list(targets)[1:]
pictures.images(
    [x for name in some for x in (targets[name], valid[name])],
    [title for name in some for title in (f"target: {name}", f"nearest valid image\n{compare(model, cat, valid[name]).said[1]}")],
    width=2.1, alt="A cup of coffee and the valid collision nearest to it, the cat with a faint rim of the cup. The cat under "
                   "glaring lines of a pagoda and the nearest collision, the cat under an engraving of the pagoda.")

# %%
for name, target in targets.items():
    way, y = target - cat, valid[name]
    hidden = way - search.seen(way)
    print(f"{name:<24}in the null space {hidden.square().sum() / way.square().sum():>4.0%} of the way; "
          f"RMS distance: cat {rms(way):.0f}, nearest {rms(target - y):.0f}")
    assert y.min() >= 0 and y.max() <= 1 and compare(model, cat, y).collides_from == stem

# %% [markdown]
# All three are valid to the last bit, and they collide. How near they come depends on what the way from the cat is made
# of. Of the way to noise a large part lies in the null space. Of the way to another photograph hardly anything does:
# most of it is slow waves of brightness, and those the network sees. So there is no valid cup of coffee. But the *fine lines* of a
# photograph are largely free, and drawn six times as strongly they make an engraving: the pagoda, in plain sight, on a
# picture that to the network is the cat alone.
#
# ## Save it
#
# A PNG file has 256 levels for each number. We save the photograph under a small valid mosaic, open the file, and
# compare. Beside it stand the noise and the engraving, and what JPEG does to the photograph itself.

# %%
def through_file(image, **options):
    """Save a picture in 8 bits with Pillow, open the file, and return what it holds."""
    file = io.BytesIO()
    Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(file, **options)
    return images.from_file(file, size=size).double()


small = search.collide(cat, search.shrink(cat, mosaic, 64)[0], 64)
files = {"PNG, small mosaic": (small, through_file(small, format="png"))}
files |= {f"PNG, {name}": (y, through_file(y, format="png")) for name, y in valid.items()}
files["JPEG of the cat, quality 95"] = cat, through_file(cat, format="jpeg", quality=95, subsampling=0)
for name, (before, saved) in files.items():
    pair = compare(model, cat, saved)
    print(f"{name:<29}moved by at most {255 * (saved - before).abs().max():>4.1f}, RMS {rms(saved - before):.2f}; "
          f"change {pair.changes[stem]:.1e}; {pair.said[1]}")

# %% [markdown]
# Rounding moves a number by at most half a grey level. Its RMS is $1/\sqrt{12}$, or 0.29, and less where many numbers
# are 0 or 1 already, because those stay. It goes in all directions, those that the network sees among them. So the
# collision in the file is no longer exact: the change rises from rounding in float64 to a few thousandths. That is less
# than what JPEG does to the photograph itself. An honest sentence is: a file has *nearly* the features of the
# photograph, as near as 8 bits leave any image.
#
# ## Limits
#
# - SSIM stands in for a person. Whether the cat is still *there* is for you to say. To the network it is.
# - *Nearest* is meant in L2, which knows nothing of what a picture shows.
# - Every number is rounded for itself. Rounding so that the errors cancel in $W$ would do better. Whether two different
#   8-bit images collide *exactly* is a question about integers that this notebook leaves open.
#
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Choose β.** A window has 7·7·3 numbers. Which β changes them by 10 grey levels RMS?

# %%
answer = ...
check = exercises.checker(lambda beta: abs(beta / 147**0.5 - 10) < 0.05)
check(answer)

# %% jupyter={"source_hidden": true}
# β is the length of the change of a window: 10 · √147, about 121.
check(10 * 147**0.5)

# %% [markdown]
# **2. Walk on.** Take the valid image nearest to the coffee and ask again for the nearest one to the coffee, starting
# from *it*. How many grey levels further (RMS) do you get?

# %%
answer = ...
check = exercises.checker(lambda further: further == 0)
check(answer)

# %% jupyter={"source_hidden": true}
# None: both start in the same convex set, and its point nearest to the target is unique.
check(0)

# %% [markdown]
# **3. Give the file more bits.** By what factor would the change after the stem fall with 16 bits instead of 8?

# %%
answer = ...
check = exercises.checker(lambda factor: abs(factor - 65535 / 255) < 3)
check(answer)

# %% jupyter={"source_hidden": true}
# The steps are (2¹⁶ − 1) / (2⁸ − 1) = 257 times as small, and the change is proportional to them.
check(257)
