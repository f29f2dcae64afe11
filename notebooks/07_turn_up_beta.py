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
# One number decides how far a colliding image is from the photograph that it started from. In this notebook you turn it
# from "nobody sees it" to "nobody sees the cat", watch what the network makes of it while you turn, and then ask for
# something harder: colliding images that a file or a screen can hold.
#
# **What you will do**
# - rebuild Figure 4 of the supplement: β from 8 to 8192, by factors of two;
# - move a slider and see picture, prediction and every layer follow;
# - set the distortion that people see against the change that the network sees;
# - find the *valid* colliding image nearest to any target, and save it in 8 bits.
#
# **What you will learn**
# - what β = 512 means in grey levels, and when an image stops being one;
# - why a colliding image can become noise but hardly another photograph;
# - what remains of a collision in a file.
#
# **What you need**: notebook 02. No GPU, no internet; about half a minute on two processor cores.

# %%
import tempfile
from pathlib import Path

import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from collide_utils import claims, images, models, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, panels, pictures

network = "patchnet"
model = models.load(network, dtype=torch.float64)
search = NullSpaceSearch(model)
cat = images.load("chelsea", size=model.input_size)

# %% [markdown]
# ## The claim
#
# Figure 4 of the supplement shows perturbations made of randomly chosen basis vectors, amplified by a growing
# multiplier β, and what they do to a photograph. The distortion grows with β, and the network gives all of the images
# the same prediction. The text ends the series at β = 8192, the caption at β = 2048: they contradict each other. We
# take the longer one.
#
# That the prediction stays was decided in notebook 02, with its condition: windows must not overlap. Here we look at
# the other half, the distortion.
#
# ## Say what β counts
#
# Images are numbers in [0, 1], 255 grey levels apart. A perturbation $v$ has norm 1 in every window, and
# $x' = x + \frac{\beta}{255}\,v$. So **β is the norm of the change of one window, in grey levels**. A window has 7·7·3 = 147
# numbers, and each changes by $\beta / \sqrt{147}$ on average (root mean square). From about β = 1500 on that is half
# of the whole range. The cell checks it.

# %%
betas = [8 * 2**k for k in range(11)]
mosaic = search.random(torch.Generator().manual_seed(0))
colliding = {beta: search.collide(cat, mosaic, beta) for beta in [0, *betas]}
for beta in betas:
    rms = 255 * float((colliding[beta] - cat).square().mean().sqrt())
    outside = float(((colliding[beta] < 0) | (colliding[beta] > 1)).double().mean())
    print(f"β = {beta:>4}: {rms:>6.2f} grey levels RMS, {outside:>4.0%} of the values outside [0, 1]")
    assert abs(rms - beta / 147**0.5) < 1e-4 * beta

# %% [markdown]
# ## Draw Figure 4
#
# Above, the perturbation as it is added (zero is mid-grey); below, the sum. Pictures are clipped to [0, 1]. **The
# network is given the unclipped numbers.** The lower end of the figure shows tensors, then, not photographs: from β =
# 4096 on most of their values lie outside [0, 1]. The relative change, in float64, holds for every layer from the stem
# on: it is below the level that rounding can reach.

# %%
results = {beta: compare(model, cat, colliding[beta]) for beta in colliding}
shown, titles, steps = [], [], list(colliding)
for block in (steps[:4], steps[4:8], steps[8:]):
    shown += [0.5 + colliding[beta] - cat for beta in block] + [colliding[beta] for beta in block]
    titles += [f"β = {beta}" for beta in block]
    titles += [f"{found.predictions[1]}, p = {found.probabilities[1]:.3f}\nrelative change "
               + (f"below {found.bound:.0e}" if found.collides_from else "not rounding")
               for found in (results[beta] for beta in block)]
pictures.images(
    shown, titles, columns=4, width=2.1,
    alt="Twelve values of beta from 0 to 8192 in three blocks of four. In each block the upper row is the "
        "perturbation, grey at first and colour noise in the end, and the lower row the photograph of a cat "
        "plus that perturbation: unchanged, grainy from 128 on, buried in noise at 2048, gone at 8192. Under every one "
        "stands cat with the same probability and a relative change below rounding level.")

# %%
assert all(found.collides_from == "conv1" for beta, found in results.items() if beta)
assert {found.predictions for found in results.values()} == {("cat", "cat")}
print("largest relative change after the stem below 1e-13:",
      max(dict(found.changes)["conv1"] for found in results.values()) < 1e-13)

# %% [markdown]
# ## Turn it yourself
#
# The slider is logarithmic; move it with the mouse or with the arrow keys. The search is in float64, the network here
# in the float32 that it is served in, so what the bars show from the second one on is float32's rounding. *Stay in [0,
# 1]* scales each window of the perturbation down until it fits. Scaled, a null-space vector is still one, so the
# collision stays exact. Clipping would break it.
#
# With your own network and picture: `panels.beta_panel(model, image)`. Without a kernel, Figure 4 above is the still picture
# of it. `make app` serves the panel as a page without code.

# %%
panels.beta_panel(["patchnet", "patchnet-b", "stridenet"], images.names())


# %% [markdown]
# ## Set what people see against what the network sees
#
# Three measures of distortion, taken between the photograph and the *clipped* picture, as a viewer sees it: the root
# mean square error in grey levels, the same in decibels (PSNR), and the structural similarity (SSIM: 1 for equal
# pictures, near 0 for unrelated ones).

# %%
def distortion(x, y):
    """Return RMS error in grey levels, PSNR in dB and SSIM between two pictures, clipped as a screen clips them."""
    x, y = (picture.double().clamp(0, 1).numpy() for picture in (x, y))
    return (255 * ((x - y)**2).mean()**0.5, peak_signal_noise_ratio(x, y, data_range=1),
            structural_similarity(x, y, channel_axis=0, data_range=1))


print(f"{'β':>6}{'RMS':>8}{'PSNR':>7}{'SSIM':>7}")
for beta in betas:
    rms, psnr, ssim = distortion(cat, colliding[beta])
    print(f"{beta:>6}{rms:>8.1f}{psnr:>7.1f}{ssim:>7.3f}")

# %% [markdown]
# The clipped error stops growing where everything is black or white already. The unclipped one doubles with β, for
# ever. Now the same images through the network's first layer, in four number formats.

# %%
series = {"what people see: 1 − SSIM": [1 - distortion(cat, colliding[beta])[2] for beta in betas]}
for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
    rounded = models.load(network, dtype=dtype)
    series["features, " + str(dtype).removeprefix("torch.")] = [
        dict(compare(rounded, cat, colliding[beta]).changes)["conv1"] for beta in betas]
charts.lines(
    betas, series, "The image is lost, the features are not", "β (8-bit grey levels per window)",
    "1 − SSIM, or ‖f(y) − f(x)‖ / ‖f(x)‖",
    alt="Against beta on logarithmic axes: one minus SSIM rises from about 0.002 to 1 and stays there. The "
        "relative feature change after the stem in bfloat16, float16, float32 and float64 is four lines that "
        "are flat and rise only from beta 1024 on, from 1e-2 for bfloat16 down to 1e-15 for float64.")

# %% [markdown]
# The change of the features is rounding: it follows the format, not the distortion. At β = 8192 there is no cat left to
# see, and in float64 the features agree to fourteen digits.
#
# ## Ask for a valid image
#
# Which colliding images are images? They form a convex set: the numbers $z$ with $0 \le z \le 1$ and $W z_i = W x_i$ in
# every window $i$. `search.toward(x, target)` gives the point of it nearest to a target. Each window is a small problem
# of its own, with 147 numbers, 64 equations and 294 bounds, solved for all 1024 windows at once. The photograph itself
# is in the set, so there is always an answer.

# %%
generator = torch.Generator().manual_seed(1)
coffee = images.load("coffee", size=model.input_size)
targets = {"coffee": coffee, "middle grey": torch.full_like(cat, 0.5),
           "white noise": torch.rand(cat.shape, generator=generator), "cat + mosaic, β = 2048": colliding[2048]}
valid = {name: search.toward(cat, target) for name, target in targets.items()}
pairs = {name: compare(model, cat, image) for name, image in valid.items()}
pictures.images(
    [*targets.values(), *valid.values()],
    [f"target: {name}" for name in targets]
    + [f"nearest valid collision\n{pair.predictions[1]}, p = {pair.probabilities[1]:.3f}" for pair in pairs.values()],
    width=2.1,
    alt="Above four targets: a cup of coffee, an even grey, colour noise and the cat buried in noise. Below the valid "
        "colliding images nearest to them, all of the same cat: grainy with a faint rim of the cup, hardly "
        "changed, noisy, and noisier still.")


# %%
def rms(difference):
    return 255 * float(difference.double().square().mean().sqrt())


print(f"{'distance to the target, RMS grey levels':<40}{'cat':>7}{'nearest':>9}{'no bounds':>11}")
for name, target in targets.items():
    change = windows.unfold(search.geometry, target.double() - cat.double())
    unbounded = change - change @ search.basis @ search.basis.T
    print(f"{name:<40}{rms(target - cat):>7.1f}{rms(target - valid[name]):>9.1f}{rms(unbounded):>11.1f}")
    assert valid[name].min() >= 0 and valid[name].max() <= 1
    assert dict(pairs[name].changes)["conv1"] < 1e-10 and pairs[name].collides_from == "conv1"

# %% [markdown]
# All four are valid to the last bit and collide to rounding. But the cup of coffee is out of reach, and the last column
# says why. It is the distance that would be left *without* the bounds 0 and 1: what of the way to the target the stem
# sees. 64 of a window's 147 directions are fixed, and they are not just any: a trained stem looks at smooth colours and
# edges, which is what photographs are made of. The null space holds the rest, mostly fine grain. Of white noise, in
# which all directions are alike, it takes a good half of the energy, 83/147. Of the way from one photograph to another
# it takes next to nothing.
#
# So a valid collision can look like noise over the photograph. It cannot look like another photograph. A network with a
# narrower first layer would have more room.

# %%
change = windows.unfold(search.geometry, coffee.double() - cat.double())
grain = windows.unfold(search.geometry, targets["white noise"].double() - 0.5)
for name, way in (("from the cat to the coffee", change), ("white noise", grain)):
    share = float((way @ search.basis).square().sum() / way.square().sum())
    print(f"share of the energy in the null space, {name}: {share:.0%}")
assert abs(share - 83 / 147) < 0.02


# %% [markdown]
# ## Save it
#
# A PNG file holds 256 levels for each colour. We save the valid images, open the files and compare what is in them with
# the photograph. Beside them, what JPEG does to the *photograph itself*, and white noise of the same size as the
# rounding.

# %%
def through_file(image, suffix, **options):
    """Save a picture in 8 bits with Pillow, open the file, return what it holds."""
    grey_levels = (255 * image).round().byte().permute(1, 2, 0).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"saved{suffix}"
        Image.fromarray(grey_levels).save(path, **options)
        return images.from_file(path, size=image.shape[-1]).double()


files = {f"PNG of the collision toward {name}": (through_file(image, ".png"), image) for name, image in valid.items()}
found = valid["white noise"]
noise = torch.randn(cat.shape, generator=generator, dtype=torch.float64) * rms(files[
    "PNG of the collision toward white noise"][0] - found) / 255
files["that, white noise instead of rounding"] = (found + noise, found)
files["JPEG of the cat, quality 95"] = (through_file(cat, ".jpg", quality=95, subsampling=0), cat)
print(f"{'':<52}{'RMS':>6}{'change':>9}  prediction")
for name, (saved, before) in files.items():
    pair = compare(model, cat, saved)
    stem, label = dict(pair.changes)["conv1"], pair.predictions[1]
    print(f"{name:<52}{rms(saved - before):>6.2f}{stem:>9.1e}  {label}, p = {pair.probabilities[1]:.2f}")
    assert pair.predictions[0] == pair.predictions[1] and 1e-4 < stem < 0.02

# %% [markdown]
# Rounding to 8 bits moves every number by up to 0.29 grey levels RMS ($1/\sqrt{12}$; less where many are exactly 0 or
# 1), in all directions, the visible 64 among them. That ends the *exact* collision: the change rises from $10^{-15}$ to
# a few thousandths. It is what white noise of that size does. A JPEG file of the photograph itself, seven times as far
# from it as rounding brings us, changes the features five times as much. The prediction holds. So the honest sentence
# is: an 8-bit file of a colliding image has *nearly* the features of the photograph, as near as rounding leaves any
# image.
#
# ## The verdict
#
# Does distortion grow with β, on every photograph and at every step? We ask the SSIM of the clipped pictures.

# %%
falls, first, last = [], [], []
for index, name in enumerate(images.names()):
    photograph = images.load(name, size=model.input_size)
    v = search.random(torch.Generator().manual_seed(index))
    ssims = [distortion(photograph, search.collide(photograph, v, beta))[2] for beta in betas]
    falls += (-torch.tensor(ssims).diff()).tolist()
    first, last = [*first, ssims[0]], [*last, ssims[-1]]
print(claims.check("distortion-grows", "holds" if min(falls) > 0 else "fails", smallest_step=min(falls),
                   at_8=min(first), at_8192=max(last)))

# %% [markdown]
# ## Limits
#
# - SSIM and PSNR are stand-ins for a person. Whether the cat is still *there* at β = 2048 is for you to say.
# - *Nearest* means nearest in L2, which knows nothing of what a picture shows. Another distance, or less faith to the
#   target in exchange for structure, may give collisions that look different; not past the 64 fixed directions, though.
# - Rounding is done number by number. Choosing which numbers to round up and which down, so that the errors cancel in $W$,
#   would do better. Whether two different 8-bit images can collide *exactly* is a question about integers, which this
#   notebook does not settle.
#
# ## Exercises
#
# **1. Give a file more bits.** Round the collision toward white noise to 16 bits instead of 8. By what factor does the
# change after the stem fall, and what would you expect?

# %% jupyter={"source_hidden": true}
change = {}
for bits in (8, 16):
    levels = 2**bits - 1
    change[bits] = dict(compare(model, cat, (levels * found).round() / levels).changes)["conv1"]
factor = change[8] / change[16]
print(f"the change falls by a factor of {factor:.0f}; the steps are {65535 // 255} times as small")
assert 230 < factor < 285

# %% [markdown]
# **2. Walk on.** Take the valid collision nearest to the coffee and ask again for the one nearest to the coffee,
# starting from *it*. How far do you get? Why?

# %% jupyter={"source_hidden": true}
again = search.toward(valid["coffee"], coffee)
print(f"moved below 1e-9: {float((again - valid['coffee']).abs().max()) < 1e-9}")
assert float((again - valid["coffee"]).abs().max()) < 1e-9  # the set is the same, and its nearest point unique

# %% [markdown]
# **3. Find the room.** `search.shrink` says which β each window can keep inside [0, 1]. For the mosaic above: how much
# does the median window keep, and the smallest? Why is there a window that can keep nothing?

# %% jupyter={"source_hidden": true}
_, kept = search.shrink(cat, mosaic, 8192)
print(f"the median window keeps β = {float(kept.median()):.0f}, the smallest {float(kept.min()):.1f}")
stuck = windows.unfold(search.geometry, cat)[kept == 0]
print(f"{len(stuck)} windows keep nothing; all of them hold a 0 or a 1 already:",
      bool(((stuck == 0) | (stuck == 1)).any(1).all()))
assert len(stuck) and ((stuck == 0) | (stuck == 1)).any(1).all()
